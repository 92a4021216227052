"""Words of a list: read whatever hands it went through, counted as a plain search counts, chosen by frequency."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data.user_words import WordCounter, choose, read_words
from nmtcli.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        "中国\n长江大桥\n人民\n",
        "\ufeff中国\t10\r长江大桥\t5\r人民\t3\r",  # THUOCL_diming.txt
        "中国 \t 10\r\n\r\n  长江大桥\t\r\n人民\r\n中国\t7",
        "\u3000中国\n长江大桥\n\n人民\tx\ty",
    ],
)
def test_a_list_is_read_whatever_hands_it_went_through(content: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(content.encode())
    assert read_words(str(tmp_path / "words")) == (["中国", "长江大桥", "人民"], 0)


def test_what_cannot_be_a_piece_of_its_own_is_counted(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("的\nNew York\n▁a\n人民\n", encoding="utf-8")
    assert read_words(str(tmp_path / "words")) == (["人民"], 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no word"), ("的\n".encode(), "no word"), (b"ab\n\xff", "line 2"), (None, "does not exist")],
)
def test_a_list_that_is_none_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "words").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_words(str(tmp_path / "words"))


@pytest.mark.corpora
@pytest.mark.skipif("NMT_CORPORA" not in os.environ, reason="NMT_CORPORA does not say where the real corpora are")
@pytest.mark.parametrize(("name", "lines"), [("IT", 16_000), ("chengyu", 8_519), ("food", 8_974)])
def test_the_lists_of_thuocl_are_read(name: str, lines: int) -> None:
    words, unusable = read_words(f"{os.environ['NMT_CORPORA']}/thuocl/THUOCL_{name}.txt.gz")
    assert lines - 10 < len(words) + unusable <= lines  # some come twice
    assert unusable < 20
    assert not any(set(word) & set(" \t\r\ufeff") for word in words)


@given(st.sets(st.text("abc", min_size=2, max_size=4), min_size=1), st.lists(st.text("abcd", max_size=30), max_size=5))
def test_words_are_counted_wherever_they_stand(words: set[str], lines: list[str]) -> None:
    expected = Counter({word: sum(len(re.findall(f"(?={word})", line)) for line in lines) for word in words})
    assert WordCounter(words).count(lines) == +expected


def test_the_frequent_ones_are_chosen_up_to_a_limit() -> None:
    counts = Counter({"ab": 5, "cd": 9, "ef": 2, "gh": 5, "ij": 0})
    assert choose(counts, at_least=5, most=9) == (["cd", "ab", "gh"], 2, 0)
    assert choose(counts, at_least=1, most=2) == (["cd", "ab"], 1, 2)
