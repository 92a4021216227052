"""The four commands in sequence, exactly as the help shows them: in process, and in a real shell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmtcli import __version__
from tests.conftest import Nmt, log_of, write_pairs

PREPROCESS = "nmt preprocess -s num -t en --train corpus/train --valid corpus/val"
TRAIN = "nmt train"
TRANSLATE = "nmt translate < input.txt > output.txt"
SCORE = "nmt score --ref ref.txt < output.txt"

# A model of the full default size. So that it is trained in seconds, the text is one batch: an epoch is one update. A
# validation of one word is never better than the first one, so that patience ends training after six epochs.
PAIRS = [("1 2", "one two"), ("3", "three"), ("4 5 6", "four five six"), ("7", "seven")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing but a parallel text."""
    write_pairs(tmp_path / "corpus/train", PAIRS)
    write_pairs(tmp_path / "corpus/val", [("3", "nothing")])
    (tmp_path / "input.txt").write_bytes(b"1 2\n\n3\r\n4 5 6")
    (tmp_path / "ref.txt").write_bytes(b"one two\n\nthree\nfour five six\n")
    for variable in ("NMT_DATA", "NMT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_result(folder: Path, scores: str) -> None:
    assert {path.name for path in folder.iterdir()} == {
        *("corpus", "input.txt", "ref.txt", "output.txt", "data-bin", "model")
    }
    assert (folder / "output.txt").read_bytes().count(b"\n") == 4
    config = json.loads((folder / "model/config.json").read_text(encoding="utf-8"))
    sizes = ("encoder_layers", "decoder_layers", "hidden_size", "embedding_size", "dropout")
    assert [config["model"][name] for name in sizes] == [2, 2, 512, 256, 0.3]
    assert len(log_of(folder / "model", "validation")) == 6
    assert [line.split()[0] for line in scores.splitlines()] == ["BLEU", "chrF2", "TER"]


def test_the_help_has_these_words(nmt: Nmt) -> None:
    said = nmt("--help").out.decode().replace("-s de", "-s num")
    for line in (PREPROCESS, TRAIN, TRANSLATE, SCORE):
        assert f"  {line}\n" in said


def test_the_four_commands_run_one_after_the_other(nmt: Nmt, folder: Path) -> None:
    def run(command: str) -> bytes:
        words, _, output = command.partition(" > ")
        words, _, source = words.partition(" < ")
        result = nmt(*words.split()[1:], stdin=Path(source).read_bytes() if source else b"")
        assert result.code == 0, result.err
        if output:
            Path(output).write_bytes(result.out)
            return b""
        return result.out

    assert run(PREPROCESS) == b""
    assert run(TRAIN) == b""
    assert run(TRANSLATE) == b""
    check_result(folder, run(SCORE).decode())


def test_the_four_commands_run_in_a_shell(folder: Path) -> None:
    """As real processes of the installed `nmt`, and at last from input to scores in one pipe."""
    pipe = "set -o pipefail; nmt translate < input.txt | tee again.txt | nmt score --ref ref.txt"
    script = "\n".join(["set -e", "nmt --version", PREPROCESS, TRAIN, TRANSLATE, SCORE, pipe])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    version, *scores = done.stdout.splitlines()
    assert version == f"nmt, version {__version__}"
    assert (folder / "again.txt").read_bytes() == (folder / "output.txt").read_bytes()
    (folder / "again.txt").unlink()
    assert scores[:3] == scores[3:]
    check_result(folder, "\n".join(scores[:3]))
