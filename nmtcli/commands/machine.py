"""Choose the device, precision and number of threads; only commands make these choices."""

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
BATCHES_KEPT = 25  # number of batches after which freed memory is returned to the operating system
CLEARLY_FASTER = 0.75  # maximum bf16 time / fp32 time to choose bf16; leaves a margin for noise on a busy machine
PRECISION_TYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}  # types of values that are not quantised


def choose_device(name: str) -> torch.device:
    """Return the device named by `--device`; on a GPU, turn off TF32, so that fp32 products have full precision.

    Raises:
        ConfigError: the name is not valid, or this machine has no such device.
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
        raise ConfigError(
            f"--device {name} does not exist; GPUs on this machine: {torch.cuda.device_count()}", "Use --device cpu"
        )
    if device.type == "cuda":  # so that checkpoints save the random generator of this GPU
        torch.cuda.set_device(device.index or 0)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Make torch use only deterministic algorithms in this context; an operation that has none raises an error.

    On a CPU, results are deterministic anyway as long as the number of threads stays the same.
    """
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads this when it starts
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def choose_precision(name: str, device: torch.device) -> str:
    """Resolve `--precision` to fp32, bf16 or int8.

    `auto` becomes bf16 on hardware with native bf16 products (on a CPU, only if it is also clearly faster), else fp32.
    CPUs differ: of two with AVX512-BF16, one multiplied matrices twice as fast in bf16 as in fp32, the other half as
    fast. So both precisions are timed, with the current number of threads, which takes about 100 ms.

    Raises:
        ConfigError: int8 was requested on a GPU, or on a CPU that cannot add int8 products exactly.
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
    """Return the hardware and precision for a run, with torch's current number of threads.

    Args:
        device: from `choose_device`.
        precision: from `choose_precision`.
    """
    return Machine(device, precision, autocast(device, precision), torch.get_num_threads())


def product_seconds() -> tuple[float, float]:
    """Time a matrix product of typical layer size; return the shortest time in fp32 and in bf16 [seconds].

    Measurements alternate between fp32 and bf16, so that other load on the machine affects both.
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
    """Return a function that makes a context in which matrix products use bf16 if `precision` is bf16, else fp32."""

    def context() -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    return context


def keep_few_compiled() -> None:
    """Limit the number of compiled kernels that oneDNN caches, for work in which tensor shapes keep changing.

    oneDNN keeps the last 1,024 kernels by default, about 150 MB. The limit must be set before oneDNN starts.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")


def set_threads(threads: int) -> None:
    """Set the number of CPU threads per operation; 0 means one thread per core that this process may use."""
    torch.set_num_threads(threads or cores())


class FreedMemory:
    """Makes glibc keep freed memory for the next batch rather than return it to the operating system at once.

    This saves a tenth of the training time. But batches differ in shape, and blocks freed by one batch seldom fit the
    next. If freed memory were kept forever, it would grow to several times the memory in use, so `after_batch` returns
    all of it every `BATCHES_KEPT` batches. Without glibc, this class does nothing.
    """

    def __init__(self) -> None:
        self._batches = 0
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        if self._trim is not None:
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)

    def after_batch(self) -> None:
        """Count a batch; every `BATCHES_KEPT` batches, return freed memory to the operating system in 25 ms."""
        self._batches += 1
        if self._trim is not None and self._batches % BATCHES_KEPT == 0:
            self._trim(0)
