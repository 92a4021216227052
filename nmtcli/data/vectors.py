"""Read pretrained word vectors from a text file in the format of word2vec, GloVe and fastText.

Each line is a word and the numbers of its vector, separated by spaces or TABs. The first line may be a header of two
integers (number of words, dimension). A word may itself contain spaces, as some words in GloVe do, so the numbers are
counted from the end of the line. If a word occurs twice, its first vector is used.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nmtcli.data.subword import EOS
from nmtcli.data.text import read_lines
from nmtcli.errors import ConfigError, DataError

_SPACE = "▁"


def read_vectors(path: str, pieces: Sequence[str], width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Read from a file the vectors of the pieces of a vocabulary; pieces that the file does not have are left out.

    A piece gets the vector of the identical word, space marker included ("▁the"), or, if the file has no such
    word, the vector of the word without the marker ("the"). Special pieces get no vectors.

    Args:
        path: the file, plain or compressed (`.gz .bz2 .xz .zst`); it is read line by line.
        pieces: pieces of the vocabulary, by id.
        width: E, the dimension that the vectors must have.
    Returns:
        ids_N, the ids of the pieces found, ascending, and vectors_NE, their vectors.
    Raises:
        ConfigError: the vectors have another dimension.
        DataError: the file is missing, damaged or not UTF-8, a line is not a word with E numbers, or no piece is found.
    """
    usable = {piece: number for number, piece in enumerate(pieces) if number > EOS}
    unmarked = {piece.removeprefix(_SPACE): number for piece, number in usable.items() if piece.startswith(_SPACE)}
    as_written: dict[int, list[float]] = {}
    without_mark: dict[int, list[float]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = [field for field in line.replace("\t", " ").split(" ") if field]
        if number == 1:
            has_header = len(fields) == 2 and all(field.isdecimal() for field in fields)
            found = int(fields[1]) if has_header else len(fields) - 1
            if found != width:
                raise ConfigError(
                    f"{path} has vectors of dimension {found:,}, but --embedding-size is {width:,}",
                    f"Use --embedding-size {found}" if found > 0 else "Name a file of vectors",
                )
            if has_header:
                continue
        if len(fields) <= width:
            raise DataError(f"{path}, line {number:,} is not a word with {width:,} numbers", "Copy the file again")
        word, numbers = " ".join(fields[:-width]), fields[-width:]
        for names, taken in ((usable, as_written), (unmarked, without_mark)):
            if word in names and names[word] not in taken:
                taken[names[word]] = _numbers(numbers, path, number)
    vectors = without_mark | as_written
    if not vectors:
        raise DataError(
            f"{path} has no vector for any of {len(usable):,} pieces", "Name vectors of this language's words or pieces"
        )
    ids = sorted(vectors)
    return np.array(ids, dtype=np.int64), np.array([vectors[one] for one in ids], dtype=np.float32)


def _numbers(fields: Sequence[str], path: str, line: int) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
        if all(math.isfinite(number) for number in numbers):
            return numbers
        wrong = next(field for field, number in zip(fields, numbers, strict=True) if not math.isfinite(number))
    except ValueError as error:
        wrong = str(error).rpartition(": ")[2].strip("'")
    raise DataError(f"{path}, line {line:,}: {wrong} is not a finite number", "Copy the file again")
