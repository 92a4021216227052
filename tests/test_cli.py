"""The command line: options match the configs' fields, a mistake gives a one-line error, recipe files are checked."""

import dataclasses
import errno
import importlib
import os
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import nmtcli.commands
from nmtcli import cli
from nmtcli.knobs import Config, Knob, knob_of, option_name
from nmtcli.options import TABLES

# The whole command line. Users' scripts and recipes depend on it: change a line here only on purpose.
OPTIONS = {
    "nmt": """
        --version -h/--help
        """,
    "nmt preprocess": """
        -s/--source-lang -t/--target-lang --train --valid --test --data
        --subword --vocab-size --joint/--separate --source-model --target-model --user-words --user-words-min
        --normalization --character-coverage --sentences-for-vocab
        --max-length --max-ratio --dedup/--no-dedup
        --workers --engine --ray-address --overwrite/--no-overwrite --append/--no-append
        --config -q/--quiet -v/--verbose -h/--help
        """,
    "nmt train": """
        --arch --cell --encoder-layers --decoder-layers --hidden-size --embedding-size
        --bidirectional/--no-bidirectional --reverse-source/--no-reverse-source --residual/--no-residual
        --decoder-init --attention --scale-attention/--no-scale-attention --input-feeding/--no-input-feeding
        --tie-embeddings --scale-embeddings/--no-scale-embeddings
        --dropout --variational-dropout/--no-variational-dropout --word-dropout --init --init-scale --forget-bias
        --data --model --verify/--no-verify --resume/--no-resume --overwrite/--no-overwrite
        --nproc --timeout --dry-run/--no-dry-run --init-from
        --loss --loss-mix --teacher-forcing --teacher-forcing-decay --teacher-forcing-half --greedy-passes
        --candidates --beam-growth --beam-cost --candidates-by --with-reference/--no-with-reference --reward
        --risk-alpha
        --source-vectors --target-vectors
        --optimizer --learning-rate --warmup --decay --decay-factor --decay-start --decay-every --decay-patience
        --beta2 --weight-decay --ema --clip-norm --label-smoothing --accumulate
        --batch-tokens --mix --subword-alpha --loader-workers
        --max-epochs --max-updates --time-limit --patience
        --validation-metric --validate-every --validation-beam --show
        --save-every --keep --average --average-of
        --device --precision --threads --seed --deterministic/--no-deterministic --max-skips --if-save-fails
        --log-every --tensorboard
        --config -q/--quiet -v/--verbose -h/--help
        """,
    "nmt translate": """
        FILES
        --beam --length-penalty --coverage-penalty --max-length --max-source-length --batch-tokens
        --sample/--no-sample --top-k --top-p --temperature --seed
        --model --verify/--no-verify --checkpoint --shortlist/--no-shortlist --nbest --alignments --alignment-format
        --buffer-lines --workers --gpus --device --precision --threads
        --config -q/--quiet -v/--verbose -h/--help
        """,
    "nmt score": """
        HYPOTHESES
        --ref --target-lang --tokenize --lowercase/--no-lowercase --ter/--no-ter --bootstrap-samples --json/--no-json
        --model --source --batch-tokens --device --precision --threads
        --config -q/--quiet -v/--verbose -h/--help
        """,
}
CONFIGS: dict[str, tuple[type[Config], ...]] = {**TABLES, "train": (*TABLES["model"], *TABLES["train"])}
del CONFIGS["model"]
REQUIRED = {
    "preprocess": ["-s", "de", "-t", "en", "--train", "corpus", "--valid", "val"],
    "train": [],
    "translate": [],
    "score": ["--ref", "ref"],
}


def fields() -> Iterator[tuple[str, str, Any, Knob]]:
    """Yield (command, field, declared type, knob) of every field of every config."""
    for command, classes in CONFIGS.items():
        for cls in classes:
            declared = typing.get_type_hints(cls)
            for config_field in dataclasses.fields(cls):
                yield command, config_field.name, declared[config_field.name], knob_of(config_field)


def spellings(command: click.Command) -> Iterator[str]:
    """Format each parameter as in the table above."""
    context = click.Context(command, help_option_names=["-h", "--help"])
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Argument):
            yield parameter.name.upper()
        else:
            yield "/".join([*parameter.opts, *parameter.secondary_opts])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments with which the commands were called; nothing runs."""
    calls: list[Any] = []
    for name in REQUIRED:
        module = types.ModuleType(f"nmtcli.commands.{name}")
        vars(module)["run"] = lambda *arguments: calls.extend(arguments)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(nmtcli.commands, name, module, raising=False)
    for variable in ("NMT_DATA", "NMT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    return calls


def value_of(calls: list[Any], name: str) -> Any:
    """Return the value of a field in the configs with which a command was called."""
    (value,) = [
        getattr(argument, name) for argument in calls if isinstance(argument, Config) and hasattr(argument, name)
    ]
    return value


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    """Return the one-line error of a command line."""
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.strip()


def write_recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_set_of_options_is_the_one_that_was_decided() -> None:
    commands: dict[str, click.Command] = {"nmt": cli.nmt}
    commands |= {f"nmt {name}": command for name, command in cli.nmt.commands.items()}
    assert {name: sorted(spellings(command)) for name, command in commands.items()} == {
        name: sorted(table.split()) for name, table in OPTIONS.items()
    }


@pytest.mark.parametrize("command", CONFIGS)
def test_every_field_of_a_config_is_in_the_help_of_its_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([command, "--help"]) == 0
    out, err = capsys.readouterr()
    words = out.replace(",", " ").split()
    for of_command, name, _, knob in fields():
        if of_command == command:
            assert (f"[{name.upper()}]..." if knob.argument else option_name(name)) in words
            assert knob.help.split()[0].strip(",") in words
    assert err == ""


@pytest.mark.parametrize("command", CONFIGS)
def test_without_options_every_field_has_its_default(command: str, called: list[Any]) -> None:
    assert cli.run([command, *REQUIRED[command]]) == 0
    for cls in CONFIGS[command]:
        (config,) = [argument for argument in called if isinstance(argument, cls)]
        for config_field in dataclasses.fields(cls):
            if option_name(config_field.name) not in REQUIRED[command] and not knob_of(config_field).required:
                assert getattr(config, config_field.name) == config_field.default


def bad_values() -> list[Any]:
    cases = []
    for command, name, declared, knob in fields():
        values = []
        if knob.at_least is not None:
            values.append(f"{knob.at_least - 1:g}")
        if knob.at_most is not None:
            values.append(f"{knob.at_most + 1:g}")
        if knob.below is not None:
            values.append(f"{knob.below:g}")
        if declared in (int, float):
            values.append("many")
        if declared is int:
            values.append("1.5")
        if declared is float:
            values.append("nan")
        if knob.choices:
            values.append("nonsense")
        for value in values:
            cases.append(pytest.param(command, option_name(name), value, id=f"{command} {option_name(name)} {value}"))
    return cases


@pytest.mark.parametrize(("command", "option", "value"), bad_values())
def test_a_value_out_of_bounds_is_refused_in_one_line_that_names_option_and_value(
    command: str, option: str, value: str, called: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, [command, *REQUIRED[command], option, value])
    assert option in said
    assert value in said
    assert called == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["No such command 'trian'", "Did you mean 'train'?"]),
        (["train", "--batch-token", "5"], ["--batch-token", "--batch-tokens"]),
        (["score", "--reff", "x"], ["No such option '--reff'", "--ref"]),
        (["train", "--beam", "5"], ["No such option '--beam'"]),
        (["train", "surplus"], ["surplus"]),
        (["train", "--dropout"], ["--dropout", "requires an argument"]),
        (["preprocess", "-t", "en", "--train", "a", "--valid", "b"], ["Missing option", "--source-lang"]),
        (["preprocess", "-s", "de", "-t", "en", "--valid", "b"], ["Missing option", "--train"]),
        (["preprocess", "-s", "de", "-t", "en", "--train", "a"], ["Missing option", "--valid"]),
        (["preprocess", "-s", "de", "-t", "de", "--train", "a", "--valid", "b"], ["both `de`"]),
        (["train", "--resume", "--overwrite"], ["--resume", "--overwrite"]),
        (["train", "--hidden-size", "33"], ["--hidden-size must be even", "33", "--no-bidirectional"]),
        (["train", "--decay", "linear"], ["--max-updates"]),
        (["translate", "--top-k", "5"], ["Add --sample"]),
    ],
)
def test_a_mistake_on_the_command_line_costs_one_line(
    arguments: list[str], parts: list[str], called: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, arguments)
    for part in parts:
        assert part in said
    assert called == []


def test_nmt_alone_shows_its_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nmt preprocess -s de -t en" in err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"nmt, version {nmtcli.__version__}\n"


@pytest.mark.parametrize("command", [None, *REQUIRED])
def test_short_help_is_help(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command] if command else []
    assert cli.run([*arguments, "-h"]) == 0
    short = capsys.readouterr().out
    assert cli.run([*arguments, "--help"]) == 0
    assert capsys.readouterr().out == short


def test_a_flag_wins_over_the_recipe_the_recipe_over_the_environment_and_that_over_the_default(
    tmp_path: Path, called: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ["--config", write_recipe(tmp_path, '[train]\ndata = "of-recipe"\n[translate]\nmodel = ["of-recipe"]\n')]
    found = []
    for environment in (False, True):
        if environment:
            monkeypatch.setenv("NMT_DATA", "of-environment")
            monkeypatch.setenv("NMT_MODEL", "of environment")
        for options in ([], recipe, [*recipe, "--data", "of-flag"]):
            called.clear()
            assert cli.run(["train", *options]) == 0
            found.append(value_of(called, "data"))
    assert found == ["data-bin", "of-recipe", "of-flag", "of-environment", "of-recipe", "of-flag"]
    found = []
    for options in ([], recipe, [*recipe, "--model", "one", "--model", "two"]):
        called.clear()
        assert cli.run(["translate", *options]) == 0
        found.append(value_of(called, "model"))
    assert found == [("of environment",), ("of-recipe",), ("one", "two")]  # a variable is one value, spaces included


def test_an_empty_environment_variable_says_nothing(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMT_DATA", "")
    assert cli.run(["train"]) == 0
    assert value_of(called, "data") == "data-bin"


def test_a_recipe_sets_fields_of_every_type_and_its_other_tables_are_left_alone(
    tmp_path: Path, called: list[Any]
) -> None:
    recipe = write_recipe(
        tmp_path,
        """
        [preprocess]
        source_lang = "de"
        target_lang = "en"
        train = ["a", "b"]
        valid = "v"
        test = "one is enough"
        joint = false
        vocab_size = 500
        character_coverage = 0.99
        [model]
        dropout = 0  # a whole number is a number
        [train]
        batch_tokens = 77
        [translate]
        batch_tokens = 99
        [score]
        hypotheses = ["out"]
        ref = ["ref"]
        [expect]
        bleu = 95
        anything = { at = "all" }
        """,
    )
    assert cli.run(["preprocess", "--config", recipe, "--subword", "bpe"]) == 0
    names = ("source_lang", "train", "test", "joint", "vocab_size", "character_coverage", "subword", "dedup")
    values = [value_of(called, name) for name in names]
    assert values == ["de", ("a", "b"), ("one is enough",), False, 500, 0.99, "bpe", False]
    called.clear()
    assert cli.run(["train", "--config", recipe, "--seed", "1"]) == 0
    assert [value_of(called, name) for name in ("dropout", "batch_tokens")] == [0, 77]
    assert frozenset({"dropout", "batch_tokens", "seed"}) in called  # values equal to the default count, too
    called.clear()
    assert cli.run(["score", "--config", recipe]) == 0
    assert [value_of(called, name) for name in ("hypotheses", "ref")] == [("out",), ("ref",)]


def test_a_command_gets_the_command_line_of_its_run(called: list[Any]) -> None:
    assert cli.run(["train", "--seed", "1"]) == 0
    assert ("train", "--seed", "1") in called


def test_a_relaunch_has_the_arguments_of_its_run_not_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[Any] = []
    train = importlib.import_module("nmtcli.commands.train")
    monkeypatch.setattr(train, "launch", lambda *how: launched.append(how))
    monkeypatch.setattr(sys, "argv", ["python", "--other"])
    monkeypatch.delenv("RANK", raising=False)
    assert cli.run(["train", "--nproc", "2", "--seed", "3"]) == 0
    assert launched == [(2, ("train", "--nproc", "2", "--seed", "3"))]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_number_of_a_launcher_that_is_none_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "many")
    for options in ([], ["--nproc", "2"]):
        assert f"{name} must be a whole number" in refusal(capsys, ["train", "--device", "cpu", *options])


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ("[train]\nbatch_token = 5\n", ["[train] has no option `batch_token`", "Did you mean `batch_tokens`?"]),
        ("[train]\nbatch-tokens = 5\n", ["Did you mean `batch_tokens`?"]),
        ("[translate]\nbeem = 5\n", ["[translate] has no option `beem`", "Did you mean `beam`?"]),
        ("[trian]\nseed = 5\n", ["has an unknown table [trian]", "Did you mean `train`?"]),
        ("seed = 5\n", ["has an unknown table [seed]"]),
        ("train = 5\n", ["has an unknown table [train]"]),
        ("[train]\nseed = '5'\n", ["[train] --seed must be of type int, but is '5'"]),
        ("[train]\nseed = 5.5\n", ["[train] --seed must be of type int, but is 5.5"]),
        ("[train]\nseed = true\n", ["[train] --seed must be of type int, but is True"]),
        ("[train]\nseed = [5]\n", ["[train] --seed must be of type int, but is [5]"]),
        ("[train]\nresume = 1\n", ["[train] --resume must be of type bool, but is 1"]),
        ("[train]\ndata = 2025-01-01\n", ["[train] --data must be of type str"]),
        ("[translate]\nmodel = ['a', 1]\n", ["[translate] --model must be of type str, but is 1"]),
        ("[model]\ndropout = 1.0\n", ["[model] --dropout must be below 1, but is 1"]),
        ("[model]\ncell = 'lstn'\n", ["[model] --cell must be one of lstm, gru, rnn, but is lstn"]),
        ("[train\n", ["is not valid TOML"]),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_name_and_the_mend(
    recipe: str, parts: list[str], tmp_path: Path, called: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, recipe)
    said = refusal(capsys, ["train", "--config", path])
    for part in [path, *parts]:
        assert part in said
    assert called == []


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in refusal(capsys, ["train", "--config", str(tmp_path / "absent.toml")])


def raise_in_score(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("nmtcli.commands.score"), "run", fail)


def test_an_interrupted_command_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_in_score(monkeypatch, KeyboardInterrupt())
    assert refusal(capsys, ["score", "--ref", "ref"], 130) == "Error: Interrupted."


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_the_world_refuses_is_no_bug_of_ours(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_in_score(monkeypatch, OSError(number, os.strerror(number), "some/file"))
    assert refusal(capsys, ["score", "--ref", "ref"], 6) == f"Error: some/file: {os.strerror(number)}."


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_score(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.run(["score", "--ref", "ref"])


WRITER = """
import sys
from nmtcli import cli
from nmtcli.commands import score
def run(config, console):
    for number in range(100_000):
        print("line", number)
score.run = run
sys.exit(cli.run(["score", "--ref", "ref"]))
"""


@pytest.mark.parametrize(
    ("shell", "code", "err"),
    [
        ('"$@" | head -1 >/dev/null; exit "${PIPESTATUS[0]}"', 141, ""),
        ('"$@" >/dev/full', 6, "Error: No space left on device.\n"),
    ],
    ids=["the reader goes away", "the disk is full"],
)
def test_a_stdout_that_takes_no_more_ends_the_command_without_a_traceback(shell: str, code: int, err: str) -> None:
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", WRITER]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (code, err)


def test_help_into_a_pipe_that_closes_is_silent() -> None:
    shell = '"$@" --help | true; exit "${PIPESTATUS[0]}"'
    command = ["bash", "-c", shell, "bash", sys.executable, "-m", "nmtcli"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 141)  # 0 if the pipe took everything before it was closed
    assert done.stderr == ""
