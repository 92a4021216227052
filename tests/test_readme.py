"""The README and docs/ tell the truth: every `nmt` line runs, and every option, make target, module, exit code,
variable and link is there.

The lines of a page run in order, as they stand, in one folder with a tiny corpus. What would make them long is made
small from outside, in the way that a recipe does it: SMALL stands where `--config` would put its values. So a line's
own options are what is tested, and the sizes of the default model are not. Commands within a sentence or a table are
parsed with their options.
"""

import contextlib
import inspect
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nmtcli import __version__, cli, config, errors
from nmtcli.config import ARCHITECTURE_SOURCES, ARCHITECTURES, LOSSES
from nmtcli.knobs import Config, knob_of, option_text
from tests.conftest import Nmt
from tests.layers import LAYERS, PLANNED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES = {"README.md": README, **PAGES}
EVERY_PAGE = {**PAGES, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
COMING_FROM = "docs/coming-from.md"
MARKDOWN = sorted(path for pattern in ("*.md", "docs/*.md", "recipes/*/*.md") for path in ROOT.glob(pattern))

SHAPE = {"encoder_layers": 1, "decoder_layers": 1, "hidden_size": 8, "embedding_size": 8}
SMALL = {
    "preprocess": {"workers": 1},
    "train": {**SHAPE, "max_updates": 4, "loader_workers": 0, "threads": 1},
    "translate": {"max_length": 0.1, "threads": 1},
    "score": {"bootstrap_samples": 10},
}
LINES = {"train": 60, "news": 20, "val": 6, "test": 6}  # of corpus/*.de and corpus/*.en


def blocks(page: str, kind: str = r"[a-z]*") -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def spans(page: str) -> list[str]:
    """What stands between backticks in sentences and tables."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose(page))]


def ours(page: str) -> str:
    """The page without the options of other tools: lines about pip, and the first column of docs/coming-from.md."""
    text = re.sub(r"^.*\bpip\b.*$", "", page, flags=re.MULTILINE)
    return re.sub(r"^\| .+? \| (?=.* \|$)", "| ", text, flags=re.MULTILINE) if page == PAGES[COMING_FROM] else text


def commands(page: str) -> list[str]:
    """Every line in a block that calls `nmt`, with its prompt taken off."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    return [line for line in (line.strip().removeprefix("$ ") for line in lines) if line.startswith("nmt ")]


def stages(line: str) -> Iterator[tuple[list[str], str, str]]:
    """The parts of a line between its pipes: words, the file after `<`, the file after `>`.

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
    """Runs a line in process, and gives what would come out on the terminal."""
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
    """corpus/train, corpus/val and corpus/test (.de and .en); input.txt and ref.txt are the test text."""
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


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if commands(page)])
def test_every_nmt_line_runs_in_order(name: str, nmt: Nmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NMT_DATA", "NMT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.nmt.context_settings, "default_map", SMALL)
    write_corpus()
    lines = commands(PAGES[name])
    names = [line.split()[1] for line in lines]
    if name == "README.md":
        assert names[:4] == ["preprocess", "train", "translate", "score"]
    else:  # other pages start from what the README's first two lines make, unless they make it themselves
        lines = [line for line in commands(README)[:2] if line not in lines] + lines
    for line in lines:
        shown = run_line(line, nmt)
        if ("nmt score" in line) and "--model" not in line:
            assert b"BLEU" in shown
    for file in tmp_path.glob("*.txt"):
        assert len(file.read_bytes().splitlines()) == LINES["test"], file.name


def test_the_first_four_lines_are_the_four_commands_of_nmt_help(nmt: Nmt) -> None:
    help_page = nmt("--help").out.decode()
    for line in commands(README)[:4]:
        assert line in help_page


def test_every_command_is_in_the_readme() -> None:
    assert {line.split()[1] for line in commands(README)} == set(cli.nmt.commands)


def parse(command: click.Command, words: list[str]) -> None:
    """Parses words with the options of a command, whether or not what it requires is among them.

    Raises:
        click.UsageError: an option does not exist, lacks its value, or does not take it.
    """
    context = click.Context(command)
    values, _, order = command.make_parser(context).parse_args(words)
    for parameter in order:
        if isinstance(parameter, click.Option):
            parameter.type_cast_value(context, values[parameter.name or ""])


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_commands_within_a_sentence_have_options_and_values_that_exist(name: str) -> None:
    for span in spans(EVERY_PAGE[name]):
        for words, _, _ in stages(span) if span.startswith("nmt ") else ():
            if words[0] == "nmt" and words[1] in cli.nmt.commands:
                parse(cli.nmt.commands[words[1]], words[2:])
            else:
                assert words[0] == "head" or words[1] in ("COMMAND", "--help"), span


def test_a_command_within_a_sentence_is_refused_for_an_option_or_a_value_that_does_not_exist() -> None:
    for words in (["--beem", "5"], ["--beam", "five"], ["--beam"], ["--precision", "fp8"]):
        with pytest.raises(click.UsageError):
            parse(cli.nmt.commands["translate"], words)


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_every_option_that_the_text_names_exists(name: str) -> None:
    known = {
        option
        for command in cli.nmt.commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    of_others = {"--help", "--max-restarts", "--strict"}  # of click, torchrun and mypy
    for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours(EVERY_PAGE[name])):
        assert option in known | of_others, option


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_values_after_an_option_are_among_its_choices(name: str) -> None:
    parameters = [parameter for command in cli.nmt.commands.values() for parameter in command.params]
    for option, value in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+) ([\w.=,-]+)", ours(EVERY_PAGE[name])):
        kinds = [one.type for one in parameters if option in one.opts and not getattr(one, "is_flag", False)]
        taken = {value for kind in kinds if isinstance(kind, click.Choice) for value in kind.choices}
        in_code = any(f"{option} {value}" in span for span in spans(EVERY_PAGE[name]))
        assert not taken or not in_code or value in taken, f"{option} {value}"


def test_each_toolkit_has_a_table_of_its_options_beside_ours() -> None:
    headings = re.findall(r"^## (.+)\n+(?:[^|#\n].*\n+)*\| \1 \| nmt \|$", PAGES[COMING_FROM], flags=re.MULTILINE)
    assert headings == ["OpenNMT-py", "fairseq", "Marian", "tensorflow/nmt"]


def test_every_make_target_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for name, page in EVERY_PAGE.items():
        mentioned = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join([*blocks(page), *spans(page)])))
        assert mentioned <= targets, name
        if name == "README.md":
            assert {"demo", "setup"} <= mentioned
        if name == "CONTRIBUTING.md":
            assert mentioned == targets - {"help"}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 170


def test_the_tree_names_every_module_and_nothing_else() -> None:
    (tree,) = [block for block in blocks(PAGES["docs/layout.md"], "text") if block.startswith("nmtcli/\n")]
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
    page = PAGES["docs/architectures-and-losses.md"]
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| (.+) \| (.+) \| (.*)\|$", page, flags=re.MULTILINE)
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
    page = PAGES["docs/exit-codes.md"]
    table = page[page.index("| exit | meaning |") :].split("\n\n")[0]
    documented = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for code in row.split(",")
    }
    assert documented == {0, 1, 130, 143, cli.READER_GONE, *(kind.exit_code for kind in kinds)}


def test_every_variable_of_the_options_is_in_the_docs() -> None:
    classes = [kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, Config)]
    variables = {
        knob_of(one).env
        for kind in classes
        if kind is not Config
        for one in vars(kind)["__dataclass_fields__"].values()
    }
    for variable in variables - {""}:
        assert f"| `{variable}` |" in PAGES["docs/options.md"]


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in MARKDOWN])
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link, heading in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", prose(page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        if heading:
            headings = [title.lower() for title in titles(target.read_text(encoding="utf-8"))]
            assert heading[1:] in [re.sub(r"[^a-z0-9 -]", "", one).replace(" ", "-") for one in headings], heading


def titles(page: str) -> list[str]:
    """The headings of a page."""
    return re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)


def test_the_readme_links_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", README))
    assert {*EVERY_PAGE, "CHANGELOG.md", "CITATION.cff"} - {"README.md"} <= links


def test_the_table_of_layers_is_that_of_the_layer_test() -> None:
    rows = re.findall(r"^\| \d+ \| (.+) \|$", PAGES["docs/layout.md"], flags=re.MULTILINE)
    table = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert table == [layer - {"__main__", "__init__"} for layer in LAYERS][1:]
    assert {name for row in rows if "planned" in row for name in re.findall(r"`(\w+)`", row)} == PLANNED


def test_the_table_of_losses_is_that_of_the_options() -> None:
    page = PAGES["docs/architectures-and-losses.md"]
    table = page[page.index("| `--loss` |") :].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z][a-z-]+)`", table, flags=re.MULTILINE) == list(LOSSES)


def test_the_citation_has_the_version_and_the_keys_that_a_citation_needs() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^([a-z-]+): ?(.*)$", citation, flags=re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= set(entries)
    assert entries["version"] == __version__
    assert entries["license"] == "MIT"


def test_the_recipe_in_the_docs_is_one(nmt: Nmt, tmp_path: Path) -> None:
    (toml,) = blocks(PAGES["docs/options.md"], "toml")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml, encoding="utf-8")
    with contextlib.chdir(tmp_path):
        for verb in ("train", "translate"):
            result = nmt(verb, "--config", recipe)
            assert result.code == 4, result.err  # all is well but that there is no data and no model
