"""The shortlist is that of IBM Model 1, written naively."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data import shortlist as page
from nmtcli.data.shortlist import evenly, shortlist
from nmtcli.data.subword import PAD

Pairs = list[tuple[list[int], list[int]]]
EMPTY = 10  # the empty word, which is no source piece

sentences = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def model_1(pairs: Pairs, candidates: int) -> dict[int, dict[int, float]]:
    """p(t | s) by s and t, of those candidates that a source piece keeps."""
    known = [({*source, EMPTY}, set(target)) for source, target in pairs]
    together = Counter((s, t) for sources, targets in known for s in sources for t in targets)
    of_source = Counter(s for sources, _ in known for s in sources)
    of_target = Counter(t for _, targets in known for t in targets)
    p: dict[int, dict[int, float]] = {}
    for s in of_source:
        scores = {t: n**2 / (of_source[s] * of_target[t]) for (one, t), n in together.items() if one == s}
        p[s] = {t: scores[t] for t in sorted(scores, key=lambda t: (-scores[t], t))[:candidates]}
    first = p
    for _ in range(page.ROUNDS):
        shares = {s: {t: page.KEPT * score for t, score in of_s.items()} for s, of_s in first.items()}
        for sources, targets in known:
            for t in targets:
                of_all = sum(p[s].get(t, 0) for s in sources)
                for s in sources:
                    if t in p[s]:
                        shares[s][t] += p[s][t] / of_all
        p = {s: {t: share / sum(of_s.values()) for t, share in of_s.items()} for s, of_s in shares.items()}
    return p


@given(
    st.lists(st.tuples(sentences, sentences), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(2, 9),
    st.booleans(),
)
def test_a_shortlist_has_the_best_of_each_piece_and_the_most_frequent(
    pairs: Pairs, translations: int, frequent: int, candidates: int, joint: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "CANDIDATES", candidates)
        found = shortlist(pairs, 10, 11, joint=joint, translations=translations, frequent=frequent)
    assert found.of_piece_SC.shape == (10, translations + joint)
    p = model_1(pairs, candidates)
    for s in range(10):
        of_piece = p.get(s, {})
        ids = found.of_piece_SC[s, :translations].tolist()
        ids, rest = ids[: len(of_piece)], ids[len(of_piece) :]
        assert [of_piece[t] for t in ids] == pytest.approx(sorted(of_piece.values(), reverse=True)[:translations])
        assert len(set(ids)) == len(ids)
        assert rest == [PAD] * len(rest)
        assert found.of_piece_SC[s, translations:].tolist() == [s] * joint
    of_target = Counter(t for _, target in pairs for t in set(target))
    assert found.frequent_F.tolist() == sorted(of_target, key=lambda t: (-of_target[t], t))[:frequent]


def test_what_another_piece_explains_is_not_taken_for_a_translation() -> None:
    # 5 is more often with 2 than with 3, of all that is said of either; but 2 comes from 4 each time
    pairs: Pairs = [([4, 5], [2, 3])] * 2 + [([4], [2])] * 3 + [([6], [3])] * 8
    assert shortlist(pairs, 7, 4, joint=False, translations=1).of_piece_SC[4:, 0].tolist() == [2, 3, 3]


def test_a_shortlist_does_not_depend_on_how_many_pieces_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    pairs = [(random.integers(1, 30, 8), random.integers(1, 40, 9)) for _ in range(50)]
    at_once = shortlist(pairs, 30, 40, joint=False)
    monkeypatch.setattr(page, "CHUNK", 7)
    for one, other in zip(at_once, shortlist(pairs, 30, 40, joint=False), strict=True):
        assert np.array_equal(one, other)


def test_of_many_pairs_a_part_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: Pairs = [([1], [2]), ([1], [3]), ([1], [3]), ([4], [1])]
    whole = shortlist(pairs, 5, 4, joint=False, translations=2)
    assert whole.of_piece_SC[[1, 4]].tolist() == [[3, 2], [1, PAD]]
    monkeypatch.setattr(page, "SHARED", 2)  # only the first pair: of all else counts tell
    part = shortlist(pairs, 5, 4, joint=False, translations=2)
    assert part.of_piece_SC[[1, 4]].tolist() == [[2, 3], [1, PAD]]


def test_without_pairs_there_is_nothing_in_it() -> None:
    found = shortlist([], 4, 5, joint=False, translations=2)
    assert found.of_piece_SC.tolist() == [[PAD, PAD]] * 4
    assert found.frequent_F.tolist() == []


def test_what_is_no_id_is_left_out() -> None:
    found = shortlist([([1, 99], [1, 77, -3])], 4, 5, joint=False, translations=1)
    assert found.of_piece_SC.tolist() == [[PAD], [1], [PAD], [PAD]]


def test_of_many_pairs_some_are_taken_evenly() -> None:
    assert list(evenly(5, 5)) == [0, 1, 2, 3, 4]
    assert list(evenly(10, 4)) == [0, 2, 5, 7]
