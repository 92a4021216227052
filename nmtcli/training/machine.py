"""The hardware and precision that a run computes with; commands choose them (commands/machine.py)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Where and how to compute.

    Attributes:
        device: holds the model and its batches.
        precision: of matrix products, fp32 or bf16.
        autocast: makes the context in which matrix products run in that precision.
        threads: CPU threads of one operation.
    """

    device: torch.device
    precision: str
    autocast: Callable[[], AbstractContextManager[object]]
    threads: int
