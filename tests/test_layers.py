"""The house rules of the design that a parser can hold: imports go down only, and only the verbs talk."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nmtcli"
PAGES = sorted(PACKAGE.rglob("*.py"))

# from the top down; a room may import what stands in its own row or below it
FLOORS = [
    {"__main__"},
    {"cli", "options"},
    {"commands"},
    {"training"},
    {"losses"},
    {"search"},
    {"scoring"},
    {"model"},
    {"data"},
    {"console", "config", "knobs", "errors", "__init__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
VERBS = {"preprocess", "train", "translate", "score"}
AXES = re.compile(r"_*[a-z].*_([A-Z0-9]*[A-Z][A-Z0-9]*)")  # those of `memory_BSH` are BSH
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base", "constants"}


def room_of(page: Path) -> str:
    """`nmtcli/data/text.py` is in the room `data`, `nmtcli/cli.py` is its own room."""
    return page.relative_to(PACKAGE).parts[0].removesuffix(".py")


def nodes_of(page: Path) -> Iterator[ast.stmt | ast.expr]:
    nodes = ast.walk(ast.parse(page.read_text(encoding="utf-8"), filename=str(page)))
    return (node for node in nodes if isinstance(node, ast.stmt | ast.expr))


def our_imports(page: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, path below nmtcli) of each import of ours, also inside functions and under TYPE_CHECKING."""
    for node in nodes_of(page):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{page}:{node.lineno}: an import is absolute"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            package, *path = module.split(".")
            if package == "nmtcli":
                yield node.lineno, [path[0] if path and path[0] in FLOOR_OF else "__init__", *path[1:]]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(PACKAGE)) for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_imports_go_down_only(page: Path) -> None:
    room = room_of(page)
    for line, (imported, *rest) in our_imports(page):
        place = f"{page}:{line}: {room} imports {imported}"
        assert FLOOR_OF[imported] >= FLOOR_OF[room], f"{place}, which stands above it"
        if room == imported == "commands":
            assert not VERBS & set(rest), f"{place}.{rest[0]}: verbs never import verbs"
        if room == "model":
            assert imported in ("model", "config", "errors"), f"{place}: the model knows tensors only"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_only_the_verbs_and_the_console_print(page: Path) -> None:
    if room_of(page) in ("cli", "commands", "console"):
        return
    for node in nodes_of(page):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                pytest.fail(f"{page}:{node.lineno} prints: give it back, or tell the verb's events object")
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
                pytest.fail(f"{page}:{node.lineno} uses sys.{node.attr}: only the verbs and the console do")
            case ast.ImportFrom(module="sys", names=imported):
                assert not {alias.name for alias in imported} & {"stdout", "stderr"}, f"{page}:{node.lineno}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_only_the_verbs_choose_a_device_and_a_precision(page: Path) -> None:
    if room_of(page) == "commands":
        return
    for node in nodes_of(page):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="device"), args=[ast.Constant(value="meta")]
            ):
                pass  # where tensors have shapes only
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="autocast"),
                keywords=[ast.keyword(arg="enabled", value=ast.Constant(value=False))],
            ):
                pass  # what follows does itself what the verb chose
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="device" | "autocast" as chosen)):
                pytest.fail(f"{page}:{node.lineno} calls torch.{chosen}: take what the verb chose")


def test_every_page_stands_in_a_room_of_the_table() -> None:
    assert {room_of(page) for page in PAGES} == set(FLOOR_OF)


def test_names_of_pages_say_what_they_hold() -> None:
    assert not {name for page in PAGES for name in page.with_suffix("").parts} & NAMES_THAT_SAY_NOTHING


def axes_used() -> Iterator[tuple[str, str]]:
    """(a letter, where a name ends in it) for each name, argument and attribute with axes."""
    for page in PAGES:
        for node in ast.walk(ast.parse(page.read_text(encoding="utf-8"), filename=str(page))):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    axes = AXES.fullmatch(name)
                    for letter in axes[1] if axes else "":
                        yield letter, f"{page}:{node.lineno}: {name}"


def test_each_axis_in_a_name_is_in_the_legend_and_the_legend_has_no_other() -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / "model" / "__init__.py").read_text(encoding="utf-8")))
    legend = re.findall(r"^    ([A-Z0-9])  \S", docstring or "", re.MULTILINE)
    assert len(legend) == len(set(legend)) > 0
    used = list(axes_used())
    assert [place for letter, place in used if letter not in legend] == []
    assert set(legend) == {letter for letter, _ in used}


@pytest.mark.parametrize(
    ("name", "axes"),
    [("memory_BSH", "BSH"), ("_low_bias_V", "V"), ("best_B1", "B1"), ("TOP_BLOCK", None), ("_C", None)],
)
def test_axes_are_told_from_constants(name: str, axes: str | None) -> None:
    found = AXES.fullmatch(name)
    assert (found[1] if found else None) == axes
