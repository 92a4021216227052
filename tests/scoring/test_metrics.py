"""The metrics equal sacreBLEU's, to the last digit that its command prints; suspicions find problems of a text."""

import json
import os
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtcli.errors import ConfigError, DataError
from nmtcli.scoring.metrics import bleu, chrf, compare, corpus_scores, suspicions, ter, ter_seconds, tokenizer_for

# the example in sacreBLEU's README, with its documented scores
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "It was not unexpected.", "The man bit him first."],
    ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."],
]
CHINESE = [
    "我今天早上八点去学校。",
    "请给我两杯咖啡，谢谢！",
    "他在2019年买了一台 IBM 电脑。",
    "这本书比那本书贵三块钱。",
]
CHINESE_HYPOTHESES = [
    "今天早上我八点上学去。",
    "请给我两杯茶，谢谢！",
    "2019年他买了一台 IBM 计算机。",
    "这本书比那本贵三元。",
]
ENGLISH = [
    "A man in a blue shirt, with a hat, is standing on a ladder.",
    'Two young girls are playing "catch" in the park at 3:30.',
    "The U.S. team won 1,234.5 points - a record!",
    "Nobody knows why it's raining & snowing at the same time.",
    "Several people sit around a table in a small restaurant.",
] * 6


def shaken(lines: list[str], seed: int) -> list[str]:
    """Drop some words of the lines, and swap some."""
    draw = random.Random(seed)
    out = []
    for line in lines:
        words = [word for word in line.split() if draw.random() > 0.1 * seed]
        for index in range(len(words) - 1):
            if draw.random() < 0.2:
                words[index], words[index + 1] = words[index + 1], words[index]
        out.append(" ".join(words))
    return out


def sacrebleu(folder: Path, references: list[list[str]], systems: list[list[str]], *options: str) -> str:
    """Run the sacrebleu command; return its output."""
    paths = [folder / f"ref{index}" for index in range(len(references))]
    inputs = [folder / f"hyp{index}" for index in range(len(systems))]
    for path, lines in zip([*paths, *inputs], [*references, *systems], strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    command = [sys.executable, "-m", "sacrebleu", *map(str, paths), "-i", *map(str, inputs)]
    command += ["-m", "bleu", "chrf", "ter", "-w", "6", "-q", *options]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=environment).stdout


def test_the_documented_example_has_its_documented_scores() -> None:
    scores = corpus_scores(HYPOTHESES, REFERENCES)
    assert [score.name for score in scores] == ["BLEU", "chrF2", "TER"]
    assert scores[0].line().startswith("BLEU|nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert (
        scores[0].line().endswith(" = 48.53 82.4/50.0/45.5/37.5 (BP = 0.943 ratio = 0.944 hyp_len = 17 ref_len = 18)")
    )
    assert f"{scores[1].value:.2f}" == "59.73"


@pytest.mark.parametrize(
    ("hypotheses", "references", "target_lang", "lowercase", "options"),
    [
        (shaken(ENGLISH, 1), [ENGLISH, shaken(ENGLISH, 2)], "en", False, []),
        ([line.upper() for line in ENGLISH], [ENGLISH], "", True, ["-lc", "--chrf-lowercase"]),
        (CHINESE_HYPOTHESES, [CHINESE], "zh", False, ["-tok", "zh", "--ter-normalized", "--ter-asian-support"]),
    ],
    ids=["two references", "lowercase", "Chinese"],
)
def test_scores_and_signatures_are_those_of_the_sacrebleu_command(
    tmp_path: Path,
    hypotheses: list[str],
    references: list[list[str]],
    target_lang: str,
    lowercase: bool,
    options: list[str],
) -> None:
    theirs = json.loads(sacrebleu(tmp_path, references, [hypotheses], *options))
    ours = corpus_scores(hypotheses, references, target_lang=target_lang, lowercase=lowercase)
    for our, their in zip(ours, theirs, strict=True):
        assert our.name == their["name"]
        assert round(our.value, 6) == their["score"]
        assert our.signature == their["signature"]
        assert our.detail == their.get("verbose_score", "")


def test_comparing_systems_is_the_paired_bootstrap_of_the_sacrebleu_command(tmp_path: Path) -> None:
    systems = {"a": shaken(ENGLISH, 1), "b": shaken(ENGLISH, 2), "c": shaken(ENGLISH, 3)}
    printed = sacrebleu(tmp_path, [ENGLISH], list(systems.values()), "--paired-bs", "--paired-bs-n", "40", "-f", "text")
    rows = [re.findall(r"(\d+\.\d+) \((\d+\.\d+) ± (\d+\.\d+)\)", line) for line in printed.splitlines()]
    theirs = [[tuple(map(float, cell)) for cell in row] for row in rows if row]
    p_values = [float(p_value) for p_value in re.findall(r"\(p = (\d+\.\d+)\)", printed)]
    compared = compare(systems, [ENGLISH], samples=40)
    assert list(compared) == ["a", "b", "c"]
    ours = [[(score.value, score.mean, score.ci) for score in scores] for scores in compared.values()]
    for our_row, their_row in zip(ours, theirs, strict=True):
        for our, their in zip(our_row, their_row, strict=True):
            assert our == pytest.approx(their, abs=1e-5)  # sacreBLEU resamples in float32
    assert [score.p_value for score in compared["a"]] == [None, None, None]
    our_p_values = [score.p_value for name in ("b", "c") for score in compared[name]]
    assert our_p_values == pytest.approx(p_values, abs=1e-4)
    for score in compared["c"]:
        assert score.signature in printed
        assert "bs:40|seed:12345" in score.signature


def test_comparing_gives_each_system_the_score_that_it_has_alone() -> None:
    systems = {"a": shaken(ENGLISH, 1), "b": shaken(ENGLISH, 2)}
    compared = compare(systems, [ENGLISH], samples=2, with_ter=False)
    for name, hypotheses in systems.items():
        alone = corpus_scores(hypotheses, [ENGLISH], with_ter=False)
        assert [score.value for score in compared[name]] == [score.value for score in alone]
        assert [score.detail for score in compared[name]] == [score.detail for score in alone]


@pytest.mark.parametrize(
    ("tokenizer", "languages"),
    [
        ("zh", ["zh", "zh-CN", "zh_TW", "ZH-Hant", "zho", "cmn", "yue"]),
        ("ja-mecab", ["ja", "ja_JP.UTF-8", "jpn"]),
        ("13a", ["", "en", "de_DE", "zha", "jav"]),  # zha and jav are Zhuang and Javanese
    ],
)
def test_the_tokenizer_follows_the_language(tokenizer: str, languages: list[str]) -> None:
    assert [tokenizer_for(language) for language in languages] == [tokenizer] * len(languages)


def test_a_tokenizer_that_is_named_wins_over_the_language() -> None:
    assert "tok:char" in bleu(CHINESE, [CHINESE], target_lang="zh", tokenize="char").signature


def test_only_chinese_and_japanese_ter_has_asian_support() -> None:
    for language, state in (("zh-TW", "yes"), ("ja", "yes"), ("de", "no"), ("", "no")):
        signature = ter(CHINESE, [CHINESE], target_lang=language).signature
        assert f"norm:{state}" in signature
        assert f"asian:{state}" in signature


@pytest.mark.skipif(find_spec("MeCab") is not None, reason="MeCab is installed")
def test_japanese_without_mecab_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r'pip install "nmtcli\[ja\]"'):
        bleu(["猫が好きです。"], [["犬が好きです。"]], target_lang="ja")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.text("ab cd.", max_size=20), st.text("ab cd.", max_size=20)), min_size=1, max_size=6))
def test_the_order_of_the_pairs_does_not_matter(pairs: list[tuple[str, str]]) -> None:
    forward = corpus_scores([pair[0] for pair in pairs], [[pair[1] for pair in pairs]])
    backward = corpus_scores([pair[0] for pair in pairs[::-1]], [[pair[1] for pair in pairs[::-1]]])
    for one, other in zip(forward, backward, strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.signature == other.signature


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_translation_that_equals_its_reference_is_perfect(text: list[str]) -> None:
    language = "zh" if text is CHINESE else "en"
    values = [score.value for score in corpus_scores(text, [shaken(text, 3), text], target_lang=language)]
    assert values == pytest.approx([100, 100, 0])


@pytest.mark.parametrize("score", [bleu, chrf, ter])
def test_sides_of_unequal_length_and_no_lines_at_all_are_refused(score: object) -> None:
    assert callable(score)
    with pytest.raises(DataError, match=r"the numbers of translations \(2\) and references \(1\) differ"):
        score(["a", "b"], [["a", "b"], ["a"]])
    with pytest.raises(DataError, match="no lines"):
        score([], [[]])
    with pytest.raises(DataError, match="no lines"):
        score(["a"], [])


def test_raw_text_raises_no_suspicion() -> None:
    assert suspicions(shaken(ENGLISH, 1), [ENGLISH, ENGLISH], "en") == []
    assert suspicions(CHINESE_HYPOTHESES, [CHINESE], "zh") == []


def test_lines_without_any_character_raise_no_suspicion() -> None:
    assert suspicions(["", " "], [["", ""]], "zh") == []


TOKENISED = ["A man , in blue , waits .", "Two girls play ."] * 5
PIECES = ["▁A ▁man ▁wait s .", "▁Two ▁girl s ▁play ."] * 5
BPE = ["A man wa@@ its.", "Two gi@@ r@@ ls play."] * 5
SPACED = [" ".join(line) for line in CHINESE]


@pytest.mark.parametrize(
    ("hypotheses", "reference", "language", "tokenize", "parts"),
    [
        (TOKENISED, ENGLISH[:10], "en", "", ["The translations: 10 of 10 lines look tokenised", "detokenise"]),
        (ENGLISH[:10], TOKENISED, "en", "", ["The references: 10 of 10 lines look tokenised"]),
        (BPE, ENGLISH[:10], "en", "", ["The translations: 10 of 10 lines", "subword mark @@", "join"]),
        (PIECES, ENGLISH[:10], "en", "none", ["The translations: 10 of 10 lines", "subword mark ▁"]),
        (SPACED, CHINESE, "zh", "", ["The translations:", "spaces stand between Chinese characters"]),
        (CHINESE, SPACED, "zh", "", ["The references:", "spaces stand between Chinese characters"]),
        (CHINESE, CHINESE, "", "", ["The references are Chinese", "BLEU", "13a", "add --target-lang zh"]),
        (CHINESE, CHINESE, "en", "", ["The references are Chinese", "BLEU", "13a", "add --target-lang zh"]),
        (CHINESE, CHINESE, "zh", "13a", ["The references are Chinese", "BLEU", "leave out --tokenize 13a"]),
        (CHINESE, CHINESE, "", "zh", ["The references are Chinese", "TER", "add --target-lang zh"]),
        (CHINESE, CHINESE, "", "char", ["The references are Chinese", "TER", "add --target-lang zh"]),
        (["猫が好き。"], ["犬が好きです。"], "", "", ["The references are Japanese", "add --target-lang ja"]),
        (["A cat."], ["A dog."], "zh", "", ["The references do not suit the tokenizer zh"]),
        (
            ["", "b", " "],
            ["a", "b", "c"],
            "en",
            "",
            ["The translations: 2 of 3 lines are empty", "the first is line 1"],
        ),
    ],
)
def test_a_suspicion_says_what_is_wrong_and_what_mends_it(
    hypotheses: list[str], reference: list[str], language: str, tokenize: str, parts: list[str]
) -> None:
    (sentence,) = suspicions(hypotheses, [reference], language, tokenize)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence


def test_tokenised_text_is_no_suspicion_where_the_tokenizer_is_none() -> None:
    assert suspicions(TOKENISED, [TOKENISED], "en", "none") == []


def test_a_mostly_english_text_with_some_chinese_names_is_not_chinese() -> None:
    assert suspicions(ENGLISH, [[f"{line} (北京)" for line in ENGLISH]], "en") == []


def test_several_references_are_told_apart() -> None:
    assert suspicions(ENGLISH[:10], [ENGLISH[:10], TOKENISED], "en")[0].startswith("reference 2: 10 of 10 lines look")


def test_long_lines_are_known_to_make_ter_slow() -> None:
    assert ter_seconds(ENGLISH) < 1
    assert ter_seconds(["的" * 5000]) > 30
