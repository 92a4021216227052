"""One update: forward, backward, clipping and optimiser step. Batches that do not fit in memory are cut in two."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from nmtcli.config import TrainConfig
from nmtcli.data.batches import Batch
from nmtcli.data.subword import EOS, UNK
from nmtcli.errors import TrainingError
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.distributed import Objective, World, answered, without_sync
from nmtcli.training.machine import Machine
from nmtcli.training.optimizer import update_ema


class OutOfMemory(Exception):
    """A batch does not fit in memory.

    Attributes:
        batch: the batch that does not fit.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch


class UpdateResult(NamedTuple):
    """Result of one update; all sums are over the batches of all ranks, unless the update was skipped.

    Attributes:
        is_done: False if the update was skipped because its gradient was not finite; the weights are then unchanged,
            and loss and nll are sums over this rank's batches only.
        gradient_norm: norm of the gradient before clipping.
        loss: summed loss; a per-sentence loss is rescaled so that loss / target_tokens is its mean.
        nll: summed negative log-likelihood [nats]; NaN if the loss does not compute it.
        target_tokens, source_tokens: number of tokens on each side, excluding padding.
    """

    is_done: bool
    gradient_norm: float
    loss: float
    nll: float
    target_tokens: int
    source_tokens: int


class Updater:
    """Updates the weights of a model.

    Args:
        model: the model, on its device and in training mode.
        loss: the training objective.
        optimizer: the optimiser for the model's parameters.
        config: gives clip_norm and ema.
        machine: the hardware and precision used.
        world: the ranks that train together.
        ema_model: the moving average of the weights, updated after each update; None without --ema.
        on_split: called with each batch that does not fit in memory, before it is cut in two; does nothing by default.
    """

    def __init__(
        self,
        model: Seq2Seq,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        *,
        machine: Machine,
        world: World,
        ema_model: Seq2Seq | None = None,
        on_split: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._model = model
        self._loss = loss
        self._objective = world.data_parallel(Objective(model, loss))
        self._optimizer = optimizer
        self._config = config
        self._machine = machine
        self._world = world
        self._ema_model = ema_model
        self._on_split = on_split
        self._parameters = list(model.parameters())

    def update(self, group: list[Batch], number: int, rate: float) -> UpdateResult:
        """Make one update on the mean loss over the batches of all ranks; skip it if the gradient is not finite.

        Args:
            group: this rank's batches; may be empty at the end of an epoch, if fewer batches than ranks are left.
            number: number of the update, from 1.
            rate: the learning rate.
        Raises:
            TrainingError: a single pair does not fit in memory, or, with several ranks, any batch.
        """
        counts = [(batch.target_tokens, batch.source_tokens, self._loss.count(batch)) for batch in group]
        totals = self._world.all_reduce_sum([sum(column) for column in zip((0, 0, 0), *counts, strict=True)])
        target_tokens, source_tokens, count = (round(total) for total in totals)
        sums = self._gradient_in_parts(group, count, number)
        total_norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        norm, loss, nll = torch.stack([total_norm.double(), *sums]).tolist()  # only here does the host wait for the GPU
        is_finite = math.isfinite(norm)
        if is_finite:
            self._step(total_norm, number, rate)
            loss, nll = self._world.all_reduce_sum([loss, nll])
            loss *= target_tokens / count
        return UpdateResult(is_finite, norm, loss, nll, target_tokens, source_tokens)

    def _step(self, total_norm: Tensor, number: int, rate: float) -> None:
        if self._config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip_norm, total_norm)
        for settings in self._optimizer.param_groups:
            settings["lr"] = rate
        self._optimizer.step()
        if self._ema_model is not None:
            update_ema(self._ema_model, self._model, self._config.ema, number)

    def gradient(self, group: list[Batch], count: int, number: int) -> tuple[Tensor, Tensor]:
        """Compute the gradient of the mean loss over the batches of all ranks.

        Args:
            group, number: the arguments of `update`.
            count: divisor of the mean: the sum of `Loss.count` over the batches of all ranks.
        Returns:
            loss and nll, each summed over this rank's batches, in float64; nll is NaN if the loss does not compute it.
        Raises:
            OutOfMemory: a batch does not fit in memory.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss, nll = torch.zeros(2, dtype=torch.float64, device=self._machine.device)
        share = float(bool(group))  # a rank without batches still takes part in the all-reduce, with a zero gradient
        for place, batch in enumerate(group or [Batch.of([([UNK, EOS], [UNK, EOS])])], start=1):
            try:
                with without_sync(self._objective) if place < len(group) else nullcontext():
                    with self._machine.autocast():
                        sums = self._objective(batch.to(self._machine.device), number - 1)
                    # the all-reduce averages over the ranks; multiplying by their number turns the mean into a sum
                    with answered(self._world):
                        (sums.loss * share / count * self._world.size).backward()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(batch) from error
            loss = loss + share * sums.loss.detach()
            nll = nll + (math.nan if sums.nll is None else share * sums.nll.detach())
        return loss, nll

    def _gradient_in_parts(self, group: list[Batch], count: int, number: int) -> tuple[Tensor, Tensor]:
        """Call `gradient`, cutting in two each batch that does not fit in memory."""
        while True:
            try:
                return self.gradient(group, count, number)
            except OutOfMemory as full:
                group = self._split(group, full.batch, number)

    def _split(self, group: list[Batch], batch: Batch, number: int) -> list[Batch]:
        """Return the group with `batch` replaced by its two halves; discard the gradient computed so far.

        Raises:
            TrainingError: the batch is a single pair, or there are several ranks.
        """
        self._optimizer.zero_grad(set_to_none=True)
        if self._machine.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._world.size > 1:  # the other ranks do not know that a batch was cut in two
            raise TrainingError(
                f"update {number:,}: a batch of {len(batch.source_BS):,} pairs does not fit in memory",
                "Start again with a lower --batch-tokens, and a higher --accumulate",
            )
        if len(batch.source_BS) == 1:
            raise TrainingError(
                f"update {number:,}: a pair of {batch.source_tokens:,} and {batch.target_tokens:,} tokens "
                f"does not fit in memory",
                "Preprocess with a lower --max-length, or train a smaller model; continue with --resume",
            )
        self._on_split(batch)
        return [part for one in group for part in (one.halves() if one is batch else (one,))]


def is_out_of_memory(error: Exception) -> bool:
    """Return True if an error means that memory is exhausted; on a CPU, torch may raise a plain RuntimeError for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
