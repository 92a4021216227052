"""The training loop: batches in, updates, validations, saves, until there is a reason to stop.

`log.jsonl` has one object a line. All have `kind`, `update` [updates] and `epoch`.

    kind "train": `loss` (of --loss; cross-entropy's, with smoothing, in nats/token) and `nll` [nats/token] (null where
        the loss does not compute it), `learning_rate`, `gradient_norm` (before clipping, of the last update),
        `tokens_per_second` (source and target), `skipped` (updates so far whose gradient was not finite), `splits`
        (batches so far that did not fit in memory and were cut in two: after one a run is no longer the same, bit for
        bit, as it would be elsewhere), `seconds` (of training so far, validations apart)
    kind "validation": `loss` [nats/token], `perplexity`, `bleu`, `bleu_signature`, `chrf`, `chrf_signature`, `best` (it
        is the best so far), `seconds` (it took)
    kind "average": as validation, and `averaged` (the updates)
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nmtcli.config import TrainConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.subword import EOS, UNK
from nmtcli.errors import Stopped, TrainingError, WorldError
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.checkpoint import ModelDirectory, random_states
from nmtcli.training.distributed import Objective, World, answered, without_sync
from nmtcli.training.optimizer import update_ema
from nmtcli.training.progress import Events, Progress
from nmtcli.training.schedule import learning_rate
from nmtcli.training.validation import Validation


class OutOfMemory(Exception):
    """A batch does not fit in memory."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch


class Trainer:
    """Trains a model from where its progress stands.

    Args:
        model: on its device, in training mode.
        loss: sums over a batch.
        optimizer: of the model's parameters.
        batches: the training corpus.
        validate: measures a model.
        directory: where checkpoints go.
        config: lengths, rates and rules.
        progress: where to begin.
        mean: the running mean of the weights, which is validated and kept in their place; None: there is none.
        events: who is told.
        device: where the model is.
        autocast: the precision to compute in.
        signal_seen: the number of a signal that asks to stop, or 0.
        world: the processes that train together; None: this one alone.
    """

    def __init__(
        self,
        model: Seq2Seq,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        batches: TrainingBatches,
        validate: Callable[[Seq2Seq], Validation],
        directory: ModelDirectory,
        config: TrainConfig,
        *,
        progress: Progress,
        mean: Seq2Seq | None,
        events: Events,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]],
        signal_seen: Callable[[], int],
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        self._objective = self._world.shared(Objective(model, loss))
        self._model = model
        self._loss = loss
        self._optimizer = optimizer
        self._batches = batches
        self._validate = validate
        self._directory = directory
        self._config = config
        self._progress = progress
        self._mean = mean
        self._shown = model if mean is None else mean
        self._events = events
        self._device = device
        self._autocast = autocast
        self._signal_seen = signal_seen
        self._parameters = list(model.parameters())
        self._started = time.monotonic()
        self._skips_in_a_row = 0
        self._norm = 0.0
        self._rate = 0.0
        self._validated_at = progress.validations[-1][0] if progress.validations else 0

    def run(self) -> str:
        """Trains until there is a reason to stop, then validates once more and averages if asked to.

        Returns:
            the reason, as a phrase.
        Raises:
            Stopped: a signal came; all is saved.
            TrainingError: too many updates in a row were not finite.
        """
        self._progress.log_bytes = self._directory.cut_log(self._progress.log_bytes)
        stream = self._batches.stream(self._progress.epoch, self._progress.batch, self._progress.block)
        reason = self._reason_to_stop()
        while not reason:
            reason = self._advance(stream)
        self._save(at_the_end=True)
        if self._validated_at != self._progress.update:
            self._check_model(in_turn=False)
        if self._config.average:
            self._average()
        return reason

    def _advance(self, stream: Iterator[Batch]) -> str:
        """One update and what is due after it; gives a reason to stop, if there is one."""
        config, progress = self._config, self._progress
        began = time.monotonic()
        blocks, count = self._batches.blocks, len(self._batches.plan(progress.epoch, progress.block))
        world = self._world
        of_all = min(config.accumulate * world.size, count - progress.batch)
        was_done = self._update(list(itertools.islice(stream, len(range(world.rank, of_all, world.size)))))
        progress.seconds += time.monotonic() - began
        progress.batch += of_all
        if progress.batch == count:
            progress.block, progress.batch = progress.block + 1, 0
        epoch_ended = progress.block == blocks
        if epoch_ended:
            progress.epoch, progress.block = progress.epoch + 1, 0
        self._events.updated(progress, count * blocks)
        if was_done and progress.update % config.log_every == 0:
            self._log_training()
        every = config.validate_every
        validated = was_done and progress.update % every == 0 if every else epoch_ended
        if validated:
            self._check_model()
        if validated or (was_done and config.save_every and progress.update % config.save_every == 0):
            self._save()
        if signal_number := int(world.all_reduce_max(self._signal_seen())):
            self._save(at_the_end=True)
            raise Stopped(signal_number, f"Stopped at update {progress.update:,}; go on with nmt train --resume")
        return self._reason_to_stop() or world.broadcast(self._out_of_time())

    def _update(self, group: list[Batch]) -> bool:
        """One update from a group of batches; False where its gradient was not finite and it was left out."""
        config, progress, world = self._config, self._progress, self._world
        numbers = [(batch.target_tokens, batch.source_tokens, self._loss.count(batch)) for batch in group]
        tokens, source_tokens, count = (
            round(number)
            for number in world.all_reduce_sum([sum(column) for column in zip((0, 0, 0), *numbers, strict=True)])
        )
        while True:
            try:
                sums = self._gradient(group, count)
                break
            except OutOfMemory as full:
                group = self._split(group, full.batch)
        total_norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        norm, loss, nll = torch.stack([total_norm.double(), *sums]).tolist()  # the only time that the host waits
        if not math.isfinite(norm):
            self._skip(norm)
            return False
        if config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, config.clip_norm, total_norm)
        progress.update += 1
        self._rate = self._learning_rate()
        for settings in self._optimizer.param_groups:
            settings["lr"] = self._rate
        self._optimizer.step()
        if self._mean is not None:
            update_ema(self._mean, self._model, config.ema, progress.update)
        self._skips_in_a_row = 0
        self._norm = norm
        loss, nll = world.all_reduce_sum([loss, nll])
        progress.loss += loss * (tokens / count)
        progress.nll = None if math.isnan(nll) or progress.nll is None else progress.nll + nll
        progress.tokens += tokens
        progress.source_tokens += source_tokens
        return True

    def _gradient(self, group: list[Batch], count: int) -> tuple[Tensor, Tensor]:
        """Makes the gradient of the mean loss over the batches of all ranks.

        Args:
            group: this rank's; none, where an epoch ends with fewer batches than there are ranks.
            count: what the mean is over.
        Returns:
            the sums of this rank's losses and of their nll, not a number where a loss does not compute it, in float64.
        Raises:
            OutOfMemory: a batch does not fit.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss, nll = torch.zeros(2, dtype=torch.float64, device=self._device)
        share = float(bool(group))  # the others wait for a gradient of this rank
        for number, batch in enumerate(group or [Batch.of([([UNK, EOS], [UNK, EOS])])], start=1):
            try:
                with without_sync(self._objective) if number < len(group) else nullcontext():
                    with self._autocast():
                        sums = self._objective(batch.to(self._device), self._progress.update)
                    # the mean over ranks, times their number, is the sum
                    with answered(self._world):
                        (sums.loss * share / count * self._world.size).backward()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(batch) from error
            loss = loss + share * sums.loss.detach()
            nll = nll + (math.nan if sums.nll is None else share * sums.nll.detach())
        return loss, nll

    def _split(self, group: list[Batch], batch: Batch) -> list[Batch]:
        """The group with a batch that did not fit cut in two; what was made of its gradient is void."""
        progress = self._progress
        self._optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._world.size > 1:  # the others would not know of the parts
            raise TrainingError(
                f"update {progress.update + 1:,}: a batch of {len(batch.source_BS):,} pairs does not fit in memory",
                "Start again with a lower --batch-tokens, and a higher --accumulate",
            )
        if len(batch.source_BS) == 1:
            raise TrainingError(
                f"update {progress.update + 1:,}: a pair of {batch.source_tokens:,} and {batch.target_tokens:,} tokens "
                f"does not fit in memory",
                "Preprocess with a lower --max-length, or train a smaller model; go on with --resume",
            )
        progress.splits += 1
        self._events.split(progress.update + 1, batch)
        return [part for one in group for part in (one.halves() if one is batch else (one,))]

    def _skip(self, norm: float) -> None:
        self._progress.skipped += 1
        self._skips_in_a_row += 1
        self._events.skipped(self._progress.update + 1, norm)
        if self._skips_in_a_row == self._config.max_skips:
            raise TrainingError(
                f"{self._skips_in_a_row} updates in a row were not finite, the last {self._progress.update + 1:,} "
                f"(lr {self._learning_rate():g}, gradient norm {norm:g})",
                f"The last good state is in {self._directory.path}/last; try a lower --learning-rate",
            )

    def _learning_rate(self) -> float:
        config = self._config
        return learning_rate(
            max(self._progress.update, 1),
            peak=config.learning_rate,
            warmup=config.warmup,
            decay=config.decay,
            max_updates=config.max_updates,
            cuts=self._progress.cuts,
            factor=config.decay_factor,
            epochs=self._epochs(),
            start=config.decay_start,
            every=config.decay_every,
        )

    def _epochs(self) -> float:
        """Epochs done, with the part of the present one."""
        progress, batches = self._progress, self._batches
        if not progress.batch and not progress.block:
            return progress.epoch
        of_block = progress.batch / len(batches.plan(progress.epoch, progress.block))
        return progress.epoch + (progress.block + of_block) / batches.blocks

    def _check_model(self, *, in_turn: bool = True) -> None:
        """Validates, keeps a checkpoint, and lets best, patience and plateau know.

        Out of turn, at the end of a run whose last update was not one to validate after, nothing goes that a run which
        goes on from here will want: it shall be the run that was never stopped.
        """
        config, progress = self._config, self._progress
        began = time.monotonic()
        wanted = set() if in_turn else self._kept()
        had_best = progress.best is not None
        validation = self._validate(self._shown)
        is_best = validation.better_than(progress.best, config.validation_metric)
        with self._saving():
            self._directory.save_checkpoint(progress.update, self._shown)
        progress.validations.append((progress.update, validation.value(config.validation_metric)))
        self._validated_at = progress.update
        if is_best:
            progress.best = progress.validations[-1][1]
            progress.stalled = progress.plateau_stalled = 0
            with self._saving():
                self._directory.save_best(self._shown, keeping_last=not in_turn and had_best)
        else:
            progress.stalled += 1
            progress.plateau_stalled += 1
            if config.decay == "plateau" and progress.plateau_stalled >= config.decay_patience:
                progress.cuts += 1
                progress.plateau_stalled = 0
        self._directory.keep_checkpoints(wanted | self._kept())
        record = {**_validation_record(validation), "best": is_best, "seconds": time.monotonic() - began}
        self._log("validation", record)
        self._events.validated({"update": progress.update, "epoch": progress.epoch, **record}, validation)

    def _kept(self) -> set[int]:
        """The updates whose checkpoints are kept by rule."""
        latest = [update for update, _ in self._progress.validations]
        return {*latest[max(0, len(latest) - self._config.keep) :], *self._averaged()}

    def _averaged(self) -> list[int]:
        """The updates whose checkpoints make the average, if training ended now."""
        config = self._config
        there = set(self._directory.checkpoints())
        validations = [one for one in self._progress.validations if one[0] in there]
        if config.average_of == "best":
            sign = 1 if config.validation_metric == "loss" else -1
            validations = sorted(validations, key=lambda one: (sign * one[1], one[0]))
            return sorted(update for update, _ in validations[: config.average])
        return [update for update, _ in validations[max(0, len(validations) - config.average) :]]

    def _average(self) -> None:
        updates = self._world.broadcast(self._averaged())
        began = time.monotonic()
        model = self._directory.average(updates).to(self._device)
        self._world.broadcast_weights(model)
        validation = self._validate(model)
        self._directory.save_average(model)
        record = {**_validation_record(validation), "averaged": updates, "seconds": time.monotonic() - began}
        self._log("average", record)
        self._events.validated({"update": self._progress.update, "epoch": self._progress.epoch, **record}, validation)

    def _reason_to_stop(self) -> str:
        config, progress = self._config, self._progress
        if config.max_updates and progress.update >= config.max_updates:
            return f"{progress.update:,} updates"
        if config.max_epochs and progress.epoch >= config.max_epochs:
            return f"{progress.epoch:,} epochs"
        if config.patience and progress.stalled >= config.patience:
            return f"{progress.stalled} validations without a better {config.validation_metric}"
        return ""

    def _out_of_time(self) -> str:
        limit = self._config.time_limit
        is_over = limit and time.monotonic() - self._started >= 60 * limit
        return f"the time limit of {limit:g} minutes" if is_over else ""

    def _log_training(self) -> None:
        progress = self._progress
        seconds = progress.seconds - progress.logged_seconds
        tokens = max(progress.tokens, 1)
        record = {
            "loss": progress.loss / tokens,
            "nll": None if progress.nll is None else progress.nll / tokens,
            "learning_rate": self._rate,
            "gradient_norm": self._norm,
            "tokens_per_second": (progress.tokens + progress.source_tokens) / max(seconds, 1e-9),
            "skipped": progress.skipped,
            "splits": progress.splits,
            "seconds": progress.seconds,
        }
        progress.loss, progress.nll = 0.0, 0.0
        progress.tokens = progress.source_tokens = 0
        progress.logged_seconds = progress.seconds
        self._log("train", record)
        self._events.logged({"update": progress.update, "epoch": progress.epoch, **record})

    def _log(self, kind: str, record: dict[str, Any]) -> None:
        progress = self._progress
        line = json.dumps({"kind": kind, "update": progress.update, "epoch": progress.epoch, **record})
        with self._saving():
            progress.log_bytes = self._directory.append_log(line, progress.log_bytes)

    def _save(self, *, at_the_end: bool = False) -> None:
        with self._saving(at_the_end=at_the_end):
            random = self._world.gather(random_states(self._device))
            progress = dataclasses.asdict(self._progress)
            self._directory.save_last(self._model, self._optimizer, progress, random, self._mean)

    @contextmanager
    def _saving(self, *, at_the_end: bool = False) -> Iterator[None]:
        """Says what could not be saved, and goes on if it may; at the end of a run nothing would come after.

        Raises:
            WorldError: something could not be saved.
        """
        try:
            yield
        except OSError as error:
            if self._config.if_save_fails == "go-on" and not at_the_end:
                self._events.save_failed(self._progress.update, error)
                return
            raise WorldError(
                f"update {self._progress.update:,} could not be saved in {self._directory.path} ({error.strerror})",
                "What was saved before is whole: go on with --resume when there is room and permission",
            ) from error


def is_out_of_memory(error: Exception) -> bool:
    """CUDA's error has a class of its own, that of a CPU's allocator its text only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _validation_record(validation: Validation) -> dict[str, Any]:
    return {
        "loss": validation.loss,
        "perplexity": validation.perplexity,
        "bleu": validation.bleu.value,
        "bleu_signature": validation.bleu.signature,
        "chrf": validation.chrf.value,
        "chrf_signature": validation.chrf.signature,
    }
