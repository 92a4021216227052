"""Decide which training pairs are kept, and count the dropped pairs by reason, in bounded memory.

A pair is identified by a 128-bit hash of its two lines, stored as two 64-bit numbers, the more significant one first.
The hashes have two uses: duplicates are found by comparing hashes on disk, and the pairs with the smallest hashes are
a uniform sample of the distinct pairs, independent of the order of the text.

The rules, in the order in which they apply (a pair is counted under the first rule that drops it):

    empty       a side is empty, consists of white space, or has no tokens
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

LINE_CHARACTERS = 4000  # lines in the sample are cut to this length [characters]
SAMPLE_CHARACTERS = 15_000_000  # maximum of a sample, both sides; SentencePiece needs about 50 bytes per character
_HASH_BYTES = 16
_HASH = np.dtype(">u8")  # one half of a hash
_BUCKETS = 256  # with a billion pairs, a bucket has 100 MB; only one bucket is in memory at a time
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8")])
RECORDS_AT_ONCE = 1 << 17  # number of records that are distributed to buckets at a time


@dataclass(slots=True)
class CleaningReport:
    """Pair counts: `read` in total, the number dropped by each rule, and the number `kept`."""

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
    """Return True if either side is blank, so that there is nothing to learn from the pair."""
    return is_blank(source) or is_blank(target)


def dropping_rule(source_length: int, target_length: int, *, max_length: int, max_ratio: float) -> str | None:
    """Return the name of the length rule that drops a pair, a field of `CleaningReport`; None if the pair is kept.

    Args:
        source_length, target_length: length of each side, EOS not counted [tokens].
        max_length: maximum length of either side; 0: no limit [tokens].
        max_ratio: maximum ratio of the longer to the shorter side; 0: no limit.
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
    """Return the 128-bit hash of a pair.

    The two lines are joined by "\\n", which no source contains, so that different pairs never hash the same bytes.
    """
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=_HASH_BYTES).digest()


def hash_numbers(digests: bytes) -> npt.NDArray[np.uint64]:
    """Convert concatenated hashes to an array of 64-bit numbers, two for each hash."""
    return np.frombuffer(digests, _HASH).astype(np.uint64)


class Sample:
    """The pairs with the smallest hashes: a uniform sample of the distinct pairs that were offered.

    The sample depends neither on the order of the pairs nor on how often each pair occurs: the result is the same as
    sorting all distinct pairs by hash and taking pairs from the start until a limit is reached. Pairs are offered one
    by one, and only the sample is in memory.

    Args:
        size: maximum size of the sample [pairs].
        characters: maximum size of the sample, both sides together; each line is first cut to LINE_CHARACTERS
            [characters].

    Attributes:
        below: only pairs whose hash, as an integer, is below this number can still enter the sample.
    """

    def __init__(self, size: int, characters: int = SAMPLE_CHARACTERS) -> None:
        self._size = size
        self._characters = characters
        self._heap: list[tuple[int, str, str]] = []  # hashes are negated, so that the largest hash is first
        self._hashes: set[int] = set()
        self.below = 1 << 8 * _HASH_BYTES

    def offer(self, source: str, target: str, digest: bytes) -> bool:
        """Add a pair if its hash (see `pair_hash`) is new and below `below`; otherwise return False.

        While the sample exceeds a limit, the pair with the largest hash is removed.
        """
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
    """A search for duplicate pairs in bounded memory: hashes are written to disk and sorted there, bucket by bucket.

    Call `add` for all pairs, then `find` once.

    Args:
        hashes: the file to which the hashes are written.
        directory: directory for the buckets and the result.
    """

    def __init__(self, hashes: GrowingFile, directory: Path) -> None:
        self._hashes = hashes
        self._directory = directory

    def add(self, hashes: npt.NDArray[np.uint64], numbers: npt.NDArray[np.integer]) -> None:
        """Record pairs: `hashes` has two numbers for each pair, `numbers` has the indices of the pairs, ascending."""
        records = np.empty(len(numbers), _RECORD)
        records["high"], records["low"], records["number"] = hashes[::2], hashes[1::2], numbers
        self._hashes.write(records.tobytes())

    def find(self, pairs: int) -> Path:
        """Compare all hashes; among pairs with equal hashes, all but the first are duplicates.

        Args:
            pairs: total number of pairs, including pairs that were not added.
        Returns:
            path of a .npy file with a flag for each pair: True if the pair is a duplicate.
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
