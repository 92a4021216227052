"""User words: words from a list, such as THUOCL's, that become pieces of their own if they are frequent in the text.

A list has one word per line; everything after a TAB (THUOCL: a count) is ignored. Such lists come from many sources, so
a byte-order mark, lines that end in CR alone, blanks around a word and repeated words are all accepted.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nmtcli.data.text import read_lines
from nmtcli.errors import DataError


class Chosen(NamedTuple):
    """The words that become pieces, and the numbers of words that do not.

    Attributes:
        words: the words that become pieces, most frequent first.
        rare: number of words that are too rare in the text.
        beyond: number of words that are frequent enough, but left out because the maximum number of pieces is reached.
    """

    words: list[str]
    rare: int
    beyond: int


def read_words(path: str) -> tuple[list[str], int]:
    """Read a word list (plain or compressed); return its distinct words and the number of lines with an unusable word.

    A word is unusable if it is a single character, which is a piece anyway, or contains white space or "▁", the space
    marker of SentencePiece.

    Raises:
        DataError: the file is missing, damaged or not UTF-8, or contains no usable word.
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
        raise DataError(f"{path} has no word of two or more characters", "Each line must be a word, or word TAB count")
    return list(words), unusable


class WordCounter:
    """A counter of given words in text, at all positions, including nested and overlapping words.

    Args:
        words: the words to count, each of at least two characters.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._lengths: dict[str, list[int]] = {}  # lengths of words by their first two characters
        for word in self._words:
            lengths = self._lengths.setdefault(word[:2], [])
            if len(word) not in lengths:
                lengths.append(len(word))

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """Count the words in the given lines; words that do not occur are left out."""
        counts: Counter[str] = Counter()
        for text in texts:
            for start in range(len(text) - 1):
                for length in self._lengths.get(text[start : start + 2], ()):
                    word = text[start : start + length]
                    if len(word) == length and word in self._words:  # skips slices that the line's end cut short
                        counts[word] += 1
        return counts


def choose(counts: Counter[str], *, at_least: int, most: int) -> Chosen:
    """Choose the words that become pieces: the most frequent words that occur often enough.

    Args:
        counts: number of occurrences of each word; words with equal counts are ordered by code points, ascending.
        at_least: minimum number of occurrences of a chosen word.
        most: maximum number of chosen words.

    >>> choose(Counter({"人民": 9, "中国": 9, "长江": 5, "黄河": 1}), at_least=2, most=2)
    Chosen(words=['中国', '人民'], rare=1, beyond=1)
    """
    frequent = sorted((word for word, count in counts.items() if count >= at_least), key=lambda w: (-counts[w], w))
    return Chosen(frequent[:most], len(counts) - len(frequent), max(0, len(frequent) - most))
