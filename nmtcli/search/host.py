"""The loop over the steps of a search, with its input and output types. This module does not import torch.

A `SearchProgram` holds a batch, one sentence in a row, and takes the steps; the loop decides which rows stay. Beam
search, greedy search and sampling share it, on a CPU and in CUDA graphs: it deals with row numbers only, and leaves
tensors, shapes and padding to the program.
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

EXTRA_LENGTH = 10  # allowed beyond `max_length` times the source length [tokens]


class Hypothesis(NamedTuple):
    """A finished translation. It can be pickled, so that worker processes can return it.

    Attributes:
        ids: EOS at the end.
        log_probability: sum over all ids, EOS included [nats]; equal to `score` if scores are logits.
        score: hypotheses are ranked by it, highest first.
        attention_TS: weights of each step over the source, in fp32 or better; None unless requested.
    """

    ids: list[int]
    log_probability: float
    score: float
    attention_TS: npt.NDArray[np.floating] | None


class SearchBatch(NamedTuple):
    """Sentences that are searched together.

    Attributes:
        sources: ids, EOS at the end.
        line_numbers: with the seed, they determine the random numbers of sampling.
        max_lengths: longest hypothesis of each, EOS included [tokens]; the last token is forced to be EOS.
    """

    sources: list[list[int]]
    line_numbers: list[int]
    max_lengths: list[int]

    @classmethod
    def of(cls, sources: list[list[int]], line_numbers: list[int], max_length: float) -> Self:
        """Make a batch whose hypotheses have at most `max_length` times the source length plus EXTRA_LENGTH tokens."""
        return cls(sources, line_numbers, [math.floor(max_length * len(ids)) + EXTRA_LENGTH for ids in sources])


class Scoring(Enum):
    """Kinds of hypothesis scores.

    LOG_PROBABILITY: the sum over the tokens, which can only fall as the hypothesis grows.
    LOGIT: the logit of the last token, for models trained by losses/beam.py; it may rise.
    UNSCORED: logits choose the tokens and scores are meaningless. Greedy search with one model then needs no sum over
    the vocabulary.
    """

    LOG_PROBABILITY = auto()
    LOGIT = auto()
    UNSCORED = auto()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options of sampling.

    Attributes:
        top_k, top_p, temperature: arguments of `search.sampling.truncate`.
        seed: seed of the random numbers.
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 1

    def uniform(self, line_numbers: Sequence[int], samples: int, steps: int) -> npt.NDArray[np.float32]:
        """Return random numbers uniform_BKT in [0, 1), which depend on seed and line number, not on the batch."""
        rows = []
        for number in line_numbers:
            key = hashlib.blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()
            random = np.random.default_rng(int.from_bytes(key, "little"))
            rows.append(random.random((steps, samples), dtype=np.float32).T)  # by step: longer rows begin alike
        return np.stack(rows)


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """Settings of a search.

    Attributes:
        beam: K, the beam size, or the number of samples of each sentence.
        bos, eos: ids.
        alpha: exponent of the length penalty.
        beta: weight of the coverage penalty.
        best: a sentence is finished once its best `best` hypotheses are certain; at most K.
        most: largest number of hypotheses to return; None: K.
        scoring: kind of scores.
        with_attention: keep the attention weights of every step.
        sampling: draw tokens with these options; None: beam or greedy search.
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
        """Make the rules of `nmt translate`.

        Args:
            config: the options.
            wanted: number of hypotheses of each sentence: the n best, or n samples.
            scoring: kind of scores; LOGIT turns penalties off.
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
    """The search of one batch. Each row is a sentence; padding rows follow the sentences."""

    def start(self, batch: SearchBatch) -> None:
        """Encode the batch, one sentence in a row, in order."""

    def advance(self) -> None:
        """Take one or more steps."""

    def done(self) -> list[bool]:
        """Return True for each finished row; padding rows count as finished."""

    def rows_for(self, sentences: int) -> int:
        """Return the number of rows for these sentences, padding included; it must not fall as `sentences` rises."""

    def keep(self, rows: list[int]) -> None:
        """Drop all but these rows, put them in this order, and add padding rows up to `rows_for`."""

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """Return the hypotheses of these rows, best first."""


def run_search(program: SearchProgram, batch: SearchBatch) -> list[list[Hypothesis]]:
    """Search a batch; return the hypotheses of each sentence, best first.

    Finished sentences are removed as soon as the others fit in fewer rows.
    """
    results: list[list[Hypothesis]] = [[] for _ in batch.sources]
    sentences = list(range(len(batch.sources)))  # sentence number of each row, without padding rows
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
    """Return the unfinished rows; those that fit keep their places, and later ones fill the gaps, so that few move.

    >>> unfinished([False, True, False, False])
    [0, 3, 2]
    """
    rows = [row for row, is_done in enumerate(done) if not is_done]
    beyond = (row for row in rows if row >= len(rows))
    return [next(beyond) if done[row] else row for row in range(len(rows))]


def rounded_up(number: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on, so that few shapes occur.

    >>> [rounded_up(number) for number in (1, 5, 17, 100)]
    [1, 6, 24, 128]
    """
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power


def length_penalty(length: int, alpha: float) -> float:
    """Return lp(Y) = ((5 + |Y|) / 6) ** alpha, EOS counted.

    Source:
        Wu et al. 2016, eq. 14.

    >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
    (1.0, 2.0)
    """
    return float(((5 + length) / 6) ** alpha)
