"""Which training pairs are kept, and why the others are not. Memory does not grow with the corpus.

A pair is known by a hash of 128 bits of its two lines, as two numbers of 64 bits, the higher one first. The hashes
serve twice: equal pairs are found by them, on disk; and the pairs whose hashes are the smallest are a uniform sample of
the distinct pairs, whatever their order.

The rules, in the order in which a pair meets them (it is counted under the first that drops it):

    empty       a side is empty or all white space, or nothing is left of it as tokens
    duplicate   both lines are those of a pair before it (`--dedup`)
    too_long    a side has more than `--max-length` tokens, EOS not counted
    ratio       one side has more than `--max-ratio` times as many tokens as the other
"""

import dataclasses
import hashlib
import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nmtcli.data.files import GrowingFile, open_to_read, remove_file
from nmtcli.data.text import is_blank

LINE_CHARACTERS = 4000  # of a line that are sampled [characters]
SAMPLE_CHARACTERS = 15_000_000  # of a sample, both sides: SentencePiece needs about 50 bytes for each [characters]
_HASH_BYTES = 16
_HASH = np.dtype(">u8")  # half of one
_BUCKETS = 256  # a bucket of a billion pairs is 100 MB, in memory one at a time
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8")])
RECORDS_AT_ONCE = 1 << 17  # records sorted into buckets at a time


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


def hash_numbers(digests: bytes) -> npt.NDArray[np.uint64]:
    """Hashes one after the other -> two numbers for each."""
    return np.frombuffer(digests, _HASH).astype(np.uint64)


class Sample:
    """The pairs with the smallest hashes: a uniform sample of the distinct pairs that were offered.

    It does not depend on the order of the pairs, nor on how often each one came: it is as if all of them were sorted by
    their hashes and taken until a limit is reached. One pass; memory is that of the sample.

    Args:
        size: pairs at most [pairs].
        characters: of both sides at most, after each line was cut to LINE_CHARACTERS [characters].

    Attributes:
        below: a pair whose hash, as a number, is not below this one is out for good.
    """

    def __init__(self, size: int, characters: int = SAMPLE_CHARACTERS) -> None:
        self._size = size
        self._characters = characters
        self._heap: list[tuple[int, str, str]] = []  # hashes are negated: the largest is first
        self._hashes: set[int] = set()
        self.below = 1 << 8 * _HASH_BYTES

    def offer(self, source: str, target: str, digest: bytes) -> bool:
        """Takes a pair into the sample, if its hash is small enough and not there yet; says whether."""
        number = int.from_bytes(digest)
        if number >= self.below or number in self._hashes:
            return False
        source, target = source[:LINE_CHARACTERS], target[:LINE_CHARACTERS]
        heapq.heappush(self._heap, (-number, source, target))
        self._hashes.add(number)
        self._characters -= len(source) + len(target)
        while len(self._heap) > self._size or self._characters < 0:
            negated, source, target = heapq.heappop(self._heap)
            self.below = -negated
            self._hashes.remove(self.below)
            self._characters += len(source) + len(target)
        return True

    def pairs(self) -> list[tuple[str, str]]:
        """The sampled pairs, in the order of their hashes."""
        return [(source, target) for _, source, target in sorted(self._heap, reverse=True)]


class Duplicates:
    """Finds the pairs that came before, with bounded memory: hashes go to disk, then to buckets, each of which is
    sorted.

    First `add` for every pair, then `find` once.

    Args:
        hashes: takes the hashes.
        directory: for the buckets and the answer.
    """

    def __init__(self, hashes: GrowingFile, directory: Path) -> None:
        self._hashes = hashes
        self._directory = directory

    def add(self, hashes: npt.NDArray[np.uint64], numbers: npt.NDArray[np.integer]) -> None:
        """Notes the hashes of pairs, two numbers for each, and their own numbers [from 0, ascending]."""
        records = np.empty(len(numbers), _RECORD)
        records["high"], records["low"], records["number"] = hashes[::2], hashes[1::2], numbers
        self._hashes.write(records.tobytes())

    def find(self, pairs: int) -> Path:
        """Compares all hashes; the first of equal ones is no duplicate.

        Args:
            pairs: how many pairs there are, those that were not added included.
        Returns:
            a .npy file: for each pair True where it came before.
        """
        self._hashes.close()
        answer = self._directory / "duplicates.npy"
        flags = np.lib.format.open_memmap(answer, mode="w+", dtype=np.bool_, shape=(max(pairs, 1),))
        buckets = [GrowingFile(self._directory / f"hashes.{bucket:03d}") for bucket in range(_BUCKETS)]
        with open_to_read(self._hashes.path) as file:
            while len(records := np.fromfile(file, _RECORD, RECORDS_AT_ONCE)):
                bucket_of = (records["high"] >> np.uint64(56)).astype(np.uint8)
                records = records[np.argsort(bucket_of, kind="stable")]
                ends = np.cumsum(np.bincount(bucket_of, minlength=_BUCKETS))[:-1]
                for bucket, part in zip(buckets, np.split(records, ends), strict=True):
                    bucket.write(part.tobytes())
        for bucket in buckets:
            bucket.close()
            records = np.fromfile(bucket.path, _RECORD)
            remove_file(bucket.path)
            records = records[np.lexsort((records["low"], records["high"]))]  # stable: equal ones stay in order
            repeats = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            flags[records["number"][1:][repeats].astype(np.int64)] = True
        flags.flush()
        return answer
