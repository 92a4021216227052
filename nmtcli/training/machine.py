"""The hardware and precision used for a run; commands choose them (see commands/machine.py)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Hardware and precision used for a run.

    Attributes:
        device: device of the model and its batches.
        precision: precision of matrix products, fp32 or bf16.
        autocast: returns a context in which matrix products are computed in `precision`.
        threads: number of CPU threads per operation.
    """

    device: torch.device
    precision: str
    autocast: Callable[[], AbstractContextManager[object]]
    threads: int
