"""Estimate the cost of training: memory, padding and the number of updates, and time, measured in a few updates."""

import itertools
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from nmtcli.config import TrainConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.subword import EOS, UNK
from nmtcli.errors import TrainingError
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.checkpoint import RunState
from nmtcli.training.distributed import World
from nmtcli.training.machine import Machine
from nmtcli.training.updater import OutOfMemory, Updater

WARM_UP, TIMED = 2, 8  # number of untimed updates at the start, and of timed updates
LEAST, MOST = 1 << 10, 1 << 16  # range of `auto` [tokens/batch]; larger batches are no faster and learn less
ROOM = 0.9  # maximum fraction of a GPU's memory to use
OPTIMIZER_STATES = 2  # each as large as the weights; allocated by the first update


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of training.

    Attributes:
        parameters: number of parameters of the model.
        weights: memory of the parameters [bytes].
        gradients: memory of the gradients [bytes].
        optimizer: memory of the optimiser's state [bytes].
        activations: memory of the tensors that the forward pass of the largest batch saves for its backward pass; peak
            memory may be higher [bytes].
        largest: shape of the largest batch: sentences, source positions, target positions.
        padding: fraction of the positions in an epoch that are padding.
        updates_per_epoch: number of updates in an epoch, given the number of ranks and --accumulate.
        tokens_per_second: speed of all ranks together, if each is as fast as this process; source and target tokens are
            counted, padding is not.
        seconds_per_update: mean time per update in an epoch, computed from `tokens_per_second`.
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
        """Total memory of weights, gradients, optimiser state and activations [bytes]."""
        return self.weights + self.gradients + self.optimizer + self.activations


def fitting_batch_tokens(
    state: RunState, loss: Loss, longest: tuple[int, int], config: TrainConfig, machine: Machine
) -> int:
    """Resolve `--batch-tokens auto`: on a GPU, try batches of growing size and return the largest that fits in memory.

    Args:
        state: state of the run, with the model in training mode; torch's generators stay unchanged.
        loss: the training objective.
        longest: lengths of the longest source and the longest target sentence, which all trial pairs have [tokens].
        config: options of the run.
        machine: the hardware and precision used.
    Returns:
        maximum of sentences times the longest sentence, source or target, in a batch [tokens/batch]: on a GPU, a power
        of two; on a CPU, the default of `TrainConfig.batch_tokens`.
    Raises:
        TrainingError: not even the smallest batch fits in memory.
    """
    device = machine.device
    if device.type != "cuda":
        return TrainConfig().batch_tokens
    model = state.model
    updater = Updater(model, loss, state.optimizer, config, machine=machine, world=World(), on_split=_refuse)
    source, target = longest
    pair = [UNK] * (source - 1) + [EOS], [UNK] * (target - 1) + [EOS]
    room = ROOM * torch.cuda.get_device_properties(device).total_memory - OPTIMIZER_STATES * _bytes_of(model)
    fitting, tokens = 0, LEAST
    while tokens <= MOST:
        torch.cuda.reset_peak_memory_stats(device)
        batch = Batch.of([pair] * max(1, tokens // max(source, target)))
        try:
            with torch.random.fork_rng([device]):
                updater.gradient([batch], loss.count(batch), 1)
        except OutOfMemory:
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
    state: RunState, loss: Loss, batches: TrainingBatches, config: TrainConfig, machine: Machine, *, ranks: int
) -> Estimate:
    """Estimate the cost of training from the batches planned for the first epoch and a few updates of the model.

    Args:
        state: state of the run, with the model in training mode; the updates change it in place.
        loss, batches, config, machine: as in `training.assembly.Parts`.
        ranks: number of processes that will train together.
    Raises:
        TrainingError: a batch does not fit in memory.
    """
    model, optimizer = state.model, state.optimizer
    updater = Updater(model, loss, optimizer, config, machine=machine, world=World(), on_split=_refuse)
    shapes = batches.shapes(0)
    largest = max(range(len(shapes)), key=lambda number: shapes[number][0] * sum(shapes[number][1:]))
    kept: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        updater.update([next(batches.stream(0, largest))], 1, config.learning_rate)

    group = list(itertools.islice(batches.stream(0, 0), WARM_UP + TIMED))  # prepared before the clock starts
    seconds, tokens = 0.0, 0
    for number, batch in enumerate(group):
        began = time.perf_counter()
        updater.update([batch], 1, config.learning_rate)
        if machine.device.type == "cuda":
            torch.cuda.synchronize(machine.device)
        if number >= WARM_UP:
            seconds += time.perf_counter() - began
            tokens += batch.source_tokens + batch.target_tokens
    places = batches.blocks * sum(sentences * (source + target) for sentences, source, target in shapes)
    real = batches.blocks * batches.tokens(0)
    updates = batches.blocks * -(-len(shapes) // (config.accumulate * ranks))
    states = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    return Estimate(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights=_bytes_of(model),
        gradients=_bytes_of(model),
        optimizer=sum(value.numel() * value.element_size() for value in states),
        activations=sum(kept.values()),
        largest=shapes[largest],
        padding=1 - real / places,
        updates_per_epoch=updates,
        tokens_per_second=ranks * tokens / seconds,
        seconds_per_update=real / (ranks * tokens / seconds) / updates,
    )


def _refuse(batch: Batch) -> NoReturn:
    """Raise an error for a batch that training would split in two: the estimate leaves out the time of a split."""
    raise TrainingError(
        f"a batch of {len(batch.source_BS):,} pairs, {batch.source_BS.shape[1]:,} and "
        f"{batch.target_output_BT.shape[1]:,} positions, does not fit in memory",
        "Use a lower --batch-tokens, or a smaller model",
    )


def _bytes_of(model: Seq2Seq) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
