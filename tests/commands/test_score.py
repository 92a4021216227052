"""`nmt score` on text: output, warnings and errors."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmtcli import cli
from nmtcli.scoring.metrics import compare, corpus_scores

REFERENCE = ["A man waits for the bus.", "Two girls play in the park.", "It is raining, as it always is."]
FIRST = ["A man waits for a bus.", "Two girls are playing in a park.", "It rains, as it always does."]
SECOND = ["The man is at the bus.", "Girls play.", "Rain, always."]


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ref", REFERENCE)
    write(tmp_path / "first", FIRST)
    write(tmp_path / "second", SECOND)
    return tmp_path


def feed(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode())))


@pytest.mark.parametrize("arguments", [[], ["-"], ["first"]], ids=["no file", "dash", "a file"])
def test_one_text_gives_one_line_a_metric(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    feed(monkeypatch, FIRST)
    assert cli.run(["score", "--ref", "ref", *arguments]) == 0
    out, err = capsys.readouterr()
    expected = corpus_scores(FIRST, [REFERENCE])
    assert [line.split() for line in out.splitlines()] == [[s.name, f"{s.value:.2f}", s.signature] for s in expected]
    assert err == ""


def test_several_references_and_lowercase_are_in_the_signature(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["score", "--ref", "ref", "--ref", "first", "--lowercase", "--no-ter", "second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["BLEU", "chrF2"]
    assert all("nrefs:2|case:lc" in line for line in lines)


def test_several_texts_give_a_table_with_the_paired_bootstrap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["score", "--ref", "ref", "--bootstrap-samples", "50", "first", "second"]) == 0
    out = capsys.readouterr().out
    expected = compare({"first": FIRST, "second": SECOND}, [REFERENCE], samples=50)
    table, signatures = (part.splitlines() for part in out.split("\n\n"))
    assert table[0].split("  ")[-1] == "p against first"
    assert [line.split() for line in signatures] == [[score.name, score.signature] for score in expected["first"]]
    rows = iter(table[1:])
    for index in range(3):
        for name, scores in expected.items():
            score = scores[index]
            numbers = [f"{score.value:.2f}", f"{score.mean:.2f}", "±", f"{score.ci:.2f}"]
            p_value = [] if score.p_value is None else [f"{score.p_value:.4f}"]
            assert [word for word in next(rows).split() if word != "*"] == [score.name, name, *numbers, *p_value]
    assert next(rows, None) is None


def test_json_holds_everything_and_stdout_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["score", "--ref", "ref", "--json", "--bootstrap-samples", "50", "first", "second"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = compare({"first": FIRST, "second": SECOND}, [REFERENCE], samples=50)
    assert (found["lines"], found["references"], found["warnings"]) == (3, 1, [])
    assert [system["name"] for system in found["systems"]] == ["first", "second"]
    for system in found["systems"]:
        assert list(system["scores"]) == ["BLEU", "chrF2", "TER"]
        for score in expected[system["name"]]:
            values = {key: getattr(score, key) for key in ("signature", "detail", "mean", "ci", "p_value")}
            assert system["scores"][score.name] == {"score": score.value, **values}


def test_json_of_one_text_has_the_same_keys_and_no_bootstrap(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["score", "--ref", "ref", "--json", "first"]) == 0
    (system,) = json.loads(capsys.readouterr().out)["systems"]
    assert set(system["scores"]["BLEU"]) == {"score", "signature", "detail", "mean", "ci", "p_value"}
    assert system["scores"]["BLEU"]["p_value"] is system["scores"]["BLEU"]["mean"] is None


def test_chinese_without_its_language_is_scored_with_13a_and_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "zh", ["我今天早上八点去学校。", "请给我两杯咖啡，谢谢！"])
    assert cli.run(["score", "--ref", "zh", "--json", "-q", "zh"]) == 0
    out, err = capsys.readouterr()
    assert "tok:13a" in out
    assert err.startswith("Warning: The references are Chinese")
    assert "--target-lang zh" in err
    assert json.loads(out)["warnings"] == [err.removeprefix("Warning: ").strip()]
    assert cli.run(["score", "--ref", "zh", "--target-lang", "zh", "zh"]) == 0
    out, err = capsys.readouterr()
    assert "tok:zh" in out
    assert "asian:yes" in out
    assert err == ""


def test_a_warning_about_the_references_comes_once_and_names_each_system(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ref", "first", "second"):
        write(folder / name, ["A man , who waits .", "Two girls play ."])
    assert cli.run(["score", "--ref", "ref", "--bootstrap-samples", "2", "first", "second"]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(": 2 of 2 lines look ")[0] for line in warnings] == [
        "Warning: first",
        "Warning: The references",
        "Warning: second",
    ]


def test_verbose_adds_sacrebleus_own_line_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["score", "--ref", "ref", "-v", "first"]) == 0
    assert f"first: {corpus_scores(FIRST, [REFERENCE])[0].line()}\n" in capsys.readouterr().err


def test_long_lines_make_it_say_that_ter_takes_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nmtcli.scoring.metrics.ter_seconds", lambda hypotheses: 200.0)
    assert cli.run(["score", "--ref", "ref", "first"]) == 0
    assert "--no-ter" in capsys.readouterr().err
    assert cli.run(["score", "--ref", "ref", "--no-ter", "first"]) == 0
    assert capsys.readouterr().err == ""


def test_a_last_line_without_its_newline_and_crlf_change_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["score", "--ref", "ref", "first"])
    expected = capsys.readouterr().out
    (folder / "first").write_bytes("\r\n".join(FIRST).encode("utf-8-sig"))
    cli.run(["score", "--ref", "ref", "first"])
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--ref", "ref", "short"], 3, ["short has 2 lines, ref 3"]),
        (["--ref", "ref", "--ref", "short", "first"], 3, ["first has 3 lines, short 2"]),
        (["--ref", "ref", "empty"], 3, ["empty is empty"]),
        (["--ref", "empty", "first"], 3, ["empty is empty"]),
        (["--ref", "ref"], 3, ["stdin is empty"]),
        (["--ref", "absent", "first"], 3, ["absent"]),
        (["--ref", "ref", "latin1"], 3, ["latin1", "line 1", "UTF-8"]),
        (["--ref", "ref", "first", "first"], 2, ["first is named twice"]),
        (["--ref", "-"], 2, ["stdin"]),
        (["--ref", "ref", "-", "-"], 2, ["stdin"]),
        (["--ref", "ref", "--model", "m"], 2, ["--model and --source go together"]),
        (["--ref", "ref", "--model", "m", "--source", "s", "first"], 2, ["--model scores --ref, not first"]),
        (["first"], 2, ["--ref"]),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: list[str],
) -> None:
    write(folder / "short", FIRST[:2])
    write(folder / "empty", [])
    (folder / "latin1").write_bytes("für\n".encode("latin-1") * 3)
    feed(monkeypatch, [])
    assert cli.run(["score", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for part in said:
        assert part in err


def test_counts_are_written_with_thousands_separators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "long", ["a"] * 1200)
    assert cli.run(["score", "--ref", "ref", "long"]) == 3
    assert "long has 1,200 lines, ref 3." in capsys.readouterr().err


def test_file_names_of_any_kind_are_printed_whatever_the_locale(folder: Path) -> None:
    names = ["übersetzung.txt", os.fsdecode(b"latin\xfc.txt")]
    for name in names:
        write(folder / name, FIRST)
    for options in (["--bootstrap-samples", "2"], ["--bootstrap-samples", "2", "--json"]):
        command = [sys.executable, "-m", "nmtcli", "score", "--ref", "ref", "--no-ter", *options, *names]
        environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        if "--json" in options:
            assert [system["name"] for system in json.loads(done.stdout)["systems"]] == names
        else:
            assert "übersetzung.txt" in done.stdout.decode("utf-8")
