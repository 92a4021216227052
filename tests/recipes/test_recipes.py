"""The recipes: their options exist, their scripts are sound, and splits are disjoint."""

import gzip
import os
import random
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nmtcli.commands
from nmtcli import cli
from nmtcli.options import EXPECT, TABLES
from tests.recipes.scripts import RECIPES, load, stub_nmt

FOLDERS = sorted(path.parent for path in RECIPES.glob("*/run.sh"))
TOMLS = sorted(RECIPES.glob("*/*.toml"))
SCRIPTS = [folder / "run.sh" for folder in FOLDERS]
REQUIRED = {
    "preprocess": ["-s", "de", "-t", "en", "--train", "corpus", "--valid", "val"],
    "train": [],
    "translate": [],
    "score": ["--ref", "ref"],
}


def name(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


tatoeba: Any = load("tatoeba-zh-en/split_tatoeba.py")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were called; they do nothing."""
    calls: list[str] = []
    for command in REQUIRED:
        module = ModuleType(f"nmtcli.commands.{command}")
        vars(module)["run"] = lambda *_, command=command: calls.append(command)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(nmtcli.commands, command, module, raising=False)
    return calls


def test_there_is_a_folder_for_each_corpus_and_experiment() -> None:
    corpora = {"demo", "multi30k-de-en", "tatoeba-en-de", "tatoeba-zh-en", "opensubtitles-zh-en", "ccmt-zh-en"}
    assert {folder.name for folder in FOLDERS} == corpora | {"lstm-vs-rnn", "sequence-losses"}
    for folder in FOLDERS:
        assert {"README.md", "recipe.toml", "run.sh"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize("toml", TOMLS, ids=name)
def test_every_command_takes_the_recipe(toml: Path, command: str, called: list[str]) -> None:
    assert cli.run([command, *REQUIRED[command], "--config", str(toml)]) == 0
    assert called == [command]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("toml", TOMLS, ids=name)
def test_a_key_that_no_option_has_is_refused(
    toml: Path, table: str, called: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = toml.read_text(encoding="utf-8")
    heading = f"[{table}]\n"
    if heading not in recipe:
        recipe += f"\n{heading}"
    changed = tmp_path / "recipe.toml"
    changed.write_text(recipe.replace(heading, f"{heading}beem = 5\n"), encoding="utf-8")
    assert cli.run(["train", "--config", str(changed)]) == 2
    assert f"[{table}] has no option `beem`" in capsys.readouterr().err
    assert called == []


@pytest.mark.parametrize("toml", TOMLS, ids=name)
def test_what_a_recipe_expects_are_scores(toml: Path) -> None:
    recipe = tomllib.loads(toml.read_text(encoding="utf-8"))
    for metric, score in recipe.get(EXPECT, {}).items():
        assert metric in ("bleu", "chrf", "ter")
        assert 0 <= score <= 100


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_is_executable_stops_at_the_first_mistake_and_is_bash(script: Path) -> None:
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_runs_the_four_commands_with_its_recipe(script: Path) -> None:
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.split() for line in map(str.strip, text.splitlines()) if line.startswith("nmt ")]
    assert [words[1] for words in commands] == ["preprocess", "train", "translate", "score"]
    for words in commands:
        assert words[words.index("--config") + 1] in ('"$here/recipe.toml"', '"$here/${RECIPE:-recipe}.toml"')


def corpus(folder: Path, endings: tuple[str, str], test: str) -> Path:
    """Write a tiny corpus in the layout of DATA."""
    folder.mkdir()
    for split in ("train", "val", test):
        for ending in endings:
            with gzip.open(folder / f"{split}.{ending}.gz", "wt", encoding="utf-8") as file:
                file.writelines(f"{split} {ending} {number}\n" for number in range(12))
    return folder


@pytest.mark.parametrize(
    ("recipe", "endings", "test", "directions"),
    [
        ("multi30k-de-en", ("de", "en"), "test_2016_flickr", [("", "de", "en")]),
        ("tatoeba-en-de", ("en", "de"), "test", [("", "en", "de")]),
        ("tatoeba-zh-en", ("en", "zh"), "test", [("/zh-en", "zh", "en"), ("/en-zh", "en", "zh")]),
    ],
)
def test_a_script_takes_its_corpus_from_data_and_works_in_work_from_any_directory(
    recipe: str, endings: tuple[str, str], test: str, directions: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    data = corpus(tmp_path / "the corpus", endings, test)
    calls = tmp_path / "calls"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{stub_nmt(tmp_path)}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "DATA": "../the corpus",  # both relative to the working directory
        "WORK": "a work",
    }
    for _ in range(2):  # a second run gives the same result
        done = subprocess.run(
            [RECIPES / recipe / "run.sh"], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        for place, source, target in directions:
            folder = elsewhere / f"a work{place}"
            assert (folder / f"output.{target}").read_text(encoding="utf-8").splitlines() == [
                f"{test} {source} {number}" for number in range(12)
            ]
    lines = calls.read_text(encoding="utf-8").splitlines()
    config = f"--config {RECIPES / recipe / 'recipe.toml'}"
    expected = []
    for place, source, target in directions:
        where = f"{elsewhere}/a work{place}"
        expected += [
            f"{where} preprocess -s {source} -t {target} --train {data}/train --valid {data}/val --test {data}/{test} "
            f"{config} --overwrite",
            f"{where} train {config} --resume",
            f"{where} translate {config} --beam 5",
            f"{where} score {config} --target-lang {target} --ref test.{target}",
        ]
    assert lines == expected * 2


@pytest.mark.parametrize("recipe", ["multi30k-de-en", "tatoeba-zh-en"])
def test_a_script_takes_another_recipe_and_works_elsewhere(recipe: str, tmp_path: Path) -> None:
    endings = ("de", "en") if recipe.startswith("multi30k") else ("en", "zh")
    data = corpus(tmp_path / "data", endings, "test_2016_flickr" if recipe.startswith("multi30k") else "test")
    environment = {**os.environ, "DATA": str(data), "WORK": str(tmp_path / "work"), "RECIPE": "char"}
    environment |= {"PATH": f"{stub_nmt(tmp_path)}{os.pathsep}{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    subprocess.run([RECIPES / recipe / "run.sh"], env=environment, capture_output=True, check=True)
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert all(f"--config {RECIPES / recipe / 'char.toml'}" in call for call in calls)
    assert f"work/{recipe}${{RECIPE:+-$RECIPE}}}}" in (RECIPES / recipe / "run.sh").read_text(encoding="utf-8")


def test_the_demo_shows_every_100th_test_sentence_and_counts_the_right_translations(tmp_path: Path) -> None:
    environment = {**os.environ, "WORK": str(tmp_path / "work"), "CALLS": str(tmp_path / "calls")}
    environment |= {"PATH": f"{stub_nmt(tmp_path)}{os.pathsep}{os.environ['PATH']}"}  # translates by copying
    done = subprocess.run([RECIPES / "demo/run.sh"], env=environment, capture_output=True, text=True, check=True)
    sides = [(tmp_path / f"work/corpus/test.{side}").read_text(encoding="utf-8").splitlines() for side in ("en", "zh")]
    shown = [f"source       {en}\nreference    {zh}\ntranslation  {en}\n\n" for en, zh in zip(*sides, strict=True)]
    assert "".join(shown[99::100]) + "0 of 500 translations equal their reference.\n" in done.stdout


def test_the_benchmark_of_preprocess_gives_a_row_for_each_run() -> None:
    script = RECIPES / "benchmarks/preprocess.py"
    command = [sys.executable, str(script), "--pairs", "3000", "--workers", "1", "2", "--kills", "1"]
    done = subprocess.run(
        [*command, "--", "--dedup", "--vocab-size", "1200"], capture_output=True, text=True, check=True
    )
    _, _, *rows = done.stdout.splitlines()
    for row, runs in zip(rows, ("1", "1, killed 1 times", "2", "2, killed 1 times"), strict=True):
        _, count, workers, rate, *peaks, seconds, _ = row.split("|")
        assert count.strip() == "3,000"
        assert workers.strip() == runs
        assert int(rate.replace(",", "")) > 0
        assert all(int(peak) > 10 for peak in peaks)  # any Python process needs more than 10 MB
        assert int(seconds) >= 0


def test_an_unknown_direction_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "DIRECTION": "zh-de", "WORK": str(tmp_path / "work")}
    done = subprocess.run(
        [RECIPES / "tatoeba-zh-en" / "run.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "Error: DIRECTION must be zh-en, en-zh or both, but is zh-de.\n"
    assert not (tmp_path / "work").exists()


def archive(path: Path, lines: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("_about.txt", "about\n")
        file.writestr("cmn.txt", "".join(f"{line}\n" for line in lines))
    return path


def read(folder: Path, file: str) -> list[str]:
    with gzip.open(folder / file, "rt", encoding="utf-8", newline="\n") as text:
        return text.read().splitlines()


def test_no_sentence_of_either_side_is_in_two_splits(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = [f"e{rng.randrange(900)}\tz{rng.randrange(900)}\tby {number}" for number in range(700)]
    lines += lines[:20]
    path = archive(tmp_path / "a.zip", lines)
    tatoeba.main([str(path), "en", "zh", str(tmp_path / "out"), "--valid", "60", "--test", "50"])
    splits = {}
    for split in ("train", "val", "test"):
        sides = [read(tmp_path / "out", f"{split}.{ending}.gz") for ending in ("en", "zh", "attribution")]
        splits[split] = list(zip(*sides, strict=True))
    assert len(splits["val"]) == 60
    assert len(splits["test"]) == 50
    assert len(splits["train"]) > 300
    known = {tuple(line.split("\t")[:2]) for line in lines}
    for column in range(2):
        sentences = {split: [pair[column] for pair in pairs] for split, pairs in splits.items()}
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not set(sentences[one]) & set(sentences[other])
        assert len(set(sentences["val"])) == 60
        assert len(set(sentences["test"])) == 50
    for pairs in splits.values():
        assert {pair[:2] for pair in pairs} <= known
        assert len({pair[:2] for pair in pairs}) == len(pairs)
        assert all(attribution.startswith("by ") for _, _, attribution in pairs)


def test_the_same_archive_gives_the_same_files(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", [f"e{number}\tz{number // 2}\tx" for number in range(90)])
    for folder in ("one", "two"):
        tatoeba.main([str(path), "en", "zh", str(tmp_path / folder), "--valid", "5", "--test", "5"])
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("lines", "said"),
    [(["no tab"], "cmn.txt, line 1 has no TAB."), (["a\tb\tc"], "There are only 1 groups for 2,000 pairs.")],
)
def test_an_archive_that_cannot_be_split_costs_one_line(lines: list[str], said: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", lines)
    with pytest.raises(SystemExit) as stopped:
        tatoeba.main([str(path), "en", "zh", str(tmp_path / "out")])
    assert stopped.value.code == f"Error: {said}"


def test_windows_line_ends_and_older_archives_without_attribution_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("deu.txt", "Hi.\tHallo.\r\nGo.\tGeh.\r\n\t\r\n")
    assert tatoeba.read_archive(path) == [("Hi.", "Hallo.", ""), ("Go.", "Geh.", "")]
