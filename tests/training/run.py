"""Training runs of a very small model, whose validations a test decides, and what they report."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.batches import Batch
from nmtcli.data.corpus import DataDirectory
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.scoring.metrics import Score
from nmtcli.store.reader import StoredModel
from nmtcli.training.assembly import assembled, begun, resumed
from nmtcli.training.distributed import World
from nmtcli.training.loop import Trainer
from nmtcli.training.progress import Progress
from nmtcli.training.validation import Validation
from tests.training.on_cpu import ON_CPU


class Events:
    """Keeps what a training loop reports."""

    def __init__(self) -> None:
        self.updates = 0
        self.logs: list[dict[str, Any]] = []
        self.validations: list[dict[str, Any]] = []
        self.skips: list[tuple[int, float]] = []
        self.splits: list[tuple[int, int]] = []
        self.failures: list[tuple[int, str]] = []

    def updated(self, progress: Progress, batches_per_epoch: int) -> None:
        assert 0 <= progress.batch < batches_per_epoch
        self.updates += 1

    def logged(self, record: dict[str, Any]) -> None:
        self.logs.append(record)

    def validated(self, record: dict[str, Any], validation: Validation) -> None:
        assert record["bleu"] == validation.bleu.value
        self.validations.append(record)

    def skipped(self, update: int, norm: float) -> None:
        self.skips.append((update, norm))

    def split(self, update: int, batch: Batch) -> None:
        self.splits.append((update, len(batch.source_BS)))

    def save_failed(self, update: int, error: OSError) -> None:
        self.failures.append((update, error.strerror or ""))


def scripted(values: list[float]) -> Callable[[Seq2Seq], Validation]:
    """Validations with these BLEU scores, one after the other, and a loss that is 100 less the score."""
    script = iter(values)

    def validate(_: Seq2Seq) -> Validation:
        bleu = next(script)
        scores = {name: Score(name=name, value=bleu, signature="scripted") for name in ("bleu", "chrf")}
        return Validation(loss=100 - bleu, perplexity=1.0, samples=[], **scores)

    return validate


class Run:
    """Training of a very small model, with scripted validations; a second one in its directory continues it."""

    def __init__(
        self,
        path: Path,
        data: Path,
        scores: list[float],
        *,
        loss: Loss | None = None,
        signal_seen: Callable[[], int] = lambda: 0,
        **options: Any,
    ) -> None:
        opened = DataDirectory.open(data)
        chosen = {"max_epochs": 0, "patience": 0, "validate_every": 2, "batch_tokens": 200, "loader_workers": 0}
        self.config = TrainConfig(data=str(data), model=str(path), **{**chosen, **options})
        if path.exists():
            start = resumed(StoredModel.open(path), self.config, opened)
        else:
            shape = ModelConfig(hidden_size=4, embedding_size=4, encoder_layers=1, decoder_layers=1, dropout=0.0)
            start = begun(shape, self.config, opened, "fp32")
        torch.set_num_threads(1)
        parts = assembled(start, ON_CPU, World(), loss=loss or CrossEntropy(0.0))
        if not path.exists():
            parts.writer.create(data / "source.model", data / "target.model", None)
        self.path = path
        self.stored = parts.stored
        self.model = parts.state.model
        self.optimizer = parts.state.optimizer
        self.progress = parts.state.progress
        self.batches = parts.batches
        self.events = Events()
        self.parts = dataclasses.replace(parts, validate=scripted(scores))
        self.trainer = Trainer(self.parts, events=self.events, signal_seen=signal_seen)

    def to_the_end(self) -> str:
        """Train until the loop stops; return its reason."""
        return self.trainer.run()

    def checkpoint(self, update: int) -> bytes:
        """The weights that were kept of an update, as bytes."""
        return (self.path / f"checkpoints/update-{update:08d}/model.safetensors").read_bytes()

    def weights(self, name: str = "model") -> bytes:
        """The weights in a file of the model directory, as bytes."""
        return (self.path / f"{name}.safetensors").read_bytes()
