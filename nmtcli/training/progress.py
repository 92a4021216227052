"""The progress of a run, and the events that it reports."""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from nmtcli.data.batches import Batch
from nmtcli.training.validation import Validation


@dataclass
class Progress:
    """Progress of a run; weights, optimiser, generators and this are all that the next update depends on.

    Attributes:
        update: updates done.
        epoch: epochs done, and so the number of the current epoch, from 0.
        block: blocks of the current epoch done (see data/batches.py).
        batch: batches of the current block done.
        seconds: time spent on training, excluding validations.
        best: best value of the validation metric so far; None before the first validation.
        stalled: validations since the best one.
        plateau_stalled: validations since the best one or the last cut of the learning rate.
        cuts: cuts of the learning rate by --decay plateau.
        validations: [update, value of the metric] of each validation.
        skipped: updates whose gradient was not finite.
        splits: batches that did not fit in memory and were cut in two.
        log_bytes: length of log.jsonl.
        loss, nll, tokens, source_tokens: sums since the last line of the log, the loss scaled as if it counted tokens.
        logged_seconds: `seconds` at the last line of the log.
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
        """Move on by some batches of the current block; return True if the epoch has ended.

        Args:
            done: number of batches just used.
            batches: number of batches in this block.
            blocks: number of blocks in an epoch.
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
        """Restore a progress that `dataclasses.asdict` turned into JSON.

        Raises:
            TypeError: a field is unknown, or a position in the data is not a whole number.
        """
        progress = cls(**fields)
        places = (progress.update, progress.epoch, progress.block, progress.batch)
        if not all(isinstance(place, int) for place in places):
            raise TypeError("update, epoch, block and batch must be whole numbers")
        return progress


class Events(Protocol):
    """Receives the events of the training loop."""

    def updated(self, progress: Progress, batches_per_epoch: int) -> None:
        """An update was done."""

    def logged(self, record: dict[str, Any]) -> None:
        """A line of the log was written."""

    def validated(self, record: dict[str, Any], validation: Validation) -> None:
        """A validation was done."""

    def skipped(self, update: int, norm: float) -> None:
        """An update was skipped, since its gradient was not finite."""

    def split(self, update: int, batch: Batch) -> None:
        """A batch did not fit in memory and was cut in two."""

    def save_failed(self, update: int, error: OSError) -> None:
        """A file could not be saved; training goes on."""
