"""The work of `nmt preprocess` on one block of neighbouring pairs.

The first pass examines a block: it hashes the pairs, finds candidates for the vocabulary sample and counts user words.
The second pass encodes the pairs and drops some by the rules of clean.py. The result depends only on the pairs, not on
the process or machine that works on the block.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtcli.data.clean import LINE_CHARACTERS, dropping_rule, hash_numbers, is_empty_pair, pair_hash
from nmtcli.data.subword import Subword
from nmtcli.data.text import PairBlock
from nmtcli.data.user_words import WordCounter
from nmtcli.data.writing import token_dtype

Candidate = tuple[bytes, str, str]  # hash, source and target


@dataclass(frozen=True, slots=True)
class Examined:
    """Result of the first pass over a block.

    Attributes:
        pairs: number of pairs.
        numbers: indices, within the block, of the pairs without a blank side.
        hashes: hashes of these pairs, two numbers for each pair.
        candidates: pairs that may enter the vocabulary sample (see `Sample`).
        words: number of occurrences of each user word, in the source and in the target.
    """

    pairs: int
    numbers: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    candidates: list[Candidate]
    words: tuple[Counter[str], Counter[str]]


class Examiner:
    """The first pass over a block of pairs.

    Args:
        words: the user words to count.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._counter = WordCounter(words)

    def __reduce__(self) -> tuple[type["Examiner"], tuple[list[str]]]:
        return Examiner, (self._words,)

    def __call__(self, item: tuple[PairBlock, int]) -> Examined:
        """Examine a block; `item` is (block, below): pairs with a hash below `below` are candidates (see `Sample`)."""
        block, below = item
        pairs = block.pairs()
        numbers = [number for number, pair in enumerate(pairs) if not is_empty_pair(*pair)]
        pairs = [pairs[number] for number in numbers]
        digests = [pair_hash(*pair) for pair in pairs]
        candidates = [
            (digest, source[:LINE_CHARACTERS], target[:LINE_CHARACTERS])
            for digest, (source, target) in zip(digests, pairs, strict=True)
            if int.from_bytes(digest) < below
        ]
        words = (Counter[str](), Counter[str]())
        if self._words:
            words = (self._counter.count(pair[0] for pair in pairs), self._counter.count(pair[1] for pair in pairs))
        return Examined(
            block.count, np.array(numbers, dtype=np.int64), hash_numbers(b"".join(digests)), candidates, words
        )


@dataclass(frozen=True, slots=True)
class Sentences:
    """One side of several pairs: the concatenated ids and the length of each sentence, EOS counted [tokens]."""

    tokens: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Result of the second pass over a block.

    Attributes:
        pairs: number of pairs before cleaning.
        source, target: the two sides of the kept pairs.
        hashes: hashes of the kept pairs, two numbers for each pair; empty unless `Encoder.hashing` is True.
        dropped: number of pairs dropped by each rule.
    """

    pairs: int
    source: Sentences
    target: Sentences
    hashes: npt.NDArray[np.uint64]
    dropped: Counter[str]


@dataclass(frozen=True, slots=True)
class Encoder:
    """The second pass over a block of pairs: clean the pairs and convert text to ids.

    Args:
        source, target: the subword models.
        max_length, max_ratio: as for `dropping_rule`.
        hashing: if True, also return the hashes of the kept pairs.
    """

    source: Subword
    target: Subword
    max_length: int
    max_ratio: float
    hashing: bool

    def __call__(self, item: tuple[PairBlock, npt.NDArray[np.bool_] | None]) -> Encoded:
        """Encode a block.

        Args:
            item: (block, flags), where `flags` has True for each pair that is a duplicate; None: keep duplicates.
        """
        block, repeats = item
        dropped: Counter[str] = Counter()
        pairs = []
        for pair, came_before in zip(
            block.pairs(), itertools.repeat(False) if repeats is None else repeats, strict=False
        ):
            if is_empty_pair(*pair):
                dropped["empty"] += 1
            elif came_before:
                dropped["duplicate"] += 1
            else:
                pairs.append(pair)
        sources, targets, digests = [], [], []
        source_ids = self.source.encode_many([source for source, _ in pairs])
        target_ids = self.target.encode_many([target for _, target in pairs])
        for pair, source, target in zip(pairs, source_ids, target_ids, strict=True):
            rule = dropping_rule(len(source) - 1, len(target) - 1, max_length=self.max_length, max_ratio=self.max_ratio)
            if rule:
                dropped[rule] += 1
                continue
            sources.append(source)
            targets.append(target)
            if self.hashing:
                digests.append(pair_hash(*pair))
        return Encoded(
            block.count,
            _packed(sources, self.source.size),
            _packed(targets, self.target.size),
            hash_numbers(b"".join(digests)),
            dropped,
        )


def _packed(sentences: list[list[int]], vocabulary_size: int) -> Sentences:
    tokens = np.fromiter(itertools.chain.from_iterable(sentences), dtype=token_dtype(vocabulary_size))
    return Sentences(tokens, np.fromiter(map(len, sentences), dtype=np.int64))
