"""The training loop: batches, updates, validations and saves, until there is a reason to stop.

`log.jsonl` has one JSON object per line. Every object has `kind`, `update` (completed updates) and `epoch`
(completed epochs).

    kind "train": `loss` (mean of the --loss objective; for cross-entropy, in nats/token, including label smoothing),
        `nll` [nats/token] (null if the loss does not compute it), `learning_rate`, `gradient_norm` (of the last update,
        before clipping), `tokens_per_second` (source and target), `skipped` (updates so far whose gradient was not
        finite), `splits` (batches so far that did not fit in memory and were cut in two; after the first split, the
        run is no longer bit for bit equal to a run without splits), `seconds` (training time so far, excluding
        validations)
    kind "validation": `loss` [nats/token], `perplexity`, `bleu`, `bleu_signature`, `chrf`, `chrf_signature`, `best`
        (true if this result is the best so far), `seconds` (duration of the validation)
    kind "average": the validation of the averaged model; the keys of "validation", with `averaged` (update numbers of
        the averaged checkpoints) in place of `best`
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nmtcli.data.batches import Batch
from nmtcli.errors import Stopped, TrainingError, WorldError
from nmtcli.training.assembly import Parts
from nmtcli.training.checkpoint import generator_states
from nmtcli.training.progress import Events
from nmtcli.training.schedule import Schedule
from nmtcli.training.updater import Updater, UpdateResult
from nmtcli.training.validation import Validation


class Trainer:
    """Trains a model, starting from its current progress; decides when to validate, save and stop.

    Args:
        parts: the parts of the run.
        events: receives the events of training.
        signal_seen: returns the number of the last signal that asked training to stop; 0 if no signal has arrived.
    """

    def __init__(self, parts: Parts, *, events: Events, signal_seen: Callable[[], int]) -> None:
        self._config = parts.config
        self._state = parts.state
        self._progress = parts.state.progress
        self._batches = parts.batches
        self._validate = parts.validate
        self._writer = parts.writer
        self._stored = parts.stored
        self._world = parts.world
        self._device = parts.machine.device
        self._events = events
        self._signal_seen = signal_seen
        self._updater = Updater(
            parts.state.model,
            parts.loss,
            parts.state.optimizer,
            parts.config,
            machine=parts.machine,
            world=parts.world,
            ema_model=parts.state.ema_model,
            on_split=self._note_split,
        )
        self._validated_model = parts.state.ema_model or parts.state.model
        self._schedule = Schedule.of(parts.config)
        self._started = time.monotonic()
        self._skips_in_a_row = 0
        self._norm = 0.0
        self._rate = 0.0
        self._validated_at = self._progress.validations[-1][0] if self._progress.validations else 0

    def run(self) -> str:
        """Train until there is a reason to stop; then validate if needed and, with --average, average checkpoints.

        Returns:
            the reason why training stopped, as a phrase.
        Raises:
            Stopped: a signal arrived, and the training state has been saved.
            TrainingError: `max_skips` updates in a row had a gradient that was not finite, or a batch does not fit in
                memory.
            WorldError: a file could not be saved.
        """
        self._progress.log_bytes = self._writer.cut_log(self._progress.log_bytes)
        stream = self._batches.stream(self._progress.epoch, self._progress.batch, self._progress.block)
        reason = self._reason_to_stop()
        while not reason:
            reason = self._advance(stream)
        self._save(at_the_end=True)
        if self._validated_at != self._progress.update:
            self._check_model(is_extra=True)
        if self._config.average:
            self._average()
        return reason

    def _advance(self, stream: Iterator[Batch]) -> str:
        """Make one update; log, validate and save if due; return the reason to stop, or "" to go on."""
        config, progress, world = self._config, self._progress, self._world
        began = time.monotonic()
        blocks, count = self._batches.blocks, len(self._batches.plan(progress.epoch, progress.block))
        of_all = min(config.accumulate * world.size, count - progress.batch)
        was_done = self._update(list(itertools.islice(stream, len(range(world.rank, of_all, world.size)))))
        progress.seconds += time.monotonic() - began
        epoch_ended = progress.advance(of_all, batches=count, blocks=blocks)
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
            raise Stopped(signal_number, f"Stopped at update {progress.update:,}; continue with nmt train --resume")
        return self._reason_to_stop() or world.broadcast(self._out_of_time())

    def _update(self, group: list[Batch]) -> bool:
        """Make one update from a group of batches; if the gradient is not finite, skip it and return False."""
        progress = self._progress
        rate = self._schedule.rate(progress.update + 1, cuts=progress.cuts, epochs=self._epochs())
        result = self._updater.update(group, progress.update + 1, rate)
        if not result.is_done:
            self._skip(result, rate)
            return False
        progress.update += 1
        self._rate = rate
        self._skips_in_a_row = 0
        self._norm = result.gradient_norm
        progress.loss += result.loss
        progress.nll = None if math.isnan(result.nll) or progress.nll is None else progress.nll + result.nll
        progress.tokens += result.target_tokens
        progress.source_tokens += result.source_tokens
        return True

    def _note_split(self, batch: Batch) -> None:
        self._progress.splits += 1
        self._events.split(self._progress.update + 1, batch)

    def _skip(self, result: UpdateResult, rate: float) -> None:
        progress, norm = self._progress, result.gradient_norm
        progress.skipped += 1
        self._skips_in_a_row += 1
        self._events.skipped(progress.update + 1, norm)
        if self._skips_in_a_row == self._config.max_skips:
            raise TrainingError(
                f"{self._skips_in_a_row} updates in a row were not finite, the last {progress.update + 1:,} "
                f"(lr {rate:g}, gradient norm {norm:g})",
                f"The last good state is in {self._stored.path}/last; try a lower --learning-rate",
            )

    def _epochs(self) -> float:
        """Return the number of completed epochs, plus the completed fraction of the current epoch."""
        progress, batches = self._progress, self._batches
        if not progress.batch and not progress.block:
            return progress.epoch
        of_block = progress.batch / len(batches.plan(progress.epoch, progress.block))
        return progress.epoch + (progress.block + of_block) / batches.blocks

    def _check_model(self, *, is_extra: bool = False) -> None:
        """Validate, save a checkpoint, and update the counters for the best result, --patience and --decay plateau.

        Args:
            is_extra: if True, this is the extra validation at the end of a run: delete no checkpoint that a resumed run
                would still need, so that a resumed run equals one that was never stopped.
        """
        config, progress = self._config, self._progress
        began = time.monotonic()
        wanted = self._kept() if is_extra else set()
        had_best = progress.best is not None
        validation = self._validate(self._validated_model)
        is_best = validation.better_than(progress.best, config.validation_metric)
        with self._saving():
            self._writer.save_checkpoint(progress.update, self._validated_model)
        progress.validations.append((progress.update, validation.value(config.validation_metric)))
        self._validated_at = progress.update
        if is_best:
            progress.best = progress.validations[-1][1]
            progress.stalled = progress.plateau_stalled = 0
            with self._saving():
                self._writer.save_best(self._validated_model, keeping_last=is_extra and had_best)
        else:
            progress.stalled += 1
            progress.plateau_stalled += 1
            if config.decay == "plateau" and progress.plateau_stalled >= config.decay_patience:
                progress.cuts += 1
                progress.plateau_stalled = 0
        self._writer.keep_checkpoints(wanted | self._kept())
        record = {**_validation_record(validation), "best": is_best, "seconds": time.monotonic() - began}
        self._log("validation", record)
        self._events.validated({"update": progress.update, "epoch": progress.epoch, **record}, validation)

    def _kept(self) -> set[int]:
        """Return the updates whose checkpoints are to be kept: the latest, and those that would be averaged."""
        latest = [update for update, _ in self._progress.validations]
        return {*latest[max(0, len(latest) - self._config.keep) :], *self._averaged()}

    def _averaged(self) -> list[int]:
        """Return the updates whose checkpoints would be averaged if training ended now."""
        config = self._config
        there = set(self._stored.checkpoints())
        validations = [one for one in self._progress.validations if one[0] in there]
        if config.average_of == "best":
            sign = 1 if config.validation_metric == "loss" else -1
            validations = sorted(validations, key=lambda one: (sign * one[1], one[0]))
            return sorted(update for update, _ in validations[: config.average])
        return [update for update, _ in validations[max(0, len(validations) - config.average) :]]

    def _average(self) -> None:
        updates = self._world.broadcast(self._averaged())
        began = time.monotonic()
        model = self._stored.average(updates) if self._world.is_first else self._stored.new_model()
        model = model.to(self._device)
        self._world.broadcast_weights(model)
        validation = self._validate(model)
        self._writer.save_average(model)
        record = {**_validation_record(validation), "averaged": updates, "seconds": time.monotonic() - began}
        self._log("average", record)
        self._events.validated({"update": self._progress.update, "epoch": self._progress.epoch, **record}, validation)

    def _reason_to_stop(self) -> str:
        config, progress = self._config, self._progress
        if config.max_updates and progress.update >= config.max_updates:
            return _counted(progress.update, "update")
        if config.max_epochs and progress.epoch >= config.max_epochs:
            return _counted(progress.epoch, "epoch")
        if config.patience and progress.stalled >= config.patience:
            return f"{_counted(progress.stalled, 'validation')} without a better {config.validation_metric}"
        return ""

    def _out_of_time(self) -> str:
        limit = self._config.time_limit
        is_over = limit and time.monotonic() - self._started >= 60 * limit
        return f"the time limit of {limit:g} minute{'' if limit == 1 else 's'}" if is_over else ""

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
            progress.log_bytes = self._writer.append_log(line, progress.log_bytes)

    def _save(self, *, at_the_end: bool = False) -> None:
        with self._saving(at_the_end=at_the_end):
            self._writer.save_last(self._state, self._world.gather(generator_states(self._device)))

    @contextmanager
    def _saving(self, *, at_the_end: bool = False) -> Iterator[None]:
        """Turn a failed save in this context into a WorldError; with --if-save-fails go-on, only report the failure.

        Args:
            at_the_end: if True, raise the error even with --if-save-fails go-on.

        Raises:
            WorldError: a file could not be saved, and training must not go on.
        """
        try:
            yield
        except OSError as error:
            if self._config.if_save_fails == "go-on" and not at_the_end:
                self._events.save_failed(self._progress.update, error)
                return
            raise WorldError(
                f"update {self._progress.update:,} could not be saved in {self._stored.path} ({error.strerror})",
                "Earlier saves are intact: continue with --resume once there is space and permission",
            ) from error


def _counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or the plural.

    >>> _counted(1, "epoch"), _counted(2000, "update")
    ('1 epoch', '2,000 updates')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _validation_record(validation: Validation) -> dict[str, Any]:
    return {
        "loss": validation.loss,
        "perplexity": validation.perplexity,
        "bleu": validation.bleu.value,
        "bleu_signature": validation.bleu.signature,
        "chrf": validation.chrf.value,
        "chrf_signature": validation.chrf.signature,
    }
