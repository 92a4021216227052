"""Where a run stands, and the events that it reports."""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from nmtcli.data.batches import Batch
from nmtcli.training.validation import Validation


@dataclass
class Progress:
    """Where a run stands: with weights, optimiser and generators all that the next update depends on.

    Attributes:
        update: updates done.
        epoch: epochs done; the next batch is of this one, counted from 0.
        block: blocks of this epoch done (see data/batches.py).
        batch: batches of this block done.
        seconds: spent on training, validations apart.
        best: the best value of the validation metric.
        stalled: validations since the best.
        plateau_stalled: validations since the best or the last cut of the rate.
        cuts: cuts of the rate.
        validations: [update, value of the metric] of each checkpoint.
        skipped: updates whose gradient was not finite.
        splits: batches that did not fit in memory and were cut in two.
        log_bytes: length of log.jsonl.
        loss, nll, tokens, source_tokens, logged_seconds: sums since the last line of log, the loss as if it were one of
            tokens.
    """

    update: int = 0
    epoch: int = 0
    block: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    stalled: int = 0
    plateau_stalled: int = 0
    cuts: int = 0
    validations: list[tuple[int, float]] = field(default_factory=list)
    skipped: int = 0
    splits: int = 0
    log_bytes: int = 0
    loss: float = 0.0
    nll: float | None = 0.0
    tokens: int = 0
    source_tokens: int = 0
    logged_seconds: float = 0.0

    def advance(self, done: int, *, batches: int, blocks: int) -> bool:
        """Move on by some batches of the current block; return True where the epoch has ended.

        Args:
            done: batches that were used now.
            batches: batches of this block.
            blocks: blocks of an epoch.
        """
        self.batch += done
        if self.batch == batches:
            self.block, self.batch = self.block + 1, 0
        if self.block < blocks:
            return False
        self.epoch, self.block = self.epoch + 1, 0
        return True

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the progress that `dataclasses.asdict` and JSON made of one.

        Raises:
            TypeError: an unknown field, or a place in the data that is no whole number.
        """
        progress = cls(**fields)
        places = (progress.update, progress.epoch, progress.block, progress.batch)
        if not all(isinstance(place, int) for place in places):
            raise TypeError("update, epoch, block and batch must be whole numbers")
        return progress


class Events(Protocol):
    """What the loop reports to whoever runs it."""

    def updated(self, progress: Progress, batches_per_epoch: int) -> None:
        """An update was done."""

    def logged(self, record: dict[str, Any]) -> None:
        """A line of log was written."""

    def validated(self, record: dict[str, Any], validation: Validation) -> None:
        """A validation was done."""

    def skipped(self, update: int, norm: float) -> None:
        """An update was left out: its gradient was not finite."""

    def split(self, update: int, batch: Batch) -> None:
        """A batch did not fit in memory and was cut in two."""

    def save_failed(self, update: int, error: OSError) -> None:
        """Something could not be saved; training goes on."""
