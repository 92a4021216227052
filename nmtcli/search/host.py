"""The loop over the steps of a search, with its input and output types. This module does not import torch.

A `SearchProgram` holds a batch, one sentence per row, and takes the steps; the loop decides which rows to keep. Beam
search, greedy search and sampling share this loop, on a CPU and in CUDA graphs: the loop handles row indices only, and
leaves tensors, shapes and padding to the program.
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

EXTRA_LENGTH = 10  # added to `max_length` times the source length to give the maximum length [tokens]


class Hypothesis(NamedTuple):
    """A finished hypothesis; picklable, so that worker processes can return it.

    Attributes:
        ids: token ids, ending in EOS.
        log_probability: sum of the log-probabilities of all tokens, EOS included [nats]; if scores are logits, `score`.
        score: the value by which hypotheses are ranked, highest first.
        attention_TS: attention weights over the source at each step, in fp32 or better; None unless requested.
    """

    ids: list[int]
    log_probability: float
    score: float
    attention_TS: npt.NDArray[np.floating] | None


class SearchBatch(NamedTuple):
    """Source sentences that are searched together.

    Attributes:
        sources: token ids of each sentence, ending in EOS.
        line_numbers: line number of each sentence; seed and line number determine the random numbers for sampling.
        max_lengths: maximum length of each sentence's hypotheses, EOS included [tokens]; EOS is forced at this length.
    """

    sources: list[list[int]]
    line_numbers: list[int]
    max_lengths: list[int]

    @classmethod
    def of(cls, sources: list[list[int]], line_numbers: list[int], max_length: float) -> Self:
        """Make a batch whose hypotheses have at most max_length * source length + EXTRA_LENGTH tokens."""
        return cls(sources, line_numbers, [math.floor(max_length * len(ids)) + EXTRA_LENGTH for ids in sources])


class Scoring(Enum):
    """Kinds of hypothesis scores.

    LOG_PROBABILITY: sum of the tokens' log-probabilities, which can only fall as the hypothesis grows.
    LOGIT: logit of the last token, which may rise; for models trained with --loss beam (losses/beam.py).
    UNSCORED: tokens are chosen by logits, and scores are meaningless; greedy search with one model then needs no sum
    over the vocabulary.
    """

    LOG_PROBABILITY = auto()
    LOGIT = auto()
    UNSCORED = auto()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options for sampling.

    Attributes:
        top_k, top_p, temperature: arguments of `search.sampling.truncate`.
        seed: seed of the random numbers.
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 1

    def uniform(self, line_numbers: Sequence[int], samples: int, steps: int) -> npt.NDArray[np.float32]:
        """Return uniform_BKT: random numbers in [0, 1) that depend on seed and line number, but not on the batch."""
        rows = []
        for number in line_numbers:
            key = hashlib.blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()
            random = np.random.default_rng(int.from_bytes(key, "little"))
            # Drawn step by step: a larger `steps` must not change the numbers for the first steps.
            rows.append(random.random((steps, samples), dtype=np.float32).T)
        return np.stack(rows)


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """Settings of a search.

    Attributes:
        beam: K, the beam size or, for sampling, the number of samples per sentence.
        bos, eos: token ids.
        alpha: exponent of the length penalty.
        beta: weight of the coverage penalty.
        best: n: the search for a sentence ends once its n best hypotheses can no longer change; at most K.
        most: maximum number of hypotheses to return per sentence; None: K.
        scoring: kind of hypothesis scores.
        with_attention: if True, record the attention weights of every step.
        sampling: options for sampling; None: beam or greedy search.
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
        """Make the rules for `nmt translate` from its options.

        Args:
            config: the search options.
            wanted: number of hypotheses requested per sentence: the n best, or n samples.
            scoring: kind of hypothesis scores; LOGIT turns the length and coverage penalties off.
            with_attention: if True, record the attention weights of every step.
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
    """The search for one batch. Each row holds a sentence; padding rows follow the sentences."""

    def start(self, batch: SearchBatch) -> None:
        """Encode the batch: one sentence per row, in the order of the batch."""

    def advance(self) -> None:
        """Take one or more steps."""

    def done(self) -> list[bool]:
        """Return one boolean per row: True for finished sentences and for padding rows."""

    def rows_for(self, sentences: int) -> int:
        """Return the number of rows for `sentences` sentences, padding included.

        More sentences never need fewer rows.
        """

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order, and add padding rows until there are `rows_for(len(rows))`."""

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of each of these rows, best first."""


def run_search(program: SearchProgram, batch: SearchBatch) -> list[list[Hypothesis]]:
    """Search a batch; return the hypotheses of each sentence, best first.

    Finished sentences are removed as soon as the others fit in fewer rows.
    """
    results: list[list[Hypothesis]] = [[] for _ in batch.sources]
    sentences = list(range(len(batch.sources)))  # index of the sentence in each row; padding rows are left out
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
    """Return the indices of the unfinished rows, in an order that moves few rows.

    Of n unfinished rows, those among the first n rows stay where they are; the others fill the gaps.

    >>> unfinished([False, True, False, False])
    [0, 3, 2]
    """
    rows = [row for row, is_done in enumerate(done) if not is_done]
    beyond = (row for row in rows if row >= len(rows))
    return [next(beyond) if done[row] else row for row in range(len(rows))]


def rounded_up(number: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on, to keep the number of distinct shapes small.

    >>> [rounded_up(number) for number in (1, 5, 17, 100)]
    [1, 6, 24, 128]
    """
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power


def length_penalty(length: int, alpha: float) -> float:
    """Return the length penalty lp(Y) = ((5 + |Y|) / 6) ** alpha, where |Y| counts EOS.

    Source:
        Wu et al. 2016, eq. 14.

    >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
    (1.0, 2.0)
    """
    return float(((5 + length) / 6) ** alpha)
