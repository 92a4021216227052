"""Design rules that a parser can check: imports go down only, only commands print, file access and the environment of
ranks have one module each, most modules do not import torch, functions stay small, and tests use neither private names
nor one another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers import LAYERS, PLANNED

PACKAGE = Path(__file__).parents[1] / "nmtcli"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
COMMANDS = {"preprocess", "train", "translate", "score"}
AXES = re.compile(r"_*[a-z].*_([A-Z0-9]*[A-Z][A-Z0-9]*)")  # `memory_BSH` has axes BSH
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "base", "constants"}


def package_of(module: Path) -> str:
    """`nmtcli/data/text.py` is in the package `data`, `nmtcli/cli.py` is a module by itself."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def nodes_of(module: Path) -> Iterator[ast.stmt | ast.expr]:
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8"), filename=str(module)))
    return (node for node in nodes if isinstance(node, ast.stmt | ast.expr))


def imports_of(module: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each import in a module, also in functions and under TYPE_CHECKING."""
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: an import is absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def our_imports(module: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, path below nmtcli) of each import from nmtcli."""
    for line, name in imports_of(module):
        package, *path = name.split(".")
        if package == "nmtcli":
            yield line, [path[0] if path and path[0] in LAYER_OF else "__init__", *path[1:]]


def names(modules: list[Path]) -> list[str]:
    return [str(module.relative_to(PACKAGE)) for module in modules]


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_imports_go_down_only(module: Path) -> None:
    package = package_of(module)
    for line, (imported, *rest) in our_imports(module):
        place = f"{module}:{line}: {package} imports {imported}"
        assert LAYER_OF[imported] >= LAYER_OF[package], f"{place}, which stands above it"
        if package == imported == "commands":
            assert not COMMANDS & set(rest), f"{place}.{rest[0]}: commands never import commands"
        if package == "model":
            assert imported in ("model", "config", "errors"), f"{place}: the model knows tensors only"


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_only_the_commands_and_the_console_print(module: Path) -> None:
    if package_of(module) in ("cli", "commands", "console"):
        return
    for node in nodes_of(module):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                pytest.fail(f"{module}:{node.lineno} prints: return it, or tell the command's events object")
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"):
                pytest.fail(f"{module}:{node.lineno} uses sys.{node.attr}: only the commands and the console do")
            case ast.ImportFrom(module="sys", names=imported):
                assert not {alias.name for alias in imported} & {"stdout", "stderr"}, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", MODULES, ids=names(MODULES))
def test_only_the_commands_choose_a_device_and_a_precision(module: Path) -> None:
    if package_of(module) == "commands":
        return
    for node in nodes_of(module):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="device"), args=[ast.Constant(value="meta")]
            ):
                pass  # tensors without data
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="torch"), attr="autocast"),
                keywords=[ast.keyword(arg="enabled", value=ast.Constant(value=False))],
            ):
                pass  # autocast, to the precision that the command chose
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="device" | "autocast" as chosen)):
                pytest.fail(f"{module}:{node.lineno} calls torch.{chosen}: take what the command chose")


def test_every_module_is_in_a_layer_of_the_table() -> None:
    assert {package_of(module) for module in MODULES} == set(LAYER_OF) - PLANNED


def test_names_of_modules_say_what_they_hold() -> None:
    assert not {name for module in MODULES for name in module.with_suffix("").parts} & NAMES_THAT_SAY_NOTHING


def axes_used() -> Iterator[tuple[str, str]]:
    """Yield (axis letter, place) for each name, argument and attribute with axes."""
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"), filename=str(module))):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    axes = AXES.fullmatch(name)
                    for letter in axes[1] if axes else "":
                        yield letter, f"{module}:{node.lineno}: {name}"


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


# modules that do not import torch, directly or indirectly; imports inside functions do not count

TORCH_FREE = {
    *("nmtcli", "__main__", "cli", "config", "console", "errors", "knobs", "options", "ranks"),
    *("commands", "commands.append", "commands.passes", "commands.preprocess", "commands.score"),
    *("data", "data.clean", "data.cluster", "data.corpus", "data.files", "data.mixture", "data.parallel"),
    *("data.segmentation", "data.shards", "data.shortlist", "data.subword", "data.text", "data.user_words"),
    *("data.vectors", "data.writing"),
    *("scoring", "scoring.metrics", "scoring.sentence"),
    *("search", "search.host", "search.searchers", "search.translator"),
    *("store", "store.record"),
    *("training", "training.lock", "training.schedule"),
    *("losses", "model"),  # their __init__ modules have only documentation
}


def top_level_imports(module: Path) -> Iterator[str]:
    """Return the names of the modules that this module imports, its package included."""
    parts = ("nmtcli", *module.relative_to(PACKAGE).with_suffix("").parts)
    yield from (".".join(parts[:length]) for length in range(1, len(parts)))
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        match node:
            case ast.Import(names=imported):
                yield from (alias.name for alias in imported)
            case ast.ImportFrom(module=str(name), names=imported):
                yield name
                yield from (f"{name}.{alias.name}" for alias in imported)


def test_the_modules_that_import_no_torch_are_these() -> None:
    imports: dict[str, set[str]] = {}
    for module in MODULES:
        name = ".".join(("nmtcli", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        imports[name] = set(top_level_imports(module))
    needs_torch = {name for name, imported in imports.items() if any("torch" in one.split(".") for one in imported)}
    while more := {name for name in set(imports) - needs_torch if imports[name] & needs_torch}:
        needs_torch |= more
    assert needs_torch
    assert {name.removeprefix("nmtcli.") for name in set(imports) - needs_torch} == TORCH_FREE


# files of run and data directories

WRITING = [
    module
    for module in MODULES
    if module.relative_to(PACKAGE).parts[0] in ("data", "store", "training")
    or str(module.relative_to(PACKAGE))
    in {f"commands/{name}.py" for name in ("preprocess", "passes", "append", "train")}
]
FILES = "data/files.py"
# (module, operation that it may do itself): reason
DOES_ITSELF = {
    ("data/clean.py", "open_memmap"): "the flags of duplicates are an array that NumPy maps into memory",
}
OF_OS = {"open", "write", "pwrite", "truncate", "ftruncate", "fsync", "link", "symlink", "mkdir", "makedirs"}
OF_OS |= {"rename", "renames", "replace", "remove", "removedirs", "rmdir", "unlink"}
OF_PATHS = {"write_bytes", "write_text", "touch", "mkdir", "rename", "unlink", "rmdir", "symlink_to", "hardlink_to"}
OF_PATHS |= {"tofile"}  # a method of arrays


def writes_in(mode: ast.expr | None) -> bool:
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(set(mode.value) & set("wax+"))


def what_it_does_itself(node: ast.stmt | ast.expr) -> set[str]:
    """Yield the modules that a node imports, and the functions that it calls, for which files.py has its own."""
    match node:
        case ast.Import(names=imported):
            return {alias.name for alias in imported} & {"fcntl", "shutil"}
        case ast.ImportFrom(module="fcntl" | "shutil" as module):
            return {module}
        case ast.ImportFrom(module="os", names=imported):
            return {alias.name for alias in imported} & OF_OS
        case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)):
            return {name} & OF_OS
        case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):  # str.replace has two arguments
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
        (str(module.relative_to(PACKAGE)), what)
        for module in WRITING
        for node in nodes_of(module)
        for what in what_it_does_itself(node)
    }
    assert len({what for module, what in found if module == FILES}) > 8  # the search itself works
    assert {(module, what) for module, what in found if module != FILES} == set(DOES_ITSELF)


# the environment of ranks

OF_LAUNCHERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
OF_LAUNCHERS |= {f"TORCHELASTIC_{name}" for name in ("ERROR_FILE", "USE_AGENT_STORE", "RESTART_COUNT")}
OF_LAUNCHERS |= {"NMT_SAYS_TO_LAUNCHER"}


def test_what_launchers_set_is_named_by_one_module() -> None:
    named = {
        (str(module.relative_to(PACKAGE)), node.value)
        for module in MODULES
        for node in nodes_of(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OF_LAUNCHERS
    }
    assert named == {("ranks.py", name) for name in OF_LAUNCHERS}


# sizes of functions

LINES, PARAMETERS = 60, 8
# module and function: reason why it has more lines or parameters
LONG: dict[str, str] = {}
WIDE: dict[str, str] = {
    "data/batches.py TrainingBatches.__init__": "keywords, each an option of nmt train or a part of the run",
}


def functions_of(module: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield name, such as `losses/beam.py Loss.forward`, and node of each function and method, nested ones included."""

    def below(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            own = (*names, child.name) if isinstance(child, ast.FunctionDef | ast.ClassDef) else names
            if isinstance(child, ast.FunctionDef):
                yield f"{module.relative_to(PACKAGE)} {'.'.join(own)}", child
            yield from below(child, own)

    return below(ast.parse(module.read_text(encoding="utf-8")), ())


def lines_of(function: ast.FunctionDef) -> int:
    """Count the lines of a function's body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters_of(function: ast.FunctionDef) -> int:
    """Count a function's parameters, without self or cls."""
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    others = [one for one in (function.args.vararg, function.args.kwarg) if one]
    return len([one for one in [*listed, *others] if one.arg not in ("self", "cls")])


def test_functions_have_at_most_60_lines_and_8_parameters() -> None:
    functions = [named for module in MODULES for named in functions_of(module)]
    assert {name for name, function in functions if lines_of(function) > LINES} == set(LONG)
    assert {name for name, function in functions if parameters_of(function) > PARAMETERS} == set(WIDE)


# tests

TESTS = sorted(Path(__file__).parent.rglob("*.py"))
# private names that tests may use: why
PRIVATE = {
    "_replace": "public by the documentation of NamedTuple",
    "_exit": "os._exit, with which a process ends as if it were killed",
    "_is_avx512_bf16_supported": "torch has no public way to ask a CPU, nor to pretend what it answers",
    "_is_amx_tile_supported": "the same",
}
PRIVATE_NAME = re.compile(r"(?:.*\.)?(_(?!_)\w+)")  # `_names` in "nmtcli.module._names"


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each private name of something else that a test uses: `x._name`, `from nmtcli.x import _name`,
    and the strings with which attributes are looked up and patched."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if PRIVATE_NAME.fullmatch(name):
                yield node.lineno, name
            case ast.ImportFrom(module=str(module), names=imported) if module.split(".")[0] == "nmtcli":
                yield from ((node.lineno, alias.name) for alias in imported if PRIVATE_NAME.fullmatch(alias.name))
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr") | ast.Attribute(attr="setattr" | "delattr"), args=arguments
            ):
                for argument in arguments[:2]:
                    text = argument.value if isinstance(argument, ast.Constant) else None
                    if isinstance(text, str) and (private := PRIVATE_NAME.fullmatch(text)):
                        yield node.lineno, private[1]


def test_private_names_are_found_wherever_a_test_can_use_them() -> None:
    source = """
from nmtcli.data.corpus import Corpus, _first
from os import _exit
corpus._second()
self._own, cls._own, __name__, corpus.__class__
monkeypatch.setattr(corpus, "_third", None)
monkeypatch.setattr("nmtcli.data.corpus._fourth", None)
getattr(corpus, "_fifth")
"""
    found = [name for _, name in sorted(private_names(ast.parse(source)))]
    assert found == ["_first", "_second", "_third", "_fourth", "_fifth"]


def test_tests_use_no_private_names() -> None:
    found = [(module, *where) for module in TESTS for where in private_names(ast.parse(module.read_text("utf-8")))]
    assert [f"{module}:{line}: {name}" for module, line, name in found if name not in PRIVATE] == []
    assert set(PRIVATE) == {name for _, _, name in found}


def test_test_modules_import_nothing_from_each_other() -> None:
    found = [
        f"{module}:{line}: {name}"
        for module in TESTS
        for line, name in imports_of(module)
        if name.split(".")[0] == "tests" and any(part.startswith("test_") for part in name.split("."))
    ]
    assert found == []


def test_names_of_tests_have_a_subject() -> None:
    """A list of failures is read without the modules that they stand in."""
    tests = [
        node.name
        for module in TESTS
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in tests if name.split("_")[1] in ("it", "its", "they", "their")] == []
