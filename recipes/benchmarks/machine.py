"""What the machine can do: how fast it multiplies matrices of given shapes, and how fast it copies."""

import itertools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Product(NamedTuple):
    """A matrix product of the model: rows times (inputs by outputs)."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Two for each multiplication with its addition."""
        return 2 * self.rows * self.inputs * self.outputs


def seconds_of(call: Callable[[], object], device: torch.device, least: float = 0.2) -> float:
    """The median time of a call, made for so long [seconds]."""
    call()
    times: list[float] = []
    end = time.perf_counter() + least
    while time.perf_counter() < end or len(times) < 5:
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_seconds(product: Product, precision: str, device: torch.device) -> float:
    """How long torch takes for a product, into memory that is there [seconds]."""
    rows, inputs, outputs = product
    left = torch.randn(rows, inputs, device=device, dtype=DTYPES[precision])
    right = torch.randn(outputs, inputs, device=device, dtype=DTYPES[precision])
    result = left.new_empty(rows, outputs)
    return seconds_of(lambda: torch.mm(left, right.T, out=result), device)


def copy_rate(device: torch.device) -> float:
    """Bytes read and written in a second by a copy of 256 MiB."""
    data = torch.ones(1 << 26, device=device)
    target = torch.empty_like(data)
    return 2 * data.numel() * 4 / seconds_of(lambda: target.copy_(data), device)


def print_tables(tables: Mapping[str, Iterable[str]], device: torch.device, out: Path | None) -> None:
    """Prints tables, line by line as they come, under a heading with date, hardware, versions and commit.

    Args:
        tables: lines in Markdown, by the names of what they are about.
        device: what was measured.
        out: a file for them.
    """
    facts = ", ".join(f"{name}: {value}" for name, value in description(device).items())
    lines = [f"# {datetime.now(UTC):%Y-%m-%d}", "", facts, ""]
    print("\n".join(lines), flush=True)
    for name, table in tables.items():
        for line in itertools.chain((f"## {name}", ""), table, ("",)):
            print(line, flush=True)
            lines.append(line)
    if out:
        out.write_text("\n".join(lines), encoding="utf-8")


def description(device: torch.device) -> dict[str, str]:
    """Hardware, versions and commit, as results are labelled with."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "hardware": hardware,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in flags]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()} ({', '.join(wide)})"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
