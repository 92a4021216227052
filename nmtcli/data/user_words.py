"""A list of words that are to be pieces of their own, such as THUOCL's: which of them a text holds, and how often.

A file has a word a line; what follows a TAB (THUOCL: a count) has no influence. Such lists come from many hands: a
byte-order mark, lines that end in CR alone, blanks around the word and the same word twice are all taken.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nmtcli.data.text import read_lines
from nmtcli.errors import DataError


class Chosen(NamedTuple):
    """The words that become pieces, and how many others do not.

    Attributes:
        words: the most frequent ones, most frequent first.
        rare: words that the text does not hold often enough.
        beyond: words that it does, but that come after too many others.
    """

    words: list[str]
    rare: int
    beyond: int


def read_words(path: str) -> tuple[list[str], int]:
    """The words of a file (plain or compressed), each once, and how many lines hold one that cannot be a piece.

    That is a word of one character, which is a piece anyhow, or one with white space in it or with SentencePiece's
    mark of a space.

    Raises:
        DataError: the file is missing, damaged or not UTF-8, or has no word.
    """
    words: dict[str, None] = {}
    unusable = 0
    for line in (part for whole in read_lines(path) for part in whole.split("\r")):
        word = line.partition("\t")[0].strip()
        if not word:
            continue
        if len(word) == 1 or "▁" in word or any(character.isspace() for character in word):
            unusable += 1
        else:
            words[word] = None
    if not words:
        raise DataError(f"{path} has no word of two or more characters", "A line is a word, or word TAB count")
    return list(words), unusable


class WordCounter:
    """Counts words in text, wherever they stand, also within and across one another.

    Args:
        words: none is empty.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._lengths: dict[str, list[int]] = {}  # of the words that start with two characters
        for word in self._words:
            lengths = self._lengths.setdefault(word[:2], [])
            if len(word) not in lengths:
                lengths.append(len(word))

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """How often these lines hold each word that they do hold."""
        counts: Counter[str] = Counter()
        for text in texts:
            for start in range(len(text) - 1):
                for length in self._lengths.get(text[start : start + 2], ()):
                    word = text[start : start + length]
                    if len(word) == length and word in self._words:  # not one that the line's end cut short
                        counts[word] += 1
        return counts


def choose(counts: Counter[str], *, at_least: int, most: int) -> Chosen:
    """The words that a text holds often enough, but for the least frequent where there are too many.

    Args:
        counts: of every word; of equal ones the first in the order of their characters is taken.
        at_least: occurrences that make a word a piece.
        most: pieces at most.

    >>> choose(Counter({"人民": 9, "中国": 9, "长江": 5, "黄河": 1}), at_least=2, most=2)
    Chosen(words=['中国', '人民'], rare=1, beyond=1)
    """
    frequent = sorted((word for word, count in counts.items() if count >= at_least), key=lambda w: (-counts[w], w))
    return Chosen(frequent[:most], len(counts) - len(frequent), max(0, len(frequent) - most))
