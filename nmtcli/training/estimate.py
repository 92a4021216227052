"""What training will take, before it is begun: memory, padding, updates, and time from a few updates that are timed."""

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.losses.signature import Loss
from nmtcli.model.seq2seq import Seq2Seq

WARM_UP, TIMED = 2, 8  # updates


@dataclass(frozen=True)
class Estimate:
    """What training will take.

    Attributes:
        parameters: of the model.
        weights: of the parameters [bytes].
        gradients: likewise [bytes].
        optimizer: what the optimiser keeps [bytes].
        activations: what the largest batch keeps for the way back [bytes]; more may be needed for a moment.
        largest: the shape of that batch: sentences, source and target positions.
        padding: share of all positions of an epoch.
        updates_per_epoch: of so many batches each as are accumulated.
        tokens_per_second: source and target, without padding.
        seconds_per_update: the mean of those that were timed, weighted by their tokens.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    largest: tuple[int, int, int]
    padding: float
    updates_per_epoch: int
    tokens_per_second: float
    seconds_per_update: float

    @property
    def memory(self) -> int:
        """All of it together [bytes]."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    model: Seq2Seq,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batches: TrainingBatches,
    *,
    accumulate: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Estimate:
    """Makes some updates, which change the model, and counts the first epoch's batches.

    Args:
        model: in training mode.
        loss, optimizer, batches, device, autocast: as for `Trainer`.
        accumulate: batches of an update.
    """

    def gradient(batch: Batch) -> None:
        with autocast():
            sums = loss(model, batch.to(device), 0)
        (sums.loss / loss.count(batch)).backward()  # type: ignore[no-untyped-call]

    shapes = batches.shapes(0)
    largest = max(range(len(shapes)), key=lambda number: shapes[number][0] * sum(shapes[number][1:]))
    kept: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gradient(next(batches.stream(0, largest)))
    optimizer.step()

    group = list(itertools.islice(batches.stream(0, 0), WARM_UP + TIMED))  # made before the clock runs
    seconds, tokens = 0.0, 0
    for number, batch in enumerate(group):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        gradient(batch)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= min(WARM_UP, len(group) - 1):
            seconds += time.perf_counter() - began
            tokens += batch.source_tokens + batch.target_tokens
    real, places = batches.tokens(0), sum(sentences * (source + target) for sentences, source, target in shapes)
    updates = -(-len(shapes) // accumulate)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return Estimate(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights=weights,
        gradients=weights,
        optimizer=sum(value.numel() * value.element_size() for value in states),
        activations=sum(kept.values()),
        largest=shapes[largest],
        padding=1 - real / places,
        updates_per_epoch=updates,
        tokens_per_second=tokens / seconds,
        seconds_per_update=real / (tokens / seconds) / updates,
    )
