"""The README is correct: every `nmt` line runs, and every make target, module, exit code and variable exists.

The lines run in order, unchanged, in one folder with a tiny corpus. Model and training are made small as a recipe
would: the values in SMALL take the place of values from `--config`. So the options of each line are tested, but not the
sizes of the default model.
"""

import contextlib
import inspect
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nmtcli import cli, config, errors
from nmtcli.config import ARCHITECTURE_SOURCES, ARCHITECTURES
from nmtcli.knobs import Config, knob_of, option_text
from tests.conftest import Nmt

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SHAPE = {"encoder_layers": 1, "decoder_layers": 1, "hidden_size": 8, "embedding_size": 8}
SMALL = {
    "preprocess": {"workers": 1},
    "train": {**SHAPE, "max_updates": 4, "loader_workers": 0, "threads": 1},
    "translate": {"max_length": 0.1, "threads": 1},
    "score": {"bootstrap_samples": 10},
}
LINES = {"train": 60, "news": 20, "val": 6, "test": 6}  # in corpus/*.de and corpus/*.en


def blocks(kind: str = r"[a-z]*") -> list[str]:
    """Return the fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return every line in a block that calls `nmt`, without its prompt."""
    lines = "\n".join(blocks()).replace("\\\n", " ").splitlines()
    return [line for line in (line.strip().removeprefix("$ ") for line in lines) if line.startswith("nmt ")]


def stages(line: str) -> Iterator[tuple[list[str], str, str]]:
    """Split a line at its pipes; yield for each part its words, the file after `<`, and the file after `>`.

    >>> list(stages("nmt translate --beam 2 < in.txt | nmt score --ref 'my ref' > out  # done"))
    [(['nmt', 'translate', '--beam', '2'], 'in.txt', ''), (['nmt', 'score', '--ref', 'my ref'], '', 'out')]
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="<>|;&")
    lexer.whitespace_split = True
    words: list[str] = []
    files = {"<": "", ">": ""}
    tokens = iter([*lexer, "|"])
    for token in tokens:
        if token == "|":
            yield words, files["<"], files[">"]
            words, files = [], {"<": "", ">": ""}
        elif token in files:
            files[token] = next(tokens)
        else:
            assert not set(token) & set("<>|;&"), f"`{line}` has a {token}, which this test cannot read"
            words.append(token)


def run_line(line: str, nmt: Nmt) -> bytes:
    """Run a line in process; return what it would print on the terminal."""
    piped = shown = b""
    for words, source, sink in stages(line):
        assert words[0] == "nmt", f"`{line}` calls {words[0]}, which this test cannot run"
        result = nmt(*words[1:], stdin=Path(source).read_bytes() if source else piped)
        assert result.code == 0, f"`{line}`: {result.err}"
        piped = shown = result.out
        if sink:
            Path(sink).write_bytes(result.out)
            piped = shown = b""
    return shown


def write_corpus() -> None:
    """Write corpus/train, corpus/val and corpus/test (.de and .en), and the test text as input.txt and ref.txt."""
    generator = random.Random(1)
    people = [("Der Mann", "The man"), ("Die Frau", "The woman"), ("Das Kind", "The child"), ("Ein Hund", "A dog")]
    deeds = [("läuft", "runs"), ("schläft", "sleeps"), ("lacht", "laughs"), ("wartet", "waits")]
    places = [("im Park", "in the park"), ("auf der Straße", "on the street"), ("am Strand", "at the beach")]
    sentences = [(person, deed, place) for person in people for deed in deeds for place in places]
    pairs = [tuple(f"{' '.join(part[side] for part in parts)}." for side in range(2)) for parts in sentences]
    for split, count in LINES.items():
        chosen = generator.choices(pairs, k=count)
        for column, language in enumerate(("de", "en")):
            path = Path("corpus") / f"{split}.{language}"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{pair[column]}\n" for pair in chosen), encoding="utf-8")
    Path("input.txt").write_bytes(Path("corpus/test.de").read_bytes())
    Path("ref.txt").write_bytes(Path("corpus/test.en").read_bytes())


def test_every_nmt_line_runs_in_order(nmt: Nmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NMT_DATA", "NMT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.nmt.context_settings, "default_map", SMALL)
    write_corpus()
    lines = commands()
    verbs = [line.split()[1] for line in lines]
    assert verbs[:4] == ["preprocess", "train", "translate", "score"]
    for line, verb in zip(lines, verbs, strict=True):
        shown = run_line(line, nmt)
        if verb == "score" or "| nmt score" in line:
            assert b"BLEU" in shown
    for file in tmp_path.glob("*.txt"):
        assert len(file.read_bytes().splitlines()) == LINES["test"], file.name


def test_the_first_four_lines_are_the_four_commands_of_nmt_help(nmt: Nmt) -> None:
    help_page = nmt("--help").out.decode()
    for line in commands()[:4]:
        assert line in help_page


def test_every_command_is_in_the_readme() -> None:
    assert {line.split()[1] for line in commands()} == set(cli.nmt.commands)


def test_every_option_that_the_text_names_exists() -> None:
    known = {
        option
        for command in cli.nmt.commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    nmt_text = re.sub(r"^.*\bpip\b.*$", "", README, flags=re.MULTILINE)
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", nmt_text):
        assert option in known | {"--help", "--max-restarts"}, option  # the last one belongs to torchrun


def test_every_make_target_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    mentioned = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join([*blocks(), *re.findall(r"`([^`\n]+)`", README)])))
    assert {"demo", "test", "setup"} <= mentioned <= targets


def test_the_tree_names_every_module_and_nothing_else() -> None:
    (tree,) = [block for block in blocks("text") if block.startswith("nmtcli/\n")]
    paths: list[str] = []
    folders: list[str] = []
    for line in tree.splitlines():
        entry, _, comment = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        assert comment.strip() or entry == "nmtcli/", f"{entry} has no comment"
        paths.append("".join([*folders[:depth], entry]))
        folders[depth:] = [entry]
    for path in paths:
        assert (ROOT / path).exists(), path
    modules = [path for path in (ROOT / "nmtcli").rglob("*.py") if not path.name.startswith("__")]
    assert {path for path in paths if path.endswith(".py") and path.startswith("nmtcli/")} == {
        str(path.relative_to(ROOT)) for path in modules
    }
    assert {path.name for path in (ROOT / "recipes").iterdir() if path.is_dir() and path.name[0] not in "_."} == {
        path.split("/")[1] for path in paths if path.startswith("recipes/") and path.count("/") == 2
    }


def test_the_table_of_architectures_is_that_of_the_options() -> None:
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| (.+) \| (.+) \| (.*)\|$", README, flags=re.MULTILINE)
    table = {
        arch: (f"{wiring} ({source})", sets.strip(" `")) for arch, wiring, source, sets in rows if arch in ARCHITECTURES
    }
    assert table == {
        arch: (ARCHITECTURE_SOURCES[arch], " ".join(option_text(name, value) for name, value in presets.items()))
        for arch, presets in ARCHITECTURES.items()
    }


def test_the_exit_codes_are_those_of_the_errors() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.NmtError) and kind not in (errors.NmtError, errors.Stopped)
    ]
    table = README[README.index("| exit | meaning |") :].split("\n\n")[0]
    documented = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for code in row.split(",")
    }
    assert documented == {0, 1, 130, 143, cli.READER_GONE, *(kind.exit_code for kind in kinds)}


def test_every_variable_of_the_options_is_in_the_readme() -> None:
    classes = [kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, Config)]
    variables = {
        knob_of(one).env
        for kind in classes
        if kind is not Config
        for one in vars(kind)["__dataclass_fields__"].values()
    }
    for variable in variables - {""}:
        assert f"| `{variable}` |" in README


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_a_recipe_in_the_readme_is_one(nmt: Nmt, tmp_path: Path) -> None:
    (toml,) = blocks("toml")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml, encoding="utf-8")
    with contextlib.chdir(tmp_path):
        for verb in ("train", "translate"):
            result = nmt(verb, "--config", recipe)
            assert result.code == 4, result.err  # the options are valid; only data and model are missing
