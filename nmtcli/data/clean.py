"""Decide which training pairs are kept, and count the others by reason. Memory does not grow with the corpus.

A pair is identified by a 128-bit hash of its two lines, stored as two 64-bit numbers, the higher one first. The hashes
have two uses: duplicates are found by comparing them, on disk; and the pairs with the smallest hashes are a uniform
sample of the distinct pairs, whatever their order.

The rules, in the order in which they apply (a pair counts under the first rule that drops it):

    empty       a side is empty or all white space, or has no tokens
    duplicate   both lines equal those of an earlier pair (`--dedup`)
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

LINE_CHARACTERS = 4000  # lines are cut to this length for the sample [characters]
SAMPLE_CHARACTERS = 15_000_000  # limit for both sides: SentencePiece needs about 50 bytes for each [characters]
_HASH_BYTES = 16
_HASH = np.dtype(">u8")  # one half of a hash
_BUCKETS = 256  # for a billion pairs a bucket has 100 MB; one is in memory at a time
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8")])
RECORDS_AT_ONCE = 1 << 17  # records distributed to buckets at a time


@dataclass(slots=True)
class CleaningReport:
    """Numbers of pairs: `read` in all, dropped by each rule, and `kept`."""

    read: int = 0
    empty: int = 0
    duplicate: int = 0
    too_long: int = 0
    ratio: int = 0
    kept: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts as meta.json stores them [pairs]."""
        return dataclasses.asdict(self)


def is_empty_pair(source: str, target: str) -> bool:
    """Return True if a side is blank; such a pair teaches nothing."""
    return is_blank(source) or is_blank(target)


def dropping_rule(source_length: int, target_length: int, *, max_length: int, max_ratio: float) -> str | None:
    """Return the length rule that drops a pair, by its name in `CleaningReport`, or None.

    Args:
        source_length, target_length: lengths of the pair, EOS not counted [tokens].
        max_length: largest length of either side; 0: no limit [tokens].
        max_ratio: largest ratio of the longer to the shorter side; 0: no limit.
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
    """Return the 128-bit hash of a pair. A source has no "\\n", so different pairs never join to the same bytes."""
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=_HASH_BYTES).digest()


def hash_numbers(digests: bytes) -> npt.NDArray[np.uint64]:
    """Convert concatenated hashes to two numbers each."""
    return np.frombuffer(digests, _HASH).astype(np.uint64)


class Sample:
    """The pairs with the smallest hashes: a uniform sample of the distinct pairs that were offered.

    The sample depends neither on the order of the pairs nor on how often each one occurs: it is the same as sorting all
    distinct pairs by hash and taking pairs until a limit is reached. One pass; only the sample is in memory.

    Args:
        size: largest number of pairs [pairs].
        characters: largest number of characters on both sides, lines cut to LINE_CHARACTERS [characters].

    Attributes:
        below: upper bound, exclusive, of the hashes that can still enter the sample, as a number.
    """

    def __init__(self, size: int, characters: int = SAMPLE_CHARACTERS) -> None:
        self._size = size
        self._characters = characters
        self._heap: list[tuple[int, str, str]] = []  # hashes are negated, so that the largest is first
        self._hashes: set[int] = set()
        self.below = 1 << 8 * _HASH_BYTES

    def offer(self, source: str, target: str, digest: bytes) -> bool:
        """Add a pair to the sample if its hash is small enough and new; return True if it was added."""
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
        """Return the sampled pairs, in the order of their hashes."""
        return [(source, target) for _, source, target in sorted(self._heap, reverse=True)]


class Duplicates:
    """Finds duplicate pairs in bounded memory: hashes go to disk, then into buckets, which are sorted one by one.

    Call `add` for all pairs, then `find` once.

    Args:
        hashes: the file that receives the hashes.
        directory: where the buckets and the result are written.
    """

    def __init__(self, hashes: GrowingFile, directory: Path) -> None:
        self._hashes = hashes
        self._directory = directory

    def add(self, hashes: npt.NDArray[np.uint64], numbers: npt.NDArray[np.integer]) -> None:
        """Record the hashes of pairs, two numbers each, and the pairs' own numbers [from 0, ascending]."""
        records = np.empty(len(numbers), _RECORD)
        records["high"], records["low"], records["number"] = hashes[::2], hashes[1::2], numbers
        self._hashes.write(records.tobytes())

    def find(self, pairs: int) -> Path:
        """Compare all hashes; the first pair of a group with equal hashes is not a duplicate.

        Args:
            pairs: number of all pairs, including those that were not added.
        Returns:
            a .npy file with a flag for each pair, True if an earlier pair is equal.
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
            records = records[np.lexsort((records["low"], records["high"]))]  # stable: equal hashes keep their order
            repeats = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
            flags[records["number"][1:][repeats].astype(np.int64)] = True
        flags.flush()
        return answer
