"""Split OPUS's archive of English-Chinese subtitles into training, validation and test text, film by film.

    python split_films.py en-zh_cn.txt.zip OUTDIR [--valid N] [--test N] [--train N]

writes train.en.gz, train.zh.gz and the same for val and test: raw text, one subtitle in a line.

A film (or episode), with all its translations, is in one split only. A hash of the film's number chooses FILMS films
for validation and FILMS for test; each contributes the same number of subtitles if it can. Short subtitles ("Yes.")
occur in every film, so the test set only has subtitles that are not in the training or validation set, in English or in
Chinese, and the validation set only those that are not in the training set; the films' other subtitles are dropped. So
test sentences are harder than the average subtitle. The archive is streamed; only held-out films are kept in memory.
"""

import argparse
import gzip
import hashlib
import io
import random
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

FILMS = 50  # for validation, and the same for test

Pair = tuple[str, str]  # English, Chinese


def member(archive: zipfile.ZipFile, *endings: str) -> str:
    """Find the file of the archive whose name has one of these endings.

    Raises:
        ValueError: there is no such file, or more than one.
    """
    names = [name for name in archive.namelist() if name.lower().endswith(endings)]
    if len(names) != 1:
        raise ValueError(f"{archive.filename} holds {len(names)} files that end in {' or '.join(endings)}, not one.")
    return names[0]


def lines(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """Read the lines of a file in the archive."""
    with io.TextIOWrapper(archive.open(name), encoding="utf-8", newline="\n") as text:
        for line in text:
            yield line.rstrip("\r\n")


def films(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield the film of each line: the folder of its English document, as in en/2004/381061/3345678.xml.gz."""
    for line in lines(archive, member(archive, ".ids")):
        yield line.partition("\t")[0].rpartition("/")[0]


def pairs(archive: zipfile.ZipFile) -> Iterator[tuple[str, Pair]]:
    """Yield film, English and Chinese of each line, stripped.

    Raises:
        ValueError: the three files have unequal numbers of lines.
    """
    texts = (lines(archive, member(archive, *endings)) for endings in ((".en",), (".zh_cn", ".zh")))
    try:
        for film, english, chinese in zip(films(archive), *texts, strict=True):
            yield film, (english.strip(), chinese.strip())
    except ValueError as error:
        raise ValueError(f"{archive.filename}: its files have unequal numbers of lines.") from error


def held_out(counts: Counter[str]) -> tuple[set[str], set[str]]:
    """Choose the films for validation and the films for test.

    Raises:
        ValueError: there are too few films.
    """
    order = sorted(counts, key=lambda film: hashlib.sha256(film.encode()).digest())
    if len(order) <= 2 * FILMS:
        raise ValueError(f"There are only {len(order):,} films; {2 * FILMS:,} are held out of training.")
    return set(order[:FILMS]), set(order[FILMS : 2 * FILMS])


def evenly(by_film: dict[str, list[Pair]], wanted: int) -> list[Pair]:
    """Draw `wanted` pairs, the same number from each film as long as it has enough.

    Raises:
        ValueError: there are too few pairs in all.
    """
    rng = random.Random(1)
    rounds = [rng.sample(some, len(some)) for _, some in sorted(by_film.items())]
    longest = max(map(len, rounds), default=0)
    chosen = [some[number] for number in range(longest) for some in rounds if number < len(some)][:wanted]
    if len(chosen) < wanted:
        raise ValueError(
            f"The {len(by_film):,} held-out films have only {len(chosen):,} subtitles that no other split has."
        )
    return sorted(chosen)


def unknown(by_film: dict[str, list[Pair]], known: Sequence[set[str]]) -> dict[str, list[Pair]]:
    """Keep the pairs with neither side in `known`, and each side only once."""
    english, chinese = set(known[0]), set(known[1])
    kept: dict[str, list[Pair]] = {}
    for film, some in by_film.items():
        for pair in some:
            if pair[0] not in english and pair[1] not in chinese:
                kept.setdefault(film, []).append(pair)
                english.add(pair[0])
                chinese.add(pair[1])
    return kept


def split(path: Path, folder: Path, *, valid: int, test: int, train: int) -> dict[str, int]:
    """Write the three splits; return the number of pairs in each.

    Args:
        path: the archive.
        folder: output folder.
        valid, test: numbers of pairs.
        train: approximate size of a random sample of the training pairs; 0: all.
    Raises:
        ValueError: the archive lacks a file, or is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        counts = Counter(films(archive))
        of_split = dict(zip(("val", "test"), held_out(counts), strict=True))
        of_film = {film: name for name, some in of_split.items() for film in some}
        candidates: dict[str, dict[str, list[Pair]]] = {"val": {}, "test": {}}
        for film, pair in pairs(archive):
            if film in of_film and all(pair):
                candidates[of_film[film]].setdefault(film, []).append(pair)
        sides: list[set[str]] = [set(), set()]  # held-out sentences that the training set has, too
        asked = [{pair[n] for by in candidates.values() for some in by.values() for pair in some} for n in range(2)]
        rest = sum(counts.values()) - sum(counts[film] for film in of_film)
        rng = random.Random(1)
        written = 0
        with ExitStack() as stack:
            files = [stack.enter_context(writer(folder / f"train.{ending}.gz")) for ending in ("en", "zh")]
            for film, pair in pairs(archive):
                if film in of_film or not all(pair) or (train and rng.random() * rest >= train):
                    continue
                written += 1
                for text, file, known, ours in zip(pair, files, sides, asked, strict=True):
                    file.write(f"{text}\n")
                    if text in ours:
                        known.add(text)
    sizes = {"train": written}
    for name, wanted in (("val", valid), ("test", test)):
        chosen = evenly(unknown(candidates[name], sides), wanted)
        for known, texts, ending in zip(sides, zip(*chosen, strict=True), ("en", "zh"), strict=True):
            known.update(texts)
            with writer(folder / f"{name}.{ending}.gz") as file:
                file.writelines(f"{text}\n" for text in texts)
        sizes[name] = len(chosen)
    return sizes


def writer(path: Path) -> io.TextIOWrapper:
    """Open a gzip text file for writing; equal lines give equal bytes."""
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", compresslevel=1, mtime=0), encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Split OPUS's archive of English-Chinese subtitles, film by film.")
    parser.add_argument("archive", type=Path, metavar="ARCHIVE.zip")
    parser.add_argument("folder", type=Path, metavar="OUTDIR", help="output folder; created if missing")
    parser.add_argument("--valid", type=int, default=2000, metavar="N", help="validation pairs (default: 2000)")
    parser.add_argument("--test", type=int, default=2000, metavar="N", help="test pairs (default: 2000)")
    parser.add_argument(
        "--train", type=int, default=0, metavar="N", help="about how many training pairs; 0: all (default)"
    )
    options = parser.parse_args(arguments)
    if min(options.valid, options.test) < 1 or options.train < 0:
        parser.error("--valid and --test must be at least 1, and --train at least 0")
    try:
        sizes = split(options.archive, options.folder, valid=options.valid, test=options.test, train=options.train)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"Error: {error}")
    counts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    print(f"{counts} pairs in {options.folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
