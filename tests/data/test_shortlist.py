"""The shortlist is that of a naive count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data import shortlist as page
from nmtcli.data.shortlist import evenly, shortlist
from nmtcli.data.subword import PAD

sentences = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(sentences, sentences), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
)
def test_it_has_the_best_of_each_piece_and_the_most_frequent(
    pairs: list[tuple[list[int], list[int]]], translations: int, frequent: int, joint: bool
) -> None:
    together = Counter((s, t) for source, target in pairs for s in set(source) for t in set(target))
    of_source = Counter(s for source, _ in pairs for s in set(source))
    of_target = Counter(t for _, target in pairs for t in set(target))
    found = shortlist(pairs, 10, 11, joint=joint, translations=translations, frequent=frequent)
    assert found.of_piece_SC.shape == (10, translations + joint)
    for s in range(10):
        scores = {t: n**2 / (of_source[s] * of_target[t]) for (one, t), n in together.items() if one == s}
        expected = sorted(scores, key=lambda t: (-scores[t], t))[:translations]
        assert found.of_piece_SC[s].tolist() == expected + [PAD] * (translations - len(expected)) + [s] * joint
    assert found.frequent_F.tolist() == sorted(of_target, key=lambda t: (-of_target[t], t))[:frequent]


def test_it_does_not_depend_on_how_many_pairs_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    pairs = [(random.integers(1, 30, 8), random.integers(1, 40, 9)) for _ in range(50)]
    at_once = shortlist(pairs, 30, 40, joint=False)
    monkeypatch.setattr(page, "CHUNK", 7)
    for one, other in zip(at_once, shortlist(pairs, 30, 40, joint=False), strict=True):
        assert np.array_equal(one, other)


def test_of_many_pairs_some_are_taken_evenly() -> None:
    assert list(evenly(5, 5)) == [0, 1, 2, 3, 4]
    assert list(evenly(10, 4)) == [0, 2, 5, 7]
