"""Join the parts of the CCMT corpus into one training text, without the validation and test sentences.

    python join_ccmt.py PARTS VALID TEST OUTDIR

PARTS is a folder that holds CCMT's files at any depth: NAME_en.txt beside NAME_ch.txt or NAME_cn.txt. VALID and TEST
are prefixes: PREFIX.en and PREFIX.zh, plain or .gz. Writes train.en.gz, train.zh.gz and the same for val and test.

A training pair is dropped if either side is in the validation or test set, a validation pair if either side is in the
test set, and any pair with an empty side. Where the Chinese of a part is word-segmented (Datum's first books), spaces
are removed, except between two Latin letters or digits.
"""

import argparse
import gzip
import io
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

HAN_APART = re.compile(r"[\u4e00-\u9fff] (?=[\u4e00-\u9fff])")
HAN_TOGETHER = re.compile(r"[\u4e00-\u9fff](?=[\u4e00-\u9fff])")
SPACE_BESIDE_CHINESE = re.compile(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])")
LOOKED_AT = 2000  # first lines of a part, by which `is_cut_into_words` decides


Pair = tuple[str, str]  # English, Chinese


def parts(folder: Path) -> list[tuple[Path, Path]]:
    """Find the English and the Chinese file of each part, sorted by name.

    Raises:
        ValueError: there are no files, or an English file has no Chinese counterpart, or two.
    """
    found = []
    for english in sorted(folder.rglob("*_en.txt")):
        stem = english.name.removesuffix("_en.txt")
        chinese = [one for ending in ("ch", "cn") if (one := english.with_name(f"{stem}_{ending}.txt")).exists()]
        if len(chinese) != 1:
            raise ValueError(f"{english} has {len(chinese)} files beside it that end in _ch.txt or _cn.txt, not one.")
        found.append((english, chinese[0]))
    if not found:
        raise ValueError(f"{folder} has no file that ends in _en.txt.")
    return found


def lines(path: Path) -> Iterator[str]:
    """Read the lines of a text file, plain or .gz, stripped; only "\\n" ends a line.

    Raises:
        ValueError: a line is not UTF-8.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number:,} is not UTF-8.") from error


def is_cut_into_words(texts: Sequence[str]) -> bool:
    """Return True if more than a tenth of the pairs of neighbouring Chinese characters have a space between them."""
    apart, together = (sum(len(pattern.findall(text)) for text in texts) for pattern in (HAN_APART, HAN_TOGETHER))
    return apart > 0.1 * (apart + together)


def joined(text: str) -> str:
    """Remove the spaces between words of a word-segmented Chinese text.

    >>> joined("我 用 Windows 10 系统 ，很 好 。")
    '我用Windows 10系统，很好。'
    """
    return SPACE_BESIDE_CHINESE.sub("", text)


def pairs(english: Path, chinese: Path) -> Iterator[Pair]:
    """Read the pairs of two files; remove the spaces if the Chinese is word-segmented.

    Raises:
        ValueError: the files have unequal numbers of lines, or are not UTF-8.
    """
    cut = is_cut_into_words(list(islice(lines(chinese), LOOKED_AT)))
    try:
        for english_line, chinese_line in zip(lines(english), lines(chinese), strict=True):
            yield english_line, joined(chinese_line) if cut else chinese_line
    except ValueError as error:
        if "UTF-8" in str(error):
            raise
        raise ValueError(f"{english} and {chinese.name} have unequal numbers of lines.") from error


def text(prefix: str) -> list[Pair]:
    """Read the pairs of PREFIX.en and PREFIX.zh.

    Raises:
        ValueError: a file is missing, or the files have unequal numbers of lines.
    """
    paths = []
    for ending in ("en", "zh"):
        there = [one for name in (f"{prefix}.{ending}", f"{prefix}.{ending}.gz") if (one := Path(name)).exists()]
        if not there:
            raise ValueError(f"{prefix}.{ending} does not exist.")
        paths.append(there[0])
    return list(pairs(*paths))


def join(folder: Path, valid: str, test: str, outdir: Path) -> dict[str, tuple[int, int]]:
    """Write the three splits; return for each the number of pairs written, and of pairs dropped as another split's.

    Raises:
        ValueError: files are missing, or have unequal numbers of lines.
    """
    found = parts(folder)
    outdir.mkdir(parents=True, exist_ok=True)
    known: tuple[set[str], set[str]] = set(), set()
    counts = {}
    for name, split in (
        ("test", text(test)),
        ("val", text(valid)),
        ("train", (pair for files in found for pair in pairs(*files))),
    ):
        own: tuple[set[str], set[str]] = set(), set()
        written = left_out = 0
        with writer(outdir / f"{name}.en.gz") as english_file, writer(outdir / f"{name}.zh.gz") as chinese_file:
            for pair in split:
                if any(line in lines_of_side for line, lines_of_side in zip(pair, known, strict=True)):
                    left_out += 1
                elif all(pair):
                    english_file.write(f"{pair[0]}\n")
                    chinese_file.write(f"{pair[1]}\n")
                    written += 1
                    if name != "train":
                        for line, side in zip(pair, own, strict=True):
                            side.add(line)
        for side, more in zip(known, own, strict=True):
            side |= more
        counts[name] = written, left_out
    return counts


def writer(path: Path) -> io.TextIOWrapper:
    """Open a gzip text file for writing; equal lines give equal bytes."""
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", compresslevel=1, mtime=0), encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Join the parts of the CCMT corpus, without held-out sentences.")
    parser.add_argument("parts", type=Path, metavar="PARTS", help="folder with NAME_en.txt and NAME_ch.txt or _cn.txt")
    parser.add_argument("valid", metavar="VALID", help="prefix of the validation text")
    parser.add_argument("test", metavar="TEST", help="prefix of the test text")
    parser.add_argument("folder", type=Path, metavar="OUTDIR", help="output folder; created if missing")
    options = parser.parse_args(arguments)
    try:
        counts = join(options.parts, options.valid, options.test, options.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    for name, (written, left_out) in counts.items():
        print(f"{name}: {written:,} pairs, {left_out:,} left out because another split has them", file=sys.stderr)


if __name__ == "__main__":
    main()
