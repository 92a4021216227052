"""The demo's corpus: the grammar is large enough, and the splits have the properties that the script documents."""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.scripts import RECIPES, load

SCRIPT = RECIPES / "demo" / "make_corpus.py"
SIZES = {"train": 40_000, "valid": 500, "test": 500}
FILES = [f"{split}.{language}" for split in SIZES for language in ("en", "zh")]


demo: Any = load("demo/make_corpus.py")


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Any]]:
    """The corpus of the default options."""
    corpus: dict[str, list[Any]] = demo.make_corpus(SIZES, 1)
    return corpus


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    """Sentences of every pattern, before splitting and removal of duplicates."""
    rng = random.Random(2)
    drawn = [demo.sample(pattern, rng) for pattern in demo.PATTERNS for _ in range(300)]
    return [example for example in drawn if example is not None]


def words(sentences: Iterable[str]) -> Counter[str]:
    return Counter(word for sentence in sentences for word in re.findall(r"[\w'-]+", sentence.lower()))


def test_there_are_at_least_sixty_patterns_and_none_comes_twice() -> None:
    assert len(demo.PATTERNS) >= 60
    assert len({pattern.en for pattern in demo.PATTERNS}) == len(demo.PATTERNS)


def test_there_are_at_least_four_hundred_english_words(corpus: dict[str, list[Any]]) -> None:
    assert len(words(example.en for example in corpus["train"])) >= 400


def test_the_grammar_has_far_more_sentences_than_a_corpus_takes() -> None:
    def size(choice: Any) -> int:
        if not isinstance(choice, demo.Pattern):
            return 1
        product = 1
        for _, category in demo.slots(choice.en):
            options = {str(option): option for option in demo.GRAMMAR[category]}
            product *= sum(size(option) for option in options.values())
        return product

    assert sum(size(pattern) for pattern in demo.PATTERNS) > 1_000_000


def test_both_sides_of_a_rule_have_the_same_slots() -> None:
    parts = [rule for rules in demo.GRAMMAR.values() for rule in rules if isinstance(rule, demo.Pattern)]
    for pattern in [*demo.PATTERNS, *parts]:
        assert set(demo.slots(pattern.en)) == set(demo.slots(pattern.zh)), pattern


def test_a_word_has_one_translation_within_its_category() -> None:
    for category, rules in demo.GRAMMAR.items():
        pairs = {(rule["en"], rule.get("zh")) for rule in rules if isinstance(rule, dict)}
        assert len({english for english, _ in pairs}) == len(pairs), category


def test_one_english_sentence_has_one_translation(samples: list[Any]) -> None:
    assert len({example.en for example in samples}) == len({(example.en, example.zh) for example in samples})


def test_english_begins_with_a_capital_ends_with_punctuation_and_has_3_to_20_words(samples: list[Any]) -> None:
    for example in samples:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9,' ]*[.?]", example.en), example.en
        assert 3 <= len(example.en.split()) <= 20, example.en


def test_chinese_has_full_width_punctuation_and_neither_spaces_nor_other_ascii_than_digits(samples: list[Any]) -> None:
    for example in samples:
        assert re.fullmatch(r"[\u4e00-\u9fff0-9，]+[。？]", example.zh), example.zh
        assert example.en.endswith("?") == example.zh.endswith("？")


def test_verbs_and_articles_agree() -> None:
    pattern = demo.Pattern("{person} [am|is|are] a {job} and [like|likes] it.", "{person}{job}")
    rng = random.Random(3)
    seen = {demo.sample(pattern, rng).en for _ in range(3000)}
    assert {
        "I am an engineer and like it.",
        "She is a doctor and likes it.",
        "They are an actor and like it.",
    } <= seen


def test_two_is_liang_before_a_measure_word_and_er_in_a_bus_number(samples: list[Any]) -> None:
    chinese = "".join(example.zh for example in samples)
    assert "二路公共汽车" in chinese
    assert "两张" in chinese
    assert not re.search(r"(?<![十期])二(?=[个本张杯瓶件只天年岁点公])", chinese)
    assert not re.search(r"两[路月日]", chinese)


def test_the_splits_have_the_sizes_asked_for(corpus: dict[str, list[Any]]) -> None:
    assert {split: len(examples) for split, examples in corpus.items()} == SIZES


def test_no_sentence_of_either_language_comes_twice_in_all_splits(corpus: dict[str, list[Any]]) -> None:
    examples = [example for split in corpus.values() for example in split]
    assert len({example.en for example in examples}) == len(examples)
    assert len({example.zh for example in examples}) == len(examples)


def test_no_combination_of_pattern_and_main_fillers_is_in_two_splits(corpus: dict[str, list[Any]]) -> None:
    combinations = [{(example.pattern, example.main) for example in corpus[split]} for split in SIZES]
    assert all(len(main) == 2 for split in combinations for _, main in split)
    assert len(set.union(*combinations)) == sum(len(split) for split in combinations)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(.+) bought \w+ (\w+) tickets to .+",
        r"(.+) (?:has|have) \w+ (\w+) and an? \w+\.",
        r"(.+) (?:works|work) at an? (.+) in .+",
        r"It is already (?:half past |a quarter past )?(\w+) .*in the \w+ in (.+)\.",
    ],
)
def test_the_words_that_fill_a_test_sentence_never_meet_in_training(corpus: dict[str, list[Any]], pattern: str) -> None:
    def met(split: str) -> set[tuple[str, ...]]:
        return {match.groups() for example in corpus[split] if (match := re.fullmatch(pattern, example.en))}

    assert len(met("train")) > 30
    assert not met("train") & met("test")
    assert not met("train") & met("valid")


def test_combinations_held_out_with_one_seed_are_held_out_with_another(corpus: dict[str, list[Any]]) -> None:
    other = demo.make_corpus({"train": 1000, "valid": 0, "test": 500}, 2)
    test, other_test = ({(example.pattern, example.main) for example in split["test"]} for split in (corpus, other))
    assert not test & {(example.pattern, example.main) for example in other["train"]}
    assert not other_test & {(example.pattern, example.main) for example in corpus["train"]}


def test_every_word_is_frequent_in_training(corpus: dict[str, list[Any]]) -> None:
    train = words(example.en for example in corpus["train"])
    assert min(train.values()) >= 20
    characters = Counter(character for example in corpus["train"] for character in example.zh)
    assert min(characters.values()) >= 20
    for split in "valid", "test":
        assert words(example.en for example in corpus[split]).keys() <= train.keys()
        assert {character for example in corpus[split] for character in example.zh} <= characters.keys()


def test_the_patterns_are_spread_evenly(corpus: dict[str, list[Any]]) -> None:
    patterns = Counter(example.pattern for example in corpus["train"])
    assert len(patterns) == len(demo.PATTERNS)
    assert max(patterns.values()) < 2 * SIZES["train"] / len(demo.PATTERNS)
    assert len({example.pattern for example in corpus["test"]}) > 0.9 * len(demo.PATTERNS)


def test_the_command_writes_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    written = []
    for hash_seed in "0", "1":
        folder = tmp_path / "new" / hash_seed
        options = ["--train=300", "--valid=20", "--test=10", "--seed=5"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, SCRIPT, folder, *options], env=environment, capture_output=True, text=True, check=True
        )
        assert not done.stdout
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("train 300, valid 20, test 10 sentence pairs")
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        written.append([(folder / name).read_bytes() for name in FILES])
    assert written[0] == written[1]


def test_the_files_of_a_split_have_one_line_for_each_pair_and_another_seed_other_lines(tmp_path: Path) -> None:
    sizes = {"train": 100, "valid": 7, "test": 0}
    for seed in 1, 2:
        demo.write_corpus(demo.make_corpus(sizes, seed), tmp_path / str(seed))
    for split, size in sizes.items():
        for language in "en", "zh":
            text = (tmp_path / "1" / f"{split}.{language}").read_bytes()
            assert text.count(b"\n") == size
            assert text.endswith(b"\n") or not text
            assert b"\r" not in text
    assert (tmp_path / "1" / "train.en").read_bytes() != (tmp_path / "2" / "train.en").read_bytes()


def test_a_negative_size_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main([str(tmp_path / "out"), "--test", "-1"])
    assert stopped.value.code == 2
    assert "cannot be negative" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_sentences_than_the_grammar_has_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PATTERNS", [demo.Pattern("Turn {turn} in {month}.", "{month}{turn}转。")])
    monkeypatch.setattr(demo, "MOST_MISSES", 1000)
    with pytest.raises(ValueError, match="too few sentences"):
        demo.make_corpus(SIZES, 1)


def test_two_translations_of_one_sentence_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = [demo.Pattern("Turn {turn} in {month}.", zh) for zh in ("{month}{turn}转。", "{turn}转{month}。")]
    monkeypatch.setattr(demo, "PATTERNS", patterns)
    with pytest.raises(ValueError, match="two translations"):
        demo.make_corpus(SIZES, 1)
