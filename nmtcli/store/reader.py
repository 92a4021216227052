"""Open a model directory, check it, and read its files. The layout is specified in training/checkpoint.py."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nmtcli.config import TrainConfig
from nmtcli.data.files import read_json
from nmtcli.data.shortlist import Shortlist
from nmtcli.data.subword import Subword
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.model.init import Undrawn
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.record import ModelRecord, check_format
from nmtcli.store.weights import check_shapes, load_weights, read_tensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
STATE = "last/state.safetensors"
SHORTLIST = "shortlist.safetensors"
CHECKPOINTS = "checkpoints"


def holds_model(path: str | Path) -> bool:
    """Return True if a directory contains a `config.json`, even an invalid one."""
    return (Path(path) / CONFIG).exists()


def check_is_model(path: str | Path) -> None:
    """Check that a directory is a model directory in the format version that this release reads.

    Raises:
        DirectoryError: the configuration is missing or damaged, or its format or version is not supported.
    """
    _read_config(Path(path))


@dataclass(frozen=True)
class StoredModel:
    """A model directory, opened for reading.

    Attributes:
        path: path of the directory; for a new run, it need not exist yet.
        record: content of its `config.json`.
    """

    path: Path
    record: ModelRecord

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a model directory.

        Raises:
            DirectoryError: the directory is missing, damaged, or not a model directory in this format version.
        """
        path = Path(path)
        return cls(path, ModelRecord.from_json(_read_config(path), path / CONFIG))

    @property
    def train_config(self) -> TrainConfig:
        """Options that the model was trained with. Raises the errors of `ModelRecord.train_config`."""
        return self.record.train_config(self.path / CONFIG)

    def subwords(self) -> tuple[Subword, Subword]:
        """Load the source and target subword models; if the two files are equal, return the same object twice.

        Raises:
            DirectoryError: a subword model is missing or damaged, or is not the one used in training.
        """
        both: list[Subword] = []
        for side in ("source", "target"):
            subword = Subword.load(self.path / f"{side}.model", known=both[0] if both else None)
            recorded = self.record.sha256_of(side)
            if subword.sha256 != recorded:
                raise DirectoryError(
                    f"{self.path / side}.model has sha256 {subword.sha256[:12]}, but the model was trained with "
                    f"{str(recorded)[:12]}",
                    "Copy it again",
                )
            both.append(subword)
        return both[0], both[1]

    def read_shortlist(self) -> Shortlist:
        """Read the shortlist: the likely translations of each source piece.

        Raises:
            DirectoryError: the shortlist is missing or damaged, or was made for other vocabularies.
        """
        path = self.path / SHORTLIST
        if not path.exists():
            raise DirectoryError(f"{self.path} has no {SHORTLIST}", "Leave out --shortlist, or train the model again")
        tensors, _ = read_tensors(path, verify=True)
        shapes = {name: (value.dtype, value.dim()) for name, value in tensors.items()}
        if (
            shapes != {"of_piece_SC": (torch.int32, 2), "frequent_F": (torch.int32, 1)}
            or len(tensors["of_piece_SC"]) != self.record.source_size
            or not all(_are_below(ids, self.record.target_size) for ids in tensors.values())
        ):
            raise DirectoryError(f"{path} is no shortlist of this model", "Copy it again")
        return Shortlist(*(tensors[name].long().numpy() for name in Shortlist._fields))

    def new_model(self) -> Seq2Seq:
        """Create a model of the recorded shape, with parameters drawn from torch's default generator."""
        record = self.record
        return Seq2Seq(record.model, source_size=record.source_size, target_size=record.target_size, joint=record.joint)

    def read_model(self, checkpoint: str = "", *, verify: bool = False) -> Seq2Seq:
        """Read the model with the weights of a checkpoint, in fp32 on the CPU.

        Args:
            checkpoint: last, best, or a name under checkpoints/; by default, the weights that `nmt translate` uses.
            verify: if True, check the hash of the weights even if the file is large; see `read_tensors`.
        Raises:
            ConfigError: `checkpoint` is not the name of a checkpoint.
            DirectoryError: the checkpoint is missing or damaged, or its shapes differ from the record.
        """
        weights, path = self._weights_of(checkpoint, verify=verify)
        with torch.device("meta"), Undrawn():  # no memory is allocated before the shapes are checked
            model = self.new_model()
        check_shapes(model, weights, path)
        # copied, since the tensors are views of a file that another process may change
        own = {name: value.to(torch.float32, copy=True) for name, value in weights.items()}
        model.load_state_dict(own, assign=True)
        return model

    def average(self, updates: Sequence[int]) -> Seq2Seq:
        """Return a model whose weights are the average over the checkpoints saved at `updates`."""
        sums: dict[str, Tensor] = {}
        for update in updates:
            tensors, _ = self._weights_of(checkpoint_name(update))
            for name, value in tensors.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
        model = self.new_model()
        means = {name: (value / len(updates)).float() for name, value in sums.items()}
        load_weights(model, means, self.path / CHECKPOINTS)
        return model

    def checkpoints(self) -> list[int]:
        """Return the update numbers of the checkpoints in the directory, in ascending order."""
        folders = (self.path / CHECKPOINTS).glob("update-*")
        return sorted(int(folder.name[7:]) for folder in folders if folder.name[7:].isdecimal())

    def has_state(self) -> bool:
        """Return True if there is a saved training state to resume from."""
        return (self.path / STATE).exists()

    def _weights_of(self, checkpoint: str, *, verify: bool = False) -> tuple[dict[str, Tensor], Path]:
        if checkpoint == "last":
            tensors, _ = read_tensors(self.path / STATE, verify=verify)
            return part_of(tensors, "model."), self.path / STATE
        if checkpoint in ("", "best"):
            best = self.path / BEST
            path = best if checkpoint and best.exists() else self.path / WEIGHTS
        elif re.fullmatch(r"update-\d+", checkpoint):
            path = self.path / CHECKPOINTS / checkpoint / WEIGHTS
        else:
            raise ConfigError(f"--checkpoint must be last, best or update-<number>, but is {checkpoint}")
        if not path.exists():
            kept = ", ".join(["last"] * self.has_state() + [checkpoint_name(update) for update in self.checkpoints()])
            raise DirectoryError(f"{path} is not there", f"Available: {kept}" if kept else "Train the model first")
        return read_tensors(path, verify=verify)[0], path


def checkpoint_name(update: int) -> str:
    """Return the directory name, under checkpoints/, of the checkpoint saved at an update.

    >>> checkpoint_name(1000)
    'update-00001000'
    """
    return f"update-{update:08d}"


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, keyed by the name with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.exists():
        raise DirectoryError(f"{path} is not a model directory: it has no {CONFIG}", "Run nmt train first")
    values = read_json(file, "Copy it again")
    check_format(values, file)
    return values


def _are_below(ids: Tensor, size: int) -> bool:
    return not ids.numel() or 0 <= int(ids.min()) <= int(ids.max()) < size
