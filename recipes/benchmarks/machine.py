"""Measure the machine: its rate of matrix products of given shapes, and of copies."""

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
    """A matrix product of the model: (rows, inputs) times (inputs, outputs)."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Number of floating-point operations: two for each multiply-add."""
        return 2 * self.rows * self.inputs * self.outputs


def seconds_of(call: Callable[[], object], device: torch.device, least: float = 0.2) -> float:
    """Measure the median time of a call [s], repeating it for at least `least` seconds."""
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
    """Wait until a GPU has finished its work; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_seconds(product: Product, precision: str, device: torch.device) -> float:
    """Measure the time that torch takes for a product, without allocating memory [s]."""
    rows, inputs, outputs = product
    left = torch.randn(rows, inputs, device=device, dtype=DTYPES[precision])
    right = torch.randn(outputs, inputs, device=device, dtype=DTYPES[precision])
    result = left.new_empty(rows, outputs)
    return seconds_of(lambda: torch.mm(left, right.T, out=result), device)


def copy_rate(device: torch.device) -> float:
    """Measure the bytes read and written per second in a copy of 256 MiB."""
    data = torch.ones(1 << 26, device=device)
    target = torch.empty_like(data)
    return 2 * data.numel() * 4 / seconds_of(lambda: target.copy_(data), device)


def print_tables(tables: Mapping[str, Iterable[str]], device: torch.device, out: Path | None) -> None:
    """Print tables, each line at once, under a heading with date, hardware, versions and commit.

    Args:
        tables: Markdown lines of each table, by its title.
        device: the measured device.
        out: write them to this file, too.
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
    """Describe hardware, versions and commit, to label results."""
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
