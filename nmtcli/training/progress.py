"""The progress of a run, and the interface through which the training loop reports events."""

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from nmtcli.data.batches import Batch
from nmtcli.training.validation import Validation


@dataclass
class Progress:
    """Progress of a run.

    Together with the weights, the optimiser state and the random-generator states, it determines the next update
    completely.

    Attributes:
        update: completed updates.
        epoch: completed epochs, which is also the zero-based index of the current epoch.
        block: completed blocks in the current epoch (see data/batches.py).
        batch: completed batches in the current block.
        seconds: training time so far, excluding validations.
        best: best value of the validation metric so far; None before the first validation.
        stalled: number of validations since the best validation.
        plateau_stalled: number of validations since the best validation or since `--decay plateau` last cut the
            learning rate, whichever is later.
        cuts: number of times that `--decay plateau` has cut the learning rate.
        validations: (update, value of the validation metric) for each validation.
        skipped: number of updates whose gradient was not finite.
        splits: number of batches that did not fit in memory and were cut in two.
        log_bytes: length of log.jsonl [bytes].
        loss, nll, tokens, source_tokens: totals since the last log line; a per-sentence loss is rescaled so that loss /
            tokens is its mean; nll is None if the loss does not compute it.
        logged_seconds: value of `seconds` at the last log line.
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
        """Advance by `done` batches in the current block; return True if this ends the epoch.

        Args:
            done: number of batches just used by all ranks together.
            batches: number of batches in the current block.
            blocks: number of blocks in every epoch.
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
        """Restore progress from a JSON object with the fields of `Progress`.

        Raises:
            TypeError: a field is unknown, or update, epoch, block or batch is not a whole number.
        """
        progress = cls(**fields)
        places = (progress.update, progress.epoch, progress.block, progress.batch)
        if not all(isinstance(place, int) for place in places):
            raise TypeError("update, epoch, block and batch must be whole numbers")
        return progress


class Events(Protocol):
    """Interface for an object that receives the events of the training loop."""

    def updated(self, progress: Progress, batches_per_epoch: int) -> None:
        """Handle the end of an update, including a skipped update."""

    def logged(self, record: dict[str, Any]) -> None:
        """Handle a new line of kind "train" in log.jsonl; `record` is its content, without `kind`."""

    def validated(self, record: dict[str, Any], validation: Validation) -> None:
        """Handle the result of a validation; `record` is its line in log.jsonl, without `kind`."""

    def skipped(self, update: int, norm: float) -> None:
        """Handle an update that was skipped because its gradient was not finite."""

    def split(self, update: int, batch: Batch) -> None:
        """Handle a batch that does not fit in memory and is cut in two."""

    def save_failed(self, update: int, error: OSError) -> None:
        """Handle a file that could not be saved; training goes on."""
