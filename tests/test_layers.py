"""The rules of the design that a parser can hold: imports go down only, only the verbs talk, files and the environment
of ranks have one module each, and functions stay small."""

import ast
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
    {"console", "config", "knobs", "ranks", "errors", "__init__"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
VERBS = {"preprocess", "train", "translate", "score"}
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


# files of run and data directories

WRITING = [
    page
    for page in PAGES
    if page.relative_to(PACKAGE).parts[0] in ("data", "store", "training")
    or str(page.relative_to(PACKAGE)) in {f"commands/{name}.py" for name in ("preprocess", "passes", "append", "train")}
]
FILES = "data/files.py"
# (module, what it does itself): why
DOES_ITSELF = {
    ("data/clean.py", "open_memmap"): "the flags of duplicates are an array that NumPy maps into memory",
    ("training/checkpoint.py", "shutil"): "not converted yet",
    ("training/checkpoint.py", "unlink"): "not converted yet",
    ("training/checkpoint.py", "replace"): "not converted yet",
    ("training/checkpoint.py", "open"): "not converted yet",
}
OF_OS = {"open", "write", "pwrite", "truncate", "ftruncate", "fsync", "link", "symlink", "mkdir", "makedirs"}
OF_OS |= {"rename", "renames", "replace", "remove", "removedirs", "rmdir", "unlink"}
OF_PATHS = {"write_bytes", "write_text", "touch", "mkdir", "rename", "unlink", "rmdir", "symlink_to", "hardlink_to"}
OF_PATHS |= {"tofile"}  # of an array


def writes_in(mode: ast.expr | None) -> bool:
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(set(mode.value) & set("wax+"))


def what_it_does_itself(node: ast.stmt | ast.expr) -> set[str]:
    """What a node does to files that files.py is there for: modules that it imports, functions that it calls."""
    match node:
        case ast.Import(names=imported):
            return {alias.name for alias in imported} & {"fcntl", "shutil"}
        case ast.ImportFrom(module="fcntl" | "shutil" as module):
            return {module}
        case ast.ImportFrom(module="os", names=imported):
            return {alias.name for alias in imported} & OF_OS
        case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)):
            return {name} & OF_OS
        case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):  # of text it has two arguments
            return {"replace"}
        case ast.Call(func=ast.Attribute(attr="open"), args=[mode, *_]) if writes_in(mode):
            return {"open"}
        case ast.Call(func=ast.Name(id="open"), args=[_, mode, *_]) if writes_in(mode):
            return {"open"}
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=keywords) if any(
            keyword.arg == "mode" and writes_in(keyword.value) for keyword in keywords
        ):
            return {name}
        case ast.Call(func=ast.Attribute(attr=name)):
            return {name} & OF_PATHS
    return set()


def test_files_are_written_renamed_synced_locked_and_removed_by_one_module() -> None:
    found = {
        (str(page.relative_to(PACKAGE)), what)
        for page in WRITING
        for node in nodes_of(page)
        for what in what_it_does_itself(node)
    }
    assert len({what for page, what in found if page == FILES}) > 8  # what is looked for is found
    assert {(page, what) for page, what in found if page != FILES} == set(DOES_ITSELF)


# the environment of ranks

OF_LAUNCHERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
OF_LAUNCHERS |= {f"TORCHELASTIC_{name}" for name in ("ERROR_FILE", "USE_AGENT_STORE", "RESTART_COUNT")}
OF_LAUNCHERS |= {"NMT_SAYS_TO_LAUNCHER"}


def test_what_launchers_set_is_named_by_one_module() -> None:
    named = {
        (str(page.relative_to(PACKAGE)), node.value)
        for page in PAGES
        for node in nodes_of(page)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OF_LAUNCHERS
    }
    assert named == {("ranks.py", name) for name in OF_LAUNCHERS}


# sizes of functions

LINES, PARAMETERS = 60, 8
# module and function: why it has more lines, or more parameters
LONG: dict[str, str] = {
    "commands/train.py run": "to be split",
}
WIDE: dict[str, str] = {
    "data/batches.py TrainingBatches.__init__": "keywords, each an option of nmt train or a part of the run",
    "search/beam.py beam_search": "to be grouped",
    "search/sampling.py step_by_step": "to be grouped",
    "search/translator.py Translator.__init__": "to be grouped",
    "training/loop.py Trainer.__init__": "to be grouped",
    "training/schedule.py learning_rate": "to be grouped",
    "training/validation.py Validator.__init__": "to be grouped",
}


def functions_of(page: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """`losses/beam.py Loss.forward` and its node, for each function and method; those within functions too."""

    def below(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            own = (*names, child.name) if isinstance(child, ast.FunctionDef | ast.ClassDef) else names
            if isinstance(child, ast.FunctionDef):
                yield f"{page.relative_to(PACKAGE)} {'.'.join(own)}", child
            yield from below(child, own)

    return below(ast.parse(page.read_text(encoding="utf-8")), ())


def lines_of(function: ast.FunctionDef) -> int:
    """Lines of its body, the docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters_of(function: ast.FunctionDef) -> int:
    """Its parameters, self or cls not counted."""
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    others = [one for one in (function.args.vararg, function.args.kwarg) if one]
    return len([one for one in [*listed, *others] if one.arg not in ("self", "cls")])


def test_functions_have_at_most_60_lines_and_8_parameters() -> None:
    functions = [named for page in PAGES for named in functions_of(page)]
    assert {name for name, function in functions if lines_of(function) > LINES} == set(LONG)
    assert {name for name, function in functions if parameters_of(function) > PARAMETERS} == set(WIDE)
