"""Vectors of pieces from text files of any of the usual kinds; files that are none cost one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from nmtcli.data.vectors import read_vectors
from nmtcli.errors import ConfigError, DataError

PIECES = ["<pad>", "<unk>", "<s>", "</s>", "▁the", "ing", "▁ing", "中国", "▁no"]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_piece_takes_the_vector_of_its_word(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "the 1 2\n中国 0.5 -1e-3\ning 3 4\nwhat 5 6\n")
    ids, vectors = read_vectors(path, PIECES, 2)
    assert ids.tolist() == [4, 5, 6, 7]
    np.testing.assert_allclose(vectors, np.array([[1, 2], [3, 4], [3, 4], [0.5, -1e-3]]))


@pytest.mark.parametrize("order", [1, -1])
def test_a_word_with_its_mark_comes_before_one_without_it(order: int, tmp_path: Path) -> None:
    lines = ["the 1 2", "▁the 3 4"][::order]
    ids, vectors = read_vectors(write(tmp_path / "v.txt", "\n".join(lines)), PIECES, 2)
    assert (ids.tolist(), vectors.tolist()) == ([4], [[3, 4]])


def test_the_first_of_two_counts_and_special_pieces_take_none(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "</s> 9 9\n<s> 9 9\nthe 1 2\nthe 3 4\n")
    ids, vectors = read_vectors(path, PIECES, 2)
    assert (ids.tolist(), vectors.tolist()) == ([4], [[1, 2]])


@pytest.mark.parametrize(
    "text",
    [
        "3 2\nthe 1 2\na b 3 4\n. . 5 6\n",  # a header, and words with blanks
        "the 1 2 \r\nx 3 4 \r\n",  # word2vec's blank at the end of a line
        "x\t3\t4\nthe\t1\t2\n",
        "x\xa0y 3 4\nthe 1 2",
        "x 3 4\n\u3000 5 6\n\xa0 5 6\n\u2028 5 6\nthe  1 2",  # words that are white space
    ],
)
def test_the_dialects_of_the_format_are_read(text: str, tmp_path: Path) -> None:
    ids, vectors = read_vectors(write(tmp_path / "v.txt", text), PIECES, 2)
    assert (ids.tolist(), vectors.tolist()) == ([4], [[1, 2]])


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "v.vec.gz", "wt", encoding="utf-8") as file:
        file.write("1 2\n中国 1 2\n")
    assert read_vectors(str(tmp_path / "v.vec.gz"), PIECES, 2)[0].tolist() == [7]


@pytest.mark.parametrize("text", ["the 1 2 3\n", "5 3\nthe 1 2 3\n"])
def test_vectors_of_another_width_are_refused_with_the_mend(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"vectors of dimension 3, but --embedding-size is 2\. Use --embedding-size 3"
    ):
        read_vectors(write(tmp_path / "v.txt", text), PIECES, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the 1 2\nno 3\n", "line 2 is not a word with 2 numbers"),
        ("the 1 2\n\nno 3 4\n", "line 2 is not a word with 2 numbers"),
        ("the 1 x\n", "line 1: x is not a finite number"),
        ("what 1 2\nthe nan 2\n", "line 2: nan is not a finite number"),
        ("what 1 2\n", "no vector for any of 5 pieces"),
        ("0 2\n", "no vector for any of 5 pieces"),
        ("", "no vector for any of 5 pieces"),
    ],
)
def test_what_is_no_file_of_vectors_costs_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", text)
    with pytest.raises(DataError, match=said) as raised:
        read_vectors(path, PIECES, 2)
    assert str(raised.value).startswith(path)
