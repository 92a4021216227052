"""Which device, precision and threads a command computes with. Only commands choose these."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from nmtcli.data.parallel import cores
from nmtcli.errors import ConfigError
from nmtcli.model.linear import sums_are_exact
from nmtcli.training.machine import Machine

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
BATCHES_KEPT = 25  # so many batches of work, freed memory is kept
CLEARLY_FASTER = 0.75  # a share of the time: a busy machine must not decide
PRECISION_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}  # of what is not quantised


def choose_device(name: str) -> torch.device:
    """The device of `--device`; fp32 on it means fp32, not TF32.

    Raises:
        ConfigError: no such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, but is {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs", "Use --device cpu")
    if device.type == "cuda":  # so that the random numbers that are saved are those of this one
        torch.cuda.set_device(device.index or 0)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Only algorithms that give the same each time; torch raises an error where it has none.

    A CPU's do anyhow, with one number of threads.
    """
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def choose_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or int8; `auto` is bf16 where the hardware multiplies it natively, on a CPU if that is clearly faster.

    CPUs differ: of two that have AVX512-BF16, one multiplies matrices in bf16 twice as fast as in fp32, the other half
    as fast. So it is tried, with the threads that are set, in some 100 milliseconds.
    """
    if name == "int8" and device.type != "cpu":
        raise ConfigError("--precision int8 is for a CPU", "Use --precision bf16, or --device cpu")
    if name == "int8" and not sums_are_exact():
        raise ConfigError("this CPU does not add products of 8-bit numbers exactly", "Use --precision fp32")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "fp32"
    fp32_seconds, bf16_seconds = product_seconds()
    return "bf16" if bf16_seconds < CLEARLY_FASTER * fp32_seconds else "fp32"


def machine_of(device: torch.device, precision: str) -> Machine:
    """Return the machine of a run, with the threads that are set.

    Args:
        device: from `choose_device`.
        precision: from `choose_precision`.
    """
    return Machine(device, precision, autocast(device, precision), torch.get_num_threads())


def product_seconds() -> tuple[float, float]:
    """The shortest times of a product of matrices as large as a layer's, in fp32 and in bf16 [seconds].

    The two take turns, so that what else the machine does hits both.
    """
    left, right = torch.ones(512, 512), torch.ones(512, 2048)
    pairs = [(left, right), (left.bfloat16(), right.bfloat16())]
    shortest = [float("inf"), float("inf")]
    for _ in range(8):
        for number, (one, other) in enumerate(pairs):
            began = time.perf_counter()
            one @ other
            shortest[number] = min(shortest[number], time.perf_counter() - began)
    return shortest[0], shortest[1]


def autocast(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context in which matrix products run in bf16, or in fp32."""

    def context() -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    return context


def keep_few_compiled() -> None:
    """For whatever has ever new shapes: oneDNN keeps what it compiles for each, of the last 1,024 unless it is
    told before it starts, which is some 150 MB."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def set_threads(threads: int) -> None:
    """Threads of one operation; 0: one for each core that this process may use."""
    torch.set_num_threads(threads or cores())


class FreedMemory:
    """Has glibc keep freed memory for the next batch, rather than hand it to the kernel and ask for it again.

    That is a tenth of the time of training. But batches differ in shape, and the pieces that are left of one seldom fit
    the next: kept for good they grow to several times of what is in use, so now and then all goes back. Elsewhere than
    on glibc this does nothing.
    """

    def __init__(self) -> None:
        self._batches = 0
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        if self._trim is not None:
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)

    def after_batch(self) -> None:
        """Counts batches; after every so many, hands back what is free [25 ms]."""
        self._batches += 1
        if self._trim is not None and self._batches % BATCHES_KEPT == 0:
            self._trim(0)
