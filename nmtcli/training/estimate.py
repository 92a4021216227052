"""What training will take, before it is begun: memory, padding, updates, and time from a few updates that are timed."""

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nmtcli.config import TrainConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.subword import EOS, UNK
from nmtcli.errors import TrainingError
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.loop import is_out_of_memory

WARM_UP, TIMED = 2, 8  # updates
LEAST, MOST = 1 << 10, 1 << 16  # tokens of a batch that `auto` chooses; larger ones are no faster, and learn less
ROOM = 0.9  # of a GPU's memory
OPTIMIZER_STATES = 2  # as large as the weights, that come with the first update


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
        tokens_per_second: source and target, without padding, of all ranks, if each is as fast as this one alone.
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


def fitting_batch_tokens(
    model: Seq2Seq,
    loss: Loss,
    longest: tuple[int, int],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
) -> int:
    """What `--batch-tokens auto` is: on a GPU the largest batch that fits in its memory, found by trying.

    Args:
        model, loss, device, autocast: as for `Trainer`; random numbers are left as they were.
        longest: source and target of the longest pairs, of which the batches are made that are tried [tokens].
    Returns:
        sentences times longest side, a power of two; on a CPU the default [tokens].
    Raises:
        TrainingError: not even the smallest one fits.
    """
    if device.type != "cuda":
        return TrainConfig().batch_tokens
    source, target = longest
    pair = [UNK] * (source - 1) + [EOS], [UNK] * (target - 1) + [EOS]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    room = ROOM * torch.cuda.get_device_properties(device).total_memory - OPTIMIZER_STATES * weights
    fitting, tokens = 0, LEAST
    while tokens <= MOST:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            with torch.random.fork_rng([device]):
                with autocast():
                    sums = loss(model, Batch.of([pair] * max(1, tokens // max(source, target))).to(device), 0)
                sums.loss.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            model.zero_grad(set_to_none=True)
        if torch.cuda.max_memory_reserved(device) > room:
            break
        fitting, tokens = tokens, 2 * tokens
    torch.cuda.empty_cache()
    if not fitting:
        raise TrainingError(f"a batch of {LEAST:,} tokens does not fit in memory", "Use a smaller model")
    return fitting


def estimate(
    model: Seq2Seq,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batches: TrainingBatches,
    config: TrainConfig,
    *,
    ranks: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Estimate:
    """Makes some updates, which change the model, and counts the first epoch's batches.

    Args:
        model: in training mode.
        loss, optimizer, batches, config, device, autocast: as for `Trainer`.
        ranks: processes that will train together.
    Raises:
        TrainingError: a batch does not fit in memory.
    """

    def gradient(batch: Batch) -> None:
        try:
            with autocast():
                sums = loss(model, batch.to(device), 0)
            (sums.loss / loss.count(batch)).backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"a batch of {len(batch.source_BS):,} pairs, {batch.source_BS.shape[1]:,} and "
                f"{batch.target_output_BT.shape[1]:,} positions, does not fit in memory",
                "Use a lower --batch-tokens, or a smaller model",
            ) from error

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
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or torch.inf)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_UP:
            seconds += time.perf_counter() - began
            tokens += batch.source_tokens + batch.target_tokens
    places = batches.blocks * sum(sentences * (source + target) for sentences, source, target in shapes)
    real = batches.blocks * batches.tokens(0)
    updates = batches.blocks * -(-len(shapes) // (config.accumulate * ranks))
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
        tokens_per_second=ranks * tokens / seconds,
        seconds_per_update=real / (ranks * tokens / seconds) / updates,
    )
