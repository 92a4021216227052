"""Data-parallel training of one model by several processes, on one or more machines, with torch.distributed.

A launcher (`torchrun`, or `nmt train --nproc`) starts the processes and gives each its rank in environment variables.
Each update uses `accumulate` batches per rank, in the order of the epoch's plan: batch i goes to rank i modulo the
number of ranks. Gradients are summed over all ranks and divided by the total number of tokens or sentences, so N
ranks make the same update as one rank that accumulates N times as many batches. Only the first rank writes the model
directory, and the others follow its decisions. All ranks read the data and the model directory, so several
machines need a shared file system.
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
from nmtcli.data.parallel import cores
from nmtcli.errors import RankError, Stopped, WorldError
from nmtcli.losses.protocol import Loss, LossSums
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.ranks import AgentStore, environment, leave_errors_to_launcher

T = TypeVar("T")

NO_ANSWER = "has no answer from another rank"


class World:
    """The ranks that train together. This class is for a single process, its subclass `Ranks` for several.

    Attributes:
        rank: rank of this process, from 0.
        size: number of processes.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """True on rank 0, the only rank that writes the model directory."""
        return self.rank == 0

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over all ranks, and return the sums on every rank."""
        return [float(number) for number in numbers]

    def broadcast(self, value: T) -> T:
        """Return, on every rank, the value passed by the first rank."""
        return value

    def gather(self, value: T) -> list[T]:
        """On the first rank, return the values of all ranks, ordered by rank; on the other ranks, an empty list."""
        return [value]

    def all_reduce_max(self, number: float) -> float:
        """Return, on every rank, the maximum of a number over all ranks."""
        return number

    def data_parallel(self, objective: "Objective") -> nn.Module:
        """Wrap an objective so that its backward pass averages the gradients over all ranks."""
        return objective

    def broadcast_weights(self, model: Seq2Seq) -> None:
        """Copy the first rank's weights to the models on the other ranks."""


class Ranks(World):
    """The ranks that train together, as seen from one of several processes.

    Args:
        control: process group that exchanges numbers and decisions; if None, use the default group. Gradients and
            weights always use the default group.
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
    """A model and its loss as one module, so that DistributedDataParallel can wrap them.

    Args:
        model: the model, on its device and in training mode.
        loss: the training objective.
    """

    def __init__(self, model: Seq2Seq, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch, update: int) -> LossSums:
        """Return the loss sums of a batch; the arguments are those of `Loss.__call__`."""
        return self._loss(self.model, batch, update)


def without_sync(objective: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which backward passes accumulate gradients on this rank only, without an all-reduce."""
    if isinstance(objective, nn.parallel.DistributedDataParallel):
        return objective.no_sync()
    return nullcontext()


@contextmanager
def answered(world: World) -> Iterator[None]:
    """Turn the failure of a collective operation in this context into an error with a one-line message.

    Raises:
        WorldError: another rank died, or did not respond within the timeout.
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
            "It died, or took longer than --timeout: see its messages; continue with --resume",
        ) from error


@contextmanager
def joined(device: torch.device, timeout: float) -> Iterator[World]:
    """Join the other ranks that a launcher has started, or train alone if there are none.

    Args:
        device: the device of the model.
        timeout: maximum time that a rank waits for another rank [seconds].

    Raises:
        ConfigError: the launcher's environment variables are incomplete or contradictory.
    """
    ranks = environment()
    if ranks.world_size == 1:
        yield World()
        return
    distributed, wait = torch.distributed, timedelta(seconds=timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if ranks.agent_store is None:  # torch reads the launcher's environment variables itself
        distributed.init_process_group(backend, timeout=wait)
    else:
        store = _store_of_attempt(ranks.agent_store, ranks.world_size, wait)
        distributed.init_process_group(backend, timeout=wait, store=store, rank=ranks.rank, world_size=ranks.world_size)
    try:
        yield Ranks(distributed.new_group(backend="gloo", timeout=wait) if backend == "nccl" else None)
    finally:
        distributed.destroy_process_group()


def _store_of_attempt(agent: AgentStore, world_size: int, wait: timedelta) -> Any:
    """Open the part of the launcher's store that belongs to this attempt.

    After a restart, torchrun uses the same store again, so the new ranks would find the addresses of ranks that have
    exited (pytorch issue 135712). Therefore each attempt has its own key prefix.
    """
    stores: Any = torch.distributed
    whole = stores.TCPStore(agent.host, agent.port, world_size, False, timeout=wait)
    return stores.PrefixStore(agent.attempt, whole)


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Start several `nmt` processes on this machine, one per rank, and wait for them; if one fails, stop all others.

    Args:
        processes: number of processes.
        arguments: command-line arguments of each process, starting with `train`.

    Raises:
        RankError: a rank failed; if several failed, the error is that of the rank that most likely failed first.
        Stopped: a signal arrived, and the ranks have saved a checkpoint.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    leave_errors_to_launcher()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
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
        raise Stopped(int(stop.sigval), "Stopped; continue with nmt train --resume") from stop
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: _failure_order(item[1]))
        raise RankError(rank, failure.exitcode, _message_in(failure.error_file)) from error


def _failure_order(failure: Any) -> tuple[int, int]:
    """Return a sort key that puts the root cause first; timestamps are too coarse (whole seconds) to show the order."""
    if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
        return 0, failure.timestamp
    was_stopped = abs(failure.exitcode) in (signal.SIGTERM, 128 + signal.SIGTERM)
    is_effect = was_stopped or NO_ANSWER in _message_in(failure.error_file)
    return 1 + is_effect, failure.timestamp


def _message_in(error_file: str) -> str:
    """Read the error message that a rank left for the launcher; return "" if there is none."""
    try:
        content = json.loads(Path(error_file).read_text(encoding="utf-8"))
        return str(content["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
