"""The choice of device and precision."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from nmtcli.commands import machine
from nmtcli.commands.machine import choose_device, choose_precision
from nmtcli.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("bf16_seconds", "faster"), [(0.5, "bf16"), (0.9, "fp32"), (2.0, "fp32")])
def test_auto_is_bf16_where_a_cpu_has_it_and_is_faster_with_it(
    native: bool, bf16_seconds: float, faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(machine, "product_seconds", lambda: (1.0, bf16_seconds))
    assert choose_precision("auto", CPU) == (faster if native else "fp32")
    for name in ("fp32", "bf16"):
        assert choose_precision(name, CPU) == name


def test_a_product_takes_time_in_either_precision() -> None:
    assert all(0 < seconds < 60 for seconds in machine.product_seconds())


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "mps", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--device.*{name}"):
        choose_device(name)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_freed_memory_is_kept_for_some_batches_and_then_handed_back() -> None:
    script = """
import psutil, torch
from nmtcli.commands.machine import BATCHES_KEPT, FreedMemory
memory, process = FreedMemory(), psutil.Process()
resident = []
for batch in range(2 * BATCHES_KEPT):
    pieces = [torch.ones(1 << 18) for _ in range(200)]  # 200 MiB, more than would be kept by itself
    held = pieces[-1]  # at the end, so that what is before it cannot go by shrinking the heap
    del pieces
    memory.after_batch()
    resident.append(process.memory_info().rss >> 20)
print(resident[0], resident[BATCHES_KEPT - 2], resident[BATCHES_KEPT - 1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, kept, handed_back = map(int, done.stdout.split())
    assert kept >= first - 20
    assert handed_back < kept - 150


@pytest.mark.parametrize("given", [None, "64"])
def test_as_few_products_are_kept_as_is_said_and_else_256(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", given or "")
    if given is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    machine.keep_few_compiled()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == (given or "256")
