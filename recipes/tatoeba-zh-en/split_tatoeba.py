"""Split a ManyThings.org archive of Tatoeba sentence pairs into training, validation and test text.

    python split_tatoeba.py ARCHIVE.zip en zh OUTDIR [--valid N] [--test N]

The archive contains one text file with a pair in each line: English TAB other language TAB attribution. This script
writes train.en.gz, train.zh.gz, train.attribution.gz and the same for val and test: raw text, one sentence in a line.
The licence, CC BY 2.0 FR, requires the attribution.

No sentence of either language is in two splits. Pairs that share a sentence, directly or through other pairs, form a
group, and each group is in one split. Validation and test use one pair of a group and drop the others, so that they
repeat no sentence. Groups of more than LARGEST pairs are for training only, because too many of their pairs would be
dropped. A hash of the text chooses the groups for validation and test, so the same archive gives the same files.
"""

import argparse
import gzip
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

LARGEST = 10  # most pairs in a group for validation or test


class Pair(NamedTuple):
    """A sentence pair: one line of the archive."""

    english: str
    other: str
    attribution: str


def read_archive(path: Path) -> list[Pair]:
    """Read the pairs of an archive in their order, without duplicates and pairs with an empty side.

    Raises:
        ValueError: the archive does not contain exactly one text file, or a line has no TAB.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt") and not name.startswith("_")]
        if len(names) != 1:
            raise ValueError(f"{path} holds {len(names)} texts, not one.")
        with io.TextIOWrapper(archive.open(names[0]), encoding="utf-8", newline="\n") as text:
            lines = [line.rstrip("\r\n") for line in text]
    pairs: dict[tuple[str, str], Pair] = {}
    for number, line in enumerate(lines, start=1):
        english, tab, rest = line.partition("\t")
        if not tab:
            raise ValueError(f"{names[0]}, line {number:,} has no TAB.")
        other, _, attribution = rest.partition("\t")
        pair = Pair(english.strip(), other.strip(), attribution)
        if pair.english and pair.other:
            pairs.setdefault(pair[:2], pair)
    return list(pairs.values())


def group(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Group the pairs: pairs that share a sentence, directly or through other pairs, are in one group.

    >>> [len(one) for one in group([Pair("a", "x", ""), Pair("b", "y", ""), Pair("a", "z", "")])]
    [2, 1]
    """
    parents = list(range(len(pairs)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    for column in range(2):
        first_with: dict[str, int] = {}
        for number, pair in enumerate(pairs):
            parents[root(number)] = root(first_with.setdefault(pair[column], number))
    groups: dict[int, list[Pair]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(root(number), []).append(pair)
    return list(groups.values())


def digest(pair: Pair) -> bytes:
    """Hash the text of a pair, as a sort key."""
    return hashlib.sha256(f"{pair.english}\t{pair.other}".encode()).digest()


def split(pairs: Sequence[Pair], sizes: dict[str, int]) -> dict[str, list[Pair]]:
    """Return the pairs of each split, "train" and those named in `sizes`, in the order of `pairs`.

    Raises:
        ValueError: there are too few groups.
    """
    chosen: dict[str, set[Pair]] = {name: set() for name in sizes}
    dropped: set[Pair] = set()
    small = sorted((one for one in group(pairs) if len(one) <= LARGEST), key=lambda one: min(map(digest, one)))
    if len(small) < sum(sizes.values()):
        raise ValueError(f"There are only {len(small):,} groups for {sum(sizes.values()):,} pairs.")
    candidates = iter(small)
    for name, size in sizes.items():
        for _, one in zip(range(size), candidates, strict=False):
            chosen[name].add(min(one, key=digest))
            dropped.update(one)
    splits = {name: [pair for pair in pairs if pair in members] for name, members in chosen.items()}
    return {"train": [pair for pair in pairs if pair not in dropped], **splits}


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a gzip text file; equal lines give equal bytes."""
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Split a ManyThings.org archive of Tatoeba sentence pairs.")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE.zip")
    parser.add_argument("english", metavar="EN", help="ending of the English files")
    parser.add_argument("other", metavar="XX", help="ending of the other files")
    parser.add_argument("folder", type=Path, metavar="OUTDIR", help="output folder; created if missing")
    parser.add_argument("--valid", type=int, default=1000, metavar="N", help="validation pairs (default: 1000)")
    parser.add_argument("--test", type=int, default=1000, metavar="N", help="test pairs (default: 1000)")
    options = parser.parse_args(arguments)
    if min(options.valid, options.test) < 0:
        parser.error("a number of pairs cannot be negative")
    try:
        splits = split(read_archive(options.archive), {"test": options.test, "val": options.valid})
        options.folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in splits.items():
            for column, ending in enumerate((options.english, options.other, "attribution")):
                write_lines(options.folder / f"{name}.{ending}.gz", (pair[column] for pair in pairs))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"Error: {error}")
    counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in splits.items())
    print(f"{counts} pairs in {options.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
