"""Translation keeps the number of lines, whatever their bytes: random ones, and the Big List of Naughty Strings.

NMT_ODD_LINES is the number of random lines (`make chaos`: many). The list is by Max Woolf, under the MIT licence
(fixtures/naughty-strings.LICENSE).
"""

import gzip
import os
import random
from pathlib import Path

import pytest

from tests.conftest import QUICK, Nmt
from tests.oracles import count_lines

ODD_LINES = int(os.environ.get("NMT_ODD_LINES", "300"))
NAUGHTY = (Path(__file__).parent / "fixtures/naughty-strings.txt").read_bytes()
PARTS = [
    "\r",
    "\0",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u2028",
    "\u2029",
    "\ufeff",
    "▁",
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
]
PARTS += ["|||", "￭", "🙂", "日本", "e\u0301", "\u202e", "\U0010ffff", " ", "  ", "\t", "\u3000", "1", "7 7", "a" * 300]


def odd_line(rng: random.Random) -> bytes:
    """Make a random line, without its newline, of bytes, text, or both."""
    pieces = []
    for _ in range(rng.choice((0, 1, 1, 3, 10))):
        if rng.random() < 0.4:
            pieces.append(rng.randbytes(rng.randrange(12)))
        else:
            pieces.append(rng.choice(PARTS).encode("utf-8", "surrogatepass"))
    return b"".join(pieces).replace(b"\n", b"")


def test_random_lines_keep_their_number_and_each_its_translation(trained: Path, nmt: Nmt) -> None:
    """Each line is translated as when alone; if a line were lost and another added, most would differ."""
    rng = random.Random(1)
    lines = [odd_line(rng) for _ in range(ODD_LINES)]
    content = b"\n".join(lines)  # no newline at the end
    whole = nmt("translate", "--model", trained, *QUICK, stdin=content)
    assert whole.code == 0, whole.err
    assert whole.out.count(b"\n") == count_lines(content)
    assert b"\r" not in whole.out
    translations = whole.out.split(b"\n")
    for number in rng.sample(range(1, len(lines)), min(30, ODD_LINES - 1)):  # the first may have a byte-order mark
        alone = nmt("translate", "--model", trained, *QUICK, stdin=lines[number] + b"\n")
        assert alone.out == translations[number] + b"\n" or lines[number].startswith(b"\xef\xbb\xbf")


def test_naughty_strings_keep_their_number(trained: Path, nmt: Nmt) -> None:
    assert NAUGHTY.count(b"\n") > 500
    result = nmt("translate", "--model", trained, *QUICK, stdin=NAUGHTY)
    assert result.code == 0, result.err
    assert result.out.count(b"\n") == count_lines(NAUGHTY)


@pytest.mark.parametrize("subword", ["unigram", "bpe", "char", "word"])
def test_naughty_strings_are_preprocessed_in_pairs(subword: str, nmt: Nmt, tmp_path: Path) -> None:
    """One side is the list, the other the list reversed, so a misaligned pair would be found."""
    lines = NAUGHTY.decode().removesuffix("\n").split("\n")
    for ending, side in (("aa", lines), ("bb", lines[::-1])):
        with gzip.open(tmp_path / f"train.{ending}.gz", "wb") as file:
            file.write("".join(f"{line}\n" for line in side).encode())
    prefix = tmp_path / "train"
    options = ["--subword", subword, "--vocab-size", "0" if subword == "word" else "1500", "--max-length", "0"]
    result = nmt(
        *("preprocess", "-s", "aa", "-t", "bb", "--train", prefix, "--valid", prefix, "--data", tmp_path / "data"),
        *("--workers", "1", *options),
    )
    assert result.code == 0, result.err
    blank = sum(1 for one, other in zip(lines, lines[::-1], strict=True) if not one.strip() or not other.strip())
    (kept,) = [line.split()[1] for line in result.err.splitlines() if line.startswith("kept")]
    assert int(kept.replace(",", "")) == len(lines) - blank
