import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtcli.data import clean
from nmtcli.data.clean import LINE_CHARACTERS, Duplicates, Sample, dropping_rule, hash_numbers, is_empty_pair, pair_hash
from nmtcli.data.files import GrowingFile

pairs_with_repeats = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["x", "yy", "zzz"])), max_size=40)


def sampled(pairs: list[tuple[str, str]], size: int, characters: int = 10**6) -> list[tuple[str, str]]:
    sample = Sample(size, characters)
    for pair in pairs:
        sample.offer(*pair, pair_hash(*pair))
    return sample.pairs()


def duplicates_of(pairs: list[tuple[str, str]], directory: Path) -> list[bool]:
    duplicates = Duplicates(GrowingFile(directory / "hashes"), directory)
    for number, pair in enumerate(pairs):
        duplicates.add(hash_numbers(pair_hash(*pair)), np.array([number]))
    return [bool(flag) for flag in np.load(duplicates.find(len(pairs)))]


def naive_duplicates(pairs: list[tuple[str, str]]) -> list[bool]:
    seen: set[tuple[str, str]] = set()
    flags = []
    for pair in pairs:
        flags.append(pair in seen)
        seen.add(pair)
    return flags


@given(pairs_with_repeats, st.integers(1, 20))
def test_the_sample_is_the_distinct_pairs_with_the_smallest_hashes(pairs: list[tuple[str, str]], size: int) -> None:
    assert sampled(pairs, size) == sorted(set(pairs), key=lambda pair: pair_hash(*pair))[:size]


@given(pairs_with_repeats, st.integers(1, 20), st.integers(2, 60), st.randoms())
def test_the_sample_is_taken_by_hash_until_a_limit_whatever_the_order(
    pairs: list[tuple[str, str]], size: int, characters: int, shuffler: random.Random
) -> None:
    expected: list[tuple[str, str]] = []
    for pair in sorted(set(pairs), key=lambda pair: pair_hash(*pair)):
        expected.append(pair)
        if len(expected) > size or sum(len(source) + len(target) for source, target in expected) > characters:
            expected.pop()
            break
    shuffled = pairs * 2
    shuffler.shuffle(shuffled)
    assert sampled(pairs, size, characters) == sampled(shuffled, size, characters) == expected


def test_the_sample_is_uniform() -> None:
    pairs = [(f"sentence {number}", "x") for number in range(10_000)]
    places = [int(source.split()[1]) for source, _ in sampled(pairs, 1000)]
    first_half = sum(place < 5000 for place in places)
    assert 500 - 4 * 16 < first_half < 500 + 4 * 16  # 16 is about one standard deviation


def test_long_lines_are_cut_in_the_sample() -> None:
    assert sampled([("a" * 10_000, "b" * 10_000)], 5) == [("a" * LINE_CHARACTERS, "b" * LINE_CHARACTERS)]


@given(pairs=pairs_with_repeats)
def test_duplicates_are_those_of_a_naive_loop(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    assert duplicates_of(pairs, tmp_path_factory.mktemp("hashes"))[: len(pairs)] == naive_duplicates(pairs)


def test_duplicates_are_found_across_what_was_written_at_different_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean, "RECORDS_AT_ONCE", 100)
    numbers = random.Random(1).choices(range(3000), k=5000)
    pairs = [(f"source {number}", f"target {number}") for number in numbers]
    assert duplicates_of(pairs, tmp_path) == naive_duplicates(pairs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["duplicates.npy", "hashes"]


def test_pairs_that_were_not_added_are_no_duplicates(tmp_path: Path) -> None:
    duplicates = Duplicates(GrowingFile(tmp_path / "hashes"), tmp_path)
    duplicates.add(hash_numbers(pair_hash("a", "b") * 3), np.array([1, 3, 4]))
    assert np.load(duplicates.find(6)).tolist() == [False, False, False, True, True, False]


def test_a_pair_is_not_another_one_split_elsewhere() -> None:
    assert pair_hash("ab", "c") != pair_hash("a", "bc")


@pytest.mark.parametrize("blank", ["", "  ", "\u2028", "\x85\t"])
def test_a_pair_with_one_blank_side_is_empty(blank: str) -> None:
    assert is_empty_pair(blank, "text")
    assert is_empty_pair("text", blank)
    assert not is_empty_pair("text", "text")


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        (10, 10, None),
        (11, 1, "too_long"),
        (1, 11, "too_long"),
        (10, 5, None),
        (10, 4, "ratio"),
        (4, 10, "ratio"),
        (0, 3, "empty"),
        (3, 0, "empty"),
    ],
)
def test_a_limit_itself_is_kept_and_more_is_dropped(source: int, target: int, rule: str | None) -> None:
    assert dropping_rule(source, target, max_length=10, max_ratio=2.0) == rule


def test_limits_of_0_drop_nothing() -> None:
    assert dropping_rule(1, 100_000, max_length=0, max_ratio=0.0) is None
