"""The loop over the steps of a search, what goes into it and what comes out. Nothing here imports torch.

A `SearchProgram` holds a batch of sentences, one a row, and takes the steps; this loop decides which rows stay. It is
the same for beam search, greedy search and sampling, on a CPU and in CUDA graphs, because rows are all that it knows:
tensors, shapes and padding are the program's own business.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from nmtcli.config import SearchConfig
from nmtcli.data.subword import BOS, EOS

EXTRA_LENGTH = 10  # longest output beyond its multiple of the source [tokens]


class Hypothesis(NamedTuple):
    """A finished translation. It pickles, so that it can come from another process.

    Attributes:
        ids: EOS at the end.
        log_probability: of all ids, EOS included [nats]; if scores are logits, the score.
        score: what hypotheses are ranked by.
        attention_TS: weights of each step over the source, in fp32 or better; None unless asked for.
    """

    ids: list[int]
    log_probability: float
    score: float
    attention_TS: npt.NDArray[np.floating] | None


class SearchBatch(NamedTuple):
    """Sentences that are searched together.

    Attributes:
        sources: ids, EOS at the end.
        line_numbers: what samples depend on, beside the seed.
        max_lengths: longest hypothesis of each, EOS counted; there EOS is the only choice [tokens].
    """

    sources: list[list[int]]
    line_numbers: list[int]
    max_lengths: list[int]

    @classmethod
    def of(cls, sources: list[list[int]], line_numbers: list[int], max_length: float) -> Self:
        """A batch whose hypotheses have at most `max_length` times the source's tokens, and EXTRA_LENGTH more."""
        return cls(sources, line_numbers, [math.floor(max_length * len(ids)) + EXTRA_LENGTH for ids in sources])


class Scoring(Enum):
    """What the score of a hypothesis is.

    LOG_PROBABILITY is the sum over its tokens, which can only fall as the hypothesis grows. LOGIT is the logit of its
    last token, as models are trained by losses/beam.py; it may rise. UNSCORED hypotheses are found by logits too, and
    their scores mean nothing: greedy search with one model needs no sum over the vocabulary if nobody reads scores.
    """

    LOG_PROBABILITY = auto()
    LOGIT = auto()
    UNSCORED = auto()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        top_k, top_p, temperature: see `search.sampling.truncate`.
        seed: fixes the random numbers.
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 1

    def uniform(self, line_numbers: Sequence[int], samples: int, steps: int) -> npt.NDArray[np.float32]:
        """Random numbers uniform_BKT in [0, 1): a function of seed and line number, whatever else is in the batch."""
        rows = []
        for number in line_numbers:
            key = hashlib.blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()
            random = np.random.default_rng(int.from_bytes(key, "little"))
            rows.append(random.random((steps, samples), dtype=np.float32).T)  # by step: any length begins alike
        return np.stack(rows)


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """What never changes in a search.

    Attributes:
        beam: K, hypotheses of a sentence: the beam, or the samples.
        bos, eos: ids.
        alpha: of the length penalty.
        beta: of the coverage penalty.
        best: the search of a sentence ends once it is certain of its best so many hypotheses; at most K.
        most: most hypotheses to return; None: K.
        scoring: what scores are.
        with_attention: keep the attention weights of every step.
        sampling: how to draw tokens; None: search for the best.
    """

    beam: int
    bos: int = BOS
    eos: int = EOS
    alpha: float = 0.0
    beta: float = 0.0
    best: int = 1
    most: int | None = None
    scoring: Scoring = Scoring.LOG_PROBABILITY
    with_attention: bool = False
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.scoring is Scoring.UNSCORED and (self.beam > 1 or self.sampling):
            raise ValueError("UNSCORED is for greedy search: only scores can rank several hypotheses")

    @classmethod
    def from_config(
        cls,
        config: SearchConfig,
        *,
        wanted: int = 1,
        scoring: Scoring = Scoring.LOG_PROBABILITY,
        with_attention: bool = False,
    ) -> Self:
        """The rules of `nmt translate`.

        Args:
            config: the options.
            wanted: hypotheses of each sentence: the n best, or n samples.
            scoring: no penalty goes with LOGIT.
            with_attention: keep attention weights.
        """
        has_penalties = scoring is not Scoring.LOGIT
        sampling = Sampling(top_k=config.top_k, top_p=config.top_p, temperature=config.temperature, seed=config.seed)
        return cls(
            beam=wanted if config.sample else config.beam,
            alpha=config.length_penalty if has_penalties else 0.0,
            beta=config.coverage_penalty if has_penalties else 0.0,
            best=wanted,
            most=wanted,
            scoring=scoring,
            with_attention=with_attention,
            sampling=sampling if config.sample else None,
        )


class SearchProgram(Protocol):
    """One search of a batch. A row is a sentence, or padding, which stands behind the sentences."""

    def start(self, batch: SearchBatch) -> None:
        """Take the batch, one row a sentence in its order, before the first step."""

    def advance(self) -> None:
        """Take one step or several."""

    def done(self) -> list[bool]:
        """For each row, whether its search has ended; True for padding rows."""

    def rows_for(self, sentences: int) -> int:
        """Number of rows to hold this many sentences; it rises with them."""

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only, in this order, and with padding rows up to `rows_for`."""

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """The hypotheses of these rows, best first."""


def run_search(program: SearchProgram, batch: SearchBatch) -> list[list[Hypothesis]]:
    """Search a batch: for each sentence its hypotheses, best first.

    A finished sentence leaves as soon as the program can hold the others in fewer rows.
    """
    results: list[list[Hypothesis]] = [[] for _ in batch.sources]
    sentences = list(range(len(batch.sources)))  # of each row, but padding rows
    program.start(batch)
    while sentences:
        program.advance()
        done = program.done()
        kept = unfinished(done)
        if kept and program.rows_for(len(kept)) == len(done):
            continue
        leaving = [row for row in range(len(sentences)) if done[row]]
        for row, hypotheses in zip(leaving, program.results(leaving), strict=True):
            results[sentences[row]] = hypotheses
        if kept:
            program.keep(kept)
        sentences = [sentences[row] for row in kept]
    return results


def unfinished(done: Sequence[bool]) -> list[int]:
    """The rows that go on, each in its place unless that is beyond their number: few have to be moved.

    >>> unfinished([False, True, False, False])
    [0, 3, 2]
    """
    rows = [row for row, is_done in enumerate(done) if not is_done]
    beyond = (row for row in rows if row >= len(rows))
    return [next(beyond) if done[row] else row for row in range(len(rows))]


def rounded_up(number: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on, for shapes that must come again.

    >>> [rounded_up(number) for number in (1, 5, 17, 100)]
    [1, 6, 24, 128]
    """
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = ((5 + |Y|) / 6) ** alpha, EOS counted.

    Source:
        Wu et al. 2016, eq. 14.

    >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
    (1.0, 2.0)
    """
    return float(((5 + length) / 6) ** alpha)
