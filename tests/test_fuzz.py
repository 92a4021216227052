"""Damage in any file of both directories gives a one-line error and exit code 4, or the same result as without damage.

NMT_FUZZ_CASES is the number of cases of each kind (`make chaos`: many). A failure names its case, which determines the
damage.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmtcli.store.weights import read_tensors
from tests.conftest import TINY, Nmt, Result

CASES = int(os.environ.get("NMT_FUZZ_CASES", "60"))
ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 62,
    1e308,
    0.5,
    "",
    "x",
    "../../etc/passwd",
    [],
    {},
    [1, "a"],
    "\0",
    "▁",
]


def flipped(rng: random.Random, content: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 20))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def cut(rng: random.Random, content: bytearray) -> None:
    del content[rng.choice((0, 1, len(content) - 1, rng.randrange(len(content)))) :]


def inserted(rng: random.Random, content: bytearray) -> None:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.choice((1, 3, 100)))


def swapped(rng: random.Random, content: bytearray) -> None:
    size = rng.choice((1, 8, 64))
    one, other = (rng.randrange(max(1, len(content) - size)) for _ in range(2))
    content[one : one + size], content[other : other + size] = content[other : other + size], content[one : one + size]


def zeroed(rng: random.Random, content: bytearray) -> None:
    start = rng.randrange(len(content))
    size = min(rng.choice((1, 8, 512)), len(content) - start)
    content[start : start + size] = bytes(size)


def appended(rng: random.Random, content: bytearray) -> None:
    content.extend(rng.randbytes(rng.choice((1, 8, 1000))))


def replaced(rng: random.Random, content: bytearray) -> None:
    content[:] = rng.choice(
        (b"", b"\n", b"{}", b"[" * 100_000, b"\x80\x04cos\nsystem\n.", b"\x93NUMPY\x01\x00", bytes(999))
    )


def odd_json(rng: random.Random, content: bytearray) -> None:
    """Change or delete a value somewhere in the object."""
    whole = json.loads(content)
    place: Any = whole
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
            break
        place = inner
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(ODD_VALUES)
    content[:] = json.dumps(whole).encode()


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; return a description of the damage."""
    content = bytearray(path.read_bytes())
    kinds: list[Callable[[random.Random, bytearray], None]] = [
        flipped,
        inserted,
        swapped,
        zeroed,
        appended,
        cut,
        replaced,
    ]
    if path.suffix == ".json":
        kinds += [odd_json] * 10
    kind = rng.choice(kinds if content else [appended, replaced])
    kind(rng, content)
    path.write_bytes(content)
    return f"{path.name} {kind.__name__}"


def a_file(directory: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in directory.rglob("*") if path.is_file()))


def assert_refused(result: Result, codes: tuple[int, ...], what: str) -> None:
    """Check that there is a one-line error and no output."""
    *_, last = result.err.splitlines() or [""]
    assert result.code in codes, f"{what}: exit {result.code}, {result.err}"
    assert last.startswith("Error: "), f"{what}: {result.err}"
    assert "Traceback" not in result.err, what
    assert result.out == b"", what


def weights(model: Path) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in read_tensors(model / "model.safetensors")[0].items()}


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_model_translates_as_it_did_or_is_refused(part: int, trained: Path, nmt: Nmt, tmp_path: Path) -> None:
    text = b"1 2 3\n\n4 5\n"
    expected = nmt("translate", "--model", trained, "--threads", "1", stdin=text)
    for case in range(part, CASES, 4):
        rng = random.Random(case)
        model = Path(shutil.copytree(trained, tmp_path / str(case)))
        path = a_file(model, rng)
        what = f"case {case}: {damage(path, rng)}"
        result = nmt("translate", "--model", model, "--threads", "1", stdin=text)
        if result.code:
            assert_refused(result, (4,), what)
        elif path.name != "config.json":  # it has no hash, because people edit it
            assert result.out == expected.out, what
        shutil.rmtree(model)


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_data_directory_trains_as_it_did_or_is_refused(
    part: int, data: Path, nmt: Nmt, tmp_path: Path
) -> None:
    options = [*TINY, "--max-updates", "1"]
    assert nmt("train", "--data", data, "--model", tmp_path / "whole", *options).code == 0
    expected = weights(tmp_path / "whole")
    for case in range(part, CASES, 4):
        rng = random.Random(1000 + case)
        copy, model = Path(shutil.copytree(data, tmp_path / f"data {case}")), tmp_path / f"model {case}"
        path = a_file(copy, rng)
        what = f"case {case}: {damage(path, rng)}"
        result = nmt("train", "--data", copy, "--model", model, *options)
        if result.code:
            assert_refused(result, (4,), what)
        else:
            assert weights(model) == expected, what
        shutil.rmtree(copy)
        shutil.rmtree(model, ignore_errors=True)


@pytest.mark.parametrize("part", range(4))
def test_a_damaged_run_goes_on_as_it_would_have_or_is_refused(part: int, data: Path, nmt: Nmt, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    assert nmt("train", "--data", data, "--model", begun, *TINY, "--max-updates", "2").code == 0
    more = ["--resume", "--max-updates", "3", "--threads", "1"]
    whole = Path(shutil.copytree(begun, tmp_path / "whole"))
    assert nmt("train", "--data", data, "--model", whole, *more).code == 0
    expected = weights(whole)
    for case in range(part, CASES, 4):
        rng = random.Random(2000 + case)
        model = Path(shutil.copytree(begun, tmp_path / str(case)))
        path = a_file(model, rng)
        what = f"case {case}: {damage(path, rng)}"
        result = nmt("train", "--data", data, "--model", model, *more)
        if result.code:
            assert_refused(result, (4,), what)
        elif path.name != "config.json":
            assert weights(model) == expected, what
        shutil.rmtree(model)
