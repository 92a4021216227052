"""Which training pairs are kept, and why the others are not. Memory does not grow with the corpus.

A pair is known by a hash of 128 bits of its two lines. The hashes serve twice: equal pairs are found by them, on disk;
and the pairs whose hashes are the smallest are a uniform sample of the distinct pairs, whatever their order.

The rules, in the order in which a pair meets them (it is counted under the first that drops it):

    empty       a side is empty or all white space, or nothing is left of it as tokens
    duplicate   both lines are those of a pair before it (`--dedup`)
    too_long    a side has more than `--max-length` tokens, EOS not counted
    ratio       one side has more than `--max-ratio` times as many tokens as the other
"""

import dataclasses
import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmtcli.data.text import is_blank

LINE_CHARACTERS = 4000  # of a line that are sampled [characters]
SAMPLE_CHARACTERS = 15_000_000  # of a sample, both sides: SentencePiece needs about 50 bytes for each [characters]
_HASH_BYTES = 16
_BUCKETS = 256  # a bucket of a billion pairs is 100 MB, in memory one at a time
_RECORD = np.dtype([("high", ">u8"), ("low", ">u8"), ("number", ">u8")])
_BUFFERED = 1 << 20  # hashes kept in memory before they are written [bytes]


@dataclass(slots=True)
class CleaningReport:
    """How many pairs each rule dropped; what is left of `read` is `kept`."""

    read: int = 0
    empty: int = 0
    duplicate: int = 0
    too_long: int = 0
    ratio: int = 0
    kept: int = 0

    def to_dict(self) -> dict[str, int]:
        """The counts as meta.json has them [pairs]."""
        return dataclasses.asdict(self)


def is_empty_pair(source: str, target: str) -> bool:
    """True where a side is blank: such a pair teaches nothing."""
    return is_blank(source) or is_blank(target)


def dropping_rule(source_length: int, target_length: int, *, max_length: int, max_ratio: float) -> str | None:
    """The rule of lengths that drops a pair, by its name in the report, or None.

    Args:
        source_length, target_length: EOS not counted [tokens].
        max_length: 0: any [tokens].
        max_ratio: 0: any.
    """
    shorter, longer = sorted((source_length, target_length))
    if shorter == 0:
        return "empty"
    if max_length and longer > max_length:
        return "too_long"
    if max_ratio and longer > max_ratio * shorter:
        return "ratio"
    return None


def pair_hash(source: str, target: str) -> bytes:
    """128 bits by which a pair is known. A source holds no "\\n", so that no two pairs are joined to the same bytes."""
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=_HASH_BYTES).digest()


class Sample:
    """The pairs with the smallest hashes: a uniform sample of the distinct pairs that were offered.

    It does not depend on the order of the pairs, nor on how often each one came: it is as if all of them were sorted by
    their hashes and taken until a limit is reached. One pass; memory is that of the sample.

    Args:
        size: pairs at most [pairs].
        characters: of both sides at most, after each line was cut to LINE_CHARACTERS [characters].
    """

    def __init__(self, size: int, characters: int = SAMPLE_CHARACTERS) -> None:
        self._size = size
        self._characters = characters
        self._heap: list[tuple[int, str, str]] = []  # hashes are negated: the largest is first
        self._hashes: set[int] = set()
        self._below = 1 << 8 * _HASH_BYTES  # what has this hash or a larger one is out for good

    def offer(self, source: str, target: str, digest: bytes) -> None:
        """Takes a pair into the sample, if its hash is small enough and not there yet."""
        number = int.from_bytes(digest)
        if number >= self._below or number in self._hashes:
            return
        source, target = source[:LINE_CHARACTERS], target[:LINE_CHARACTERS]
        heapq.heappush(self._heap, (-number, source, target))
        self._hashes.add(number)
        self._characters -= len(source) + len(target)
        while len(self._heap) > self._size or self._characters < 0:
            negated, source, target = heapq.heappop(self._heap)
            self._below = -negated
            self._hashes.remove(self._below)
            self._characters += len(source) + len(target)

    def pairs(self) -> list[tuple[str, str]]:
        """The sampled pairs, in the order of their hashes."""
        return [(source, target) for _, source, target in sorted(self._heap, reverse=True)]


class Duplicates:
    """Finds the pairs that came before, with bounded memory: hashes go to buckets on disk, and each bucket is sorted.

    First `add` for every pair, then `find` once.

    Args:
        directory: an empty directory for the buckets and the answer.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._buffered = 0

    def add(self, digest: bytes, number: int) -> None:
        """Notes that pair `number` [from 0, ascending] has this hash."""
        record = digest + number.to_bytes(8)
        self._buckets[digest[0]] += record
        self._buffered += len(record)
        if self._buffered >= _BUFFERED:
            self._flush()

    def find(self, pairs: int) -> "DuplicateFlags":
        """Compares all hashes; the first of equal ones is no duplicate.

        Args:
            pairs: how many pairs there are, those that were not added included.
        """
        self._flush()
        flags = np.lib.format.open_memmap(self._answer, mode="w+", dtype=np.bool_, shape=(max(pairs, 1),))
        for bucket in range(_BUCKETS):
            path = self._bucket_path(bucket)
            if not path.exists():
                continue
            records = np.fromfile(path, dtype=_RECORD)
            path.unlink()
            records = records[np.lexsort((records["low"], records["high"]))]  # stable: equal ones stay in order
            repeats = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            flags[records["number"][1:][repeats].astype(np.int64)] = True
        flags.flush()
        return DuplicateFlags(self._answer)

    @property
    def _answer(self) -> Path:
        return self._directory / "duplicates.npy"

    def _bucket_path(self, bucket: int) -> Path:
        return self._directory / f"hashes.{bucket:03d}"

    def _flush(self) -> None:
        for bucket, records in enumerate(self._buckets):
            if records:
                with self._bucket_path(bucket).open("ab") as file:
                    file.write(records)
                records.clear()
        self._buffered = 0


class DuplicateFlags:
    """One boolean for each pair, read from disk in order: True where the pair came before.

    Args:
        path: a `.npy` file of booleans.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bool]:
        flags = np.load(self._path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(flags), 1 << 16):
            yield from flags[start : start + (1 << 16)].tolist()
