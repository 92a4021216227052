"""Commands do not import packages that they do not need, so that help is instant. Each case is a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from nmtcli import cli
code = cli.run(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
COMMANDS = ["preprocess", "train", "translate", "score"]


def packages_after(arguments: list[str], folder: Path, text: str = "") -> set[str]:
    """Return the packages that have been imported when the command is done."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", cwd=folder, check=True)
    code, packages = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(packages)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_that_is_slow(arguments: list[str], tmp_path: Path) -> None:
    packages = packages_after(arguments, tmp_path)
    assert not packages & {"torch", "numpy", "rich", "sentencepiece", "sacrebleu", "safetensors", "zstandard"}


def test_scoring_one_text_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    (tmp_path / "ref").write_text("A man waits for the bus.\n", encoding="utf-8")
    packages = packages_after(["score", "--ref", "ref"], tmp_path, "A man waits for a bus.\n")
    assert "sacrebleu" in packages
    assert not packages & {"torch", "numpy", "rich", "sentencepiece"}


def test_comparing_texts_imports_no_torch(tmp_path: Path) -> None:
    for name in ("ref", "first", "second"):
        (tmp_path / name).write_text("A man waits for the bus.\n", encoding="utf-8")
    assert "torch" not in packages_after(["score", "--ref", "ref", "first", "second"], tmp_path)


def test_preprocess_imports_no_torch(tmp_path: Path) -> None:
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    pairs = [(f"{first} and {second}", f"{second} und {first}") for first in numbers for second in numbers]
    for side, language in enumerate(("en", "de")):
        for name, end in (("train", len(pairs)), ("valid", 5)):
            lines = "".join(f"{pair[side]}\n" for pair in pairs[:end])
            (tmp_path / f"{name}.{language}").write_text(lines, encoding="utf-8")
    text = ["--train", "train", "--valid", "valid", "--vocab-size", "300", "--workers", "1"]
    assert "torch" not in packages_after(["preprocess", "-s", "en", "-t", "de", *text], tmp_path)


@pytest.mark.parametrize("options", [[], ["--precision", "int8", "--shortlist"], ["--sample"]], ids=" ".join)
def test_translating_imports_torch_and_little_else(options: list[str], trained: Path, tmp_path: Path) -> None:
    """torch's compiler takes as long to import as torch."""
    script = SCRIPT.replace('name.partition(".")[0]', "name")
    command = [sys.executable, "-c", script, "translate", "--device", "cpu", "--model", str(trained), *options]
    done = subprocess.run(command, input="1 2\n", capture_output=True, encoding="utf-8", cwd=tmp_path, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert "torch" in modules
    assert not {"torch._dynamo", "sympy", "sacrebleu", "rich", "torch.utils.tensorboard"} & set(modules)
