"""The processes that train one model together, on one machine or several: data-parallel, by torch.distributed.

A launcher (`torchrun`, or `nmt train --nproc`) starts them and says by environment variables who is who. Each update
is made of `accumulate` batches for each of them, taken from the epoch's plan in its order: batch i goes to rank i
modulo their number. Gradients are of sums and are divided by what was counted on all ranks, so N ranks make the update
that one makes of N times the accumulated batches. Only the first rank writes; all others follow what it decides. All
read the data and the model directory, so on several machines these lie on a file system that all of them see.
"""

import json
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nmtcli.data.batches import Batch
from nmtcli.errors import RankError, Stopped, WorldError
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq

T = TypeVar("T")

NO_ANSWER = "has no answer from another rank"

SAYS_TO_LAUNCHER = "NMT_SAYS_TO_LAUNCHER"  # environment: `launch` says what a rank's error is, not the rank


class World:
    """One process that trains alone; `Ranks` is one of several.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """This is the one that writes."""
        return self.rank == 0

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over the ranks."""
        return [float(number) for number in numbers]

    def broadcast(self, value: T) -> T:
        """Return the first rank's value on every rank."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in order, on the first rank; an empty list on the others."""
        return [value]

    def all_reduce_max(self, number: float) -> float:
        """Return the largest number of all ranks."""
        return number

    def data_parallel(self, objective: "Objective") -> nn.Module:
        """Wrap an objective so that its backward pass leaves the mean gradient over the ranks on each of them."""
        return objective

    def broadcast_weights(self, model: Seq2Seq) -> None:
        """Copy the first rank's weights to the models of the others."""


class Ranks(World):
    """One of several processes.

    Args:
        control: the group that numbers and decisions go through; gradients go through the default one.
    """

    def __init__(self, control: Any) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._control = control

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        values = torch.tensor(list(numbers), dtype=torch.float64)
        with answered(self):
            torch.distributed.all_reduce(values, group=self._control)
        return [float(value) for value in values]

    def broadcast(self, value: T) -> T:
        values = [value]
        with answered(self):
            torch.distributed.broadcast_object_list(values, src=0, group=self._control)
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with answered(self):
            torch.distributed.gather_object(value, values, dst=0, group=self._control)
        return values or []

    def data_parallel(self, objective: "Objective") -> nn.Module:
        return nn.parallel.DistributedDataParallel(objective)

    def all_reduce_max(self, number: float) -> float:
        value = torch.tensor(number, dtype=torch.float64)
        with answered(self):
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX, group=self._control)
        return float(value)

    def broadcast_weights(self, model: Seq2Seq) -> None:
        with answered(self), torch.no_grad():
            for parameter in model.parameters():
                torch.distributed.broadcast(parameter.detach(), src=0)


class Objective(nn.Module):
    """A loss of a model as one module, which DistributedDataParallel can wrap.

    Args:
        model: on its device, in training mode.
        loss: sums over a batch.
    """

    def __init__(self, model: Seq2Seq, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch, update: int) -> LossSums:
        """Return the loss of a batch; see `Loss`."""
        return self._loss(self.model, batch, update)


def without_sync(objective: nn.Module) -> AbstractContextManager[object]:
    """Make a context in which a backward pass adds to this rank's gradients only."""
    if isinstance(objective, nn.parallel.DistributedDataParallel):
        return objective.no_sync()
    return nullcontext()


@contextmanager
def answered(world: World) -> Iterator[None]:
    """Says in one line that another rank did not answer.

    Raises:
        WorldError: it died, or took longer than the timeout.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if world.size == 1 or not (isinstance(error, torch.distributed.DistError) or "gloo" in text or "nccl" in text):
            raise
        raise WorldError(
            f"rank {world.rank} of {world.size} on {socket.gethostname()} {NO_ANSWER} "
            f"({str(error).splitlines()[0].strip()})",
            "It died, or took longer than --timeout: see what it said; go on with --resume",
        ) from error


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[World]:
    """This process, or this rank of those that a launcher has started.

    Args:
        device: where the model is.
        timeout: the longest that a rank waits for another [seconds].
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    distributed, wait = torch.distributed, timedelta(seconds=timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=wait, **_store_of_attempt(wait))
    try:
        yield Ranks(distributed.new_group(backend="gloo", timeout=wait) if backend == "nccl" else None)
    finally:
        distributed.destroy_process_group()


def _store_of_attempt(wait: timedelta) -> dict[str, Any]:
    """Where ranks find each other, as arguments of `init_process_group`; none: torch knows.

    torchrun keeps one store for all its restarts, in which a rank would find the addresses of those that are gone
    (pytorch issue 135712). So each attempt has a part of its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    stores: Any = torch.distributed
    whole = stores.TCPStore(os.environ["MASTER_ADDR"], port, size, False, timeout=wait)
    attempt = stores.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], whole)
    return {"store": attempt, "rank": rank, "world_size": size}


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Starts so many ranks of `nmt` with these arguments on this machine, and waits for them. If one fails, all end.

    Raises:
        RankError: what the first one said that failed.
        Stopped: a signal came; the ranks have saved.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[SAYS_TO_LAUNCHER] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        elastic_launch(settings, sys.executable)("-m", "nmtcli", *arguments)
    except SignalException as stop:
        raise Stopped(int(stop.sigval), "Stopped; go on with nmt train --resume") from stop
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _order(item[1]))
        raise RankError(rank, failure.exitcode, _said(failure.error_file)) from error


def _order(failure: Any) -> tuple[int, int]:
    """What failed first: its time, in whole seconds, does not tell it from what only waited for it, or was stopped."""
    if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
        return 0, failure.timestamp
    is_effect = abs(failure.exitcode) in (signal.SIGTERM, 128 + signal.SIGTERM) or NO_ANSWER in _said(
        failure.error_file
    )
    return 1 + is_effect, failure.timestamp


def _said(error_file: str) -> str:
    try:
        content = json.loads(Path(error_file).read_text(encoding="utf-8"))
        return str(content["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
