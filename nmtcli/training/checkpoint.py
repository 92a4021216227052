"""The model directory: all that translation needs, and all that an exact resume needs.

    model/
      config.json              below
      source.model             SentencePiece, as in the data directory
      target.model
      model.safetensors        what translate uses: the best by the validation metric, or, with --average, the average
      best.safetensors         the best, where model.safetensors is an average, or of the end of a run out of turn
      log.jsonl                one JSON object a line (see training/loop.py)
      shortlist.safetensors    the likely translations of each source piece (see data/shortlist.py)
      lock                     while training runs (see training/lock.py)
      last/state.safetensors   all that a resumed run needs
      checkpoints/update-00001000/model.safetensors

`config.json`: `format` "nmtcli-model", `version` 1, `source_lang`, `target_lang`, `subword`, `joint`, `source_size`,
`target_size` [pieces], `source_sha256`, `target_sha256` (of the SentencePiece files), `training_sha256` (of the
training pairs), `model` (ModelConfig), `training` (TrainConfig), `precision`, `batch_tokens` (what
`auto` came to).

Weights are safetensors files whose keys are the parameters' names; tied parameters are there once. `state.safetensors`
holds `model.<parameter>`, `optimizer.<parameter>.<key>`, `random.<device>` (the generators' states, bytes; those of a
further rank r `random.<device>.<r>`), with --ema `mean.<parameter>`, and, as the metadata `progress`, a JSON object:
the fields of `training.progress.Progress`. The metadata `sha256` of each safetensors file is that of its tensors, by
name: name, type, shape and bytes.

Every file is written under a temporary name, flushed to the disk and renamed, so that a name stands for a whole file.
Nothing is pickled.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nmtcli.config import LOSSES_OF_LOGITS, ModelConfig
from nmtcli.data.files import read_json
from nmtcli.data.shortlist import Shortlist
from nmtcli.data.subword import Subword
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.model.init import Undrawn
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.lock import LOCK
from nmtcli.training.weights import (
    check_shapes,
    load_weights,
    read_tensors,
    tensors_bytes,
    unique_state,
    weights_bytes,
    write_whole,
)

FORMAT, VERSION = "nmtcli-model", 1
CONFIG = "config.json"
BEGUN = {LOCK, f"{CONFIG}.tmp"}  # what a run that was killed at its very start may leave
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
STATE = "last/state.safetensors"
LOG = "log.jsonl"
SHORTLIST = "shortlist.safetensors"
MOST_PIECES = 1 << 24  # of a vocabulary


class ModelDirectory:
    """A model directory: one that is there (`open`), or will be (`planned`)."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.about = about

    @classmethod
    def planned(cls, path: str, about: dict[str, Any]) -> Self:
        """A directory that is not there yet; `create` makes it.

        Args:
            path: where it will be.
            about: the content of config.json but for format and version.
        """
        return cls(Path(path), {"format": FORMAT, "version": VERSION, **about})

    def create(self, *, source_model: Path, target_model: Path) -> None:
        """Makes the directory, with its configuration and subword models but no weights yet, in the place of a run
        that may be there.

        Args:
            source_model, target_model: SentencePiece files to copy.
        """
        if self.path.exists():
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        self.write_about()  # first: it makes the directory ours, whatever happens now
        write_whole(self.path / "source.model", source_model.read_bytes())
        write_whole(self.path / "target.model", target_model.read_bytes())

    @classmethod
    def open(cls, path: str) -> Self:
        """A directory that `create` made, here or elsewhere.

        Raises:
            DirectoryError: it is not there, or not a model directory of a version that is known here.
        """
        file = Path(path) / CONFIG
        if not file.exists():
            raise DirectoryError(f"{path} is not a model directory: it has no {CONFIG}", "Run nmt train first")
        about = read_json(file, "Copy it again")
        if about.get("format") != FORMAT:
            raise DirectoryError(f"{file} is not the configuration of a model", "Name a directory that nmt train made")
        if about.get("version") != VERSION:
            raise DirectoryError(
                f"{path} has version {about.get('version')} of the model format, but this nmt knows {VERSION}",
                "Use the nmt that made it",
            )
        return cls(Path(path), about)

    @property
    def model_config(self) -> ModelConfig:
        """The model's shape."""
        try:
            # models from before there was a choice are not scaled
            return ModelConfig.from_dict({"scale_attention": False, **self.about["model"]})
        except (ConfigError, KeyError, TypeError) as error:
            raise DirectoryError(f"{self.path / CONFIG} has no usable model configuration ({error})") from error

    @property
    def searches_by_logits(self) -> bool:
        """Whether the model's scores are logits of whole hypotheses rather than log-probabilities of tokens."""
        training = self.about.get("training")
        return isinstance(training, dict) and training.get("loss") in LOSSES_OF_LOGITS

    @property
    def direction(self) -> str:
        """The languages, as in "de to en"."""
        return f"{self.about.get('source_lang')} to {self.about.get('target_lang')}"

    def subwords(self) -> tuple[Subword, Subword]:
        """The subword models of source and target, which must be those that the model was trained with."""
        both: list[Subword] = []
        for side in ("source", "target"):
            subword = Subword.load(self.path / f"{side}.model", known=both[0] if both else None)
            if subword.sha256 != self.about.get(f"{side}_sha256"):
                raise DirectoryError(
                    f"{self.path / side}.model has sha256 {subword.sha256[:12]}, but the model was trained with "
                    f"{str(self.about.get(f'{side}_sha256'))[:12]}",
                    "Copy it again",
                )
            both.append(subword)
        return both[0], both[1]

    def save_shortlist(self, shortlist: Shortlist) -> None:
        """Keeps the likely translations of each source piece."""
        tensors = {name: torch.from_numpy(ids).to(torch.int32) for name, ids in shortlist._asdict().items()}
        write_whole(self.path / SHORTLIST, tensors_bytes(tensors, {}))

    def read_shortlist(self) -> Shortlist:
        """The likely translations of each source piece.

        Raises:
            DirectoryError: there are none, or they are damaged or of other vocabularies.
        """
        path = self.path / SHORTLIST
        if not path.exists():
            raise DirectoryError(f"{self.path} has no {SHORTLIST}", "Leave out --shortlist, or train the model again")
        tensors, _ = read_tensors(path, verify=True)
        source, target = self.about.get("source_size"), self.about.get("target_size")
        shapes = {name: (value.dtype, value.dim()) for name, value in tensors.items()}
        if shapes != {"of_piece_SC": (torch.int32, 2), "frequent_F": (torch.int32, 1)} or not (
            len(tensors["of_piece_SC"]) == source
            and all(
                not ids.numel() or 0 <= int(ids.min()) <= int(ids.max()) < int(target or 0) for ids in tensors.values()
            )
        ):
            raise DirectoryError(f"{path} is no shortlist of this model", "Copy it again")
        return Shortlist(*(tensors[name].long().numpy() for name in Shortlist._fields))

    def write_about(self) -> None:
        """Writes config.json."""
        write_whole(self.path / CONFIG, json.dumps(self.about, indent=2).encode() + b"\n")

    def new_model(self) -> Seq2Seq:
        """A model of this directory's shape, its parameters drawn from torch's random numbers."""
        source, target, joint = (self.about.get(name) for name in ("source_size", "target_size", "joint"))
        is_usable = all(isinstance(size, int) and 0 < size <= MOST_PIECES for size in (source, target))
        if not is_usable or not isinstance(joint, bool):
            raise DirectoryError(f"{self.path / CONFIG} has no usable sizes of its vocabularies", "Copy it again")
        return Seq2Seq(self.model_config, source_size=int(source or 0), target_size=int(target or 0), joint=joint)

    def read_model(self, checkpoint: str = "", *, verify: bool = False) -> Seq2Seq:
        """The model with the weights of a checkpoint.

        Args:
            checkpoint: "" for what translate uses; last, best, or a name under checkpoints/.
            verify: see `read_tensors`.
        Raises:
            DirectoryError: no such checkpoint, or weights that are damaged or of another shape.
        """
        weights, path = self._weights_of(checkpoint, verify=verify)
        with torch.device("meta"), Undrawn():  # a shape that is not that of the weights must not take memory
            model = self.new_model()
        check_shapes(model, weights, path)
        # a copy: what is read is a view of the file, and somebody may write there while we translate
        own = {name: value.to(torch.float32, copy=True) for name, value in weights.items()}
        model.load_state_dict(own, assign=True)
        return model

    def _weights_of(self, checkpoint: str, *, verify: bool = False) -> tuple[dict[str, Tensor], Path]:
        if checkpoint == "last":
            tensors, _ = read_tensors(self.path / STATE, verify=verify)
            return {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}, self.path / STATE
        if checkpoint in ("", "best"):
            best = self.path / BEST
            path = best if checkpoint and best.exists() else self.path / WEIGHTS
        elif re.fullmatch(r"update-\d+", checkpoint):
            path = self.path / "checkpoints" / checkpoint / WEIGHTS
        else:
            raise ConfigError(f"--checkpoint must be last, best or update-<number>, but is {checkpoint}")
        if not path.exists():
            kept = ", ".join(["last"] * (self.path / STATE).exists() + [f"update-{n:08d}" for n in self.checkpoints()])
            raise DirectoryError(f"{path} is not there", f"There is {kept}" if kept else "Train the model first")
        return read_tensors(path, verify=verify)[0], path

    def checkpoints(self) -> list[int]:
        """The updates whose checkpoints are kept, in order."""
        folders = (self.path / "checkpoints").glob("update-*")
        return sorted(int(folder.name[7:]) for folder in folders if folder.name[7:].isdecimal())

    def save_checkpoint(self, update: int, model: Seq2Seq) -> None:
        """Keeps the weights of an update under checkpoints/."""
        write_whole(self.path / f"checkpoints/update-{update:08d}" / WEIGHTS, weights_bytes(model))

    def keep_checkpoints(self, updates: set[int]) -> None:
        """Removes all checkpoints but these."""
        for update in set(self.checkpoints()) - updates:
            shutil.rmtree(self.path / f"checkpoints/update-{update:08d}")

    def save_best(self, model: Seq2Seq, *, keeping_last: bool = False) -> None:
        """Makes these weights what translate uses.

        Args:
            keeping_last: the best until now stays beside them.
        """
        if keeping_last:
            self.save_average(model)
        else:
            write_whole(self.path / WEIGHTS, weights_bytes(model))
            (self.path / BEST).unlink(missing_ok=True)

    def save_average(self, model: Seq2Seq) -> None:
        """Makes these weights what translate uses, and keeps the best beside them."""
        best = self.path / BEST
        if not best.exists():
            write_whole(best, (self.path / WEIGHTS).read_bytes())
        write_whole(self.path / WEIGHTS, weights_bytes(model))

    def restore_best(self) -> None:
        """Makes the best what translate uses, as it was before the end of a run that now goes on."""
        best = self.path / BEST
        if best.exists():
            best.replace(self.path / WEIGHTS)

    def average(self, updates: Sequence[int]) -> Seq2Seq:
        """A model whose every weight is the mean over these checkpoints."""
        sums: dict[str, Tensor] = {}
        for update in updates:
            tensors, _ = self._weights_of(f"update-{update:08d}")
            for name, value in tensors.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
        model = self.new_model()
        means = {name: (value / len(updates)).float() for name, value in sums.items()}
        load_weights(model, means, self.path / "checkpoints")
        return model

    def save_last(
        self,
        model: Seq2Seq,
        optimizer: torch.optim.Optimizer,
        progress: dict[str, Any],
        random: Sequence[dict[str, Tensor]],
        mean: Seq2Seq | None = None,
    ) -> None:
        """Keeps all that a resumed run needs.

        Args:
            random: `random_states` of each process that trains.
            mean: the running mean of the weights, where there is one.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        tensors = {f"model.{name}": value for name, value in unique_state(model).items()}
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                tensors[f"optimizer.{names[id(parameter)]}.{key}"] = value
        if mean is not None:
            tensors |= {f"mean.{name}": value for name, value in unique_state(mean).items()}
        for rank, states in enumerate(random):
            tensors |= {f"random.{device}{_of_rank(rank)}": state for device, state in states.items()}
        write_whole(self.path / STATE, tensors_bytes(tensors, {"progress": json.dumps(progress)}))

    def append_log(self, line: str, length: int) -> int:
        """Puts a line behind so many bytes of log.jsonl, and gives its new length."""
        with (self.path / LOG).open("ab") as file:
            file.truncate(length)  # what a failed write has left of a line
            return length + file.write(line.encode() + b"\n")

    def cut_log(self, length: int) -> int:
        """Lines past the last save are cut, for their updates are done again; so is a line that is not whole.

        Returns:
            the length that is left.
        """
        with (self.path / LOG).open("a+b") as file:
            file.seek(0)
            length = file.read(length).rfind(b"\n") + 1
            file.truncate(length)
        return length

    def has_last(self) -> bool:
        """Something was saved to resume from."""
        return (self.path / STATE).exists()

    def load_last(
        self, model: Seq2Seq, optimizer: torch.optim.Optimizer, mean: Seq2Seq | None = None, rank: int = 0
    ) -> dict[str, Any]:
        """Brings model, optimiser, mean and torch's random numbers to where `save_last` left them.

        The random numbers of a rank that was not there then stay as they are.

        Returns:
            the progress that was saved.
        """
        tensors, metadata = read_tensors(self.path / STATE, verify=True)
        path = self.path / STATE
        weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        load_weights(model, weights, path)
        if mean is not None:
            means = {name[5:]: value for name, value in tensors.items() if name.startswith("mean.")}
            load_weights(mean, means, path)
        try:
            progress = json.loads(metadata["progress"])
            states: dict[int, dict[str, Tensor]] = {}
            for number, (name, _) in enumerate(model.named_parameters()):
                prefix = f"optimizer.{name}."
                values = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
                if values:
                    states[number] = values
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
            if not rank or f"random.cpu{_of_rank(rank)}" in tensors:
                torch.set_rng_state(tensors[f"random.cpu{_of_rank(rank)}"])
            if torch.cuda.is_available() and f"random.cuda{_of_rank(rank)}" in tensors:
                torch.cuda.set_rng_state(tensors[f"random.cuda{_of_rank(rank)}"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise DirectoryError(f"{path} is not a training state ({error})", "Start again with --overwrite") from error
        if not isinstance(progress, dict):
            raise DirectoryError(f"{path} has no usable progress", "Start again with --overwrite")
        return progress


class Onlooker(ModelDirectory):
    """What a process has of the directory that another one writes: it reads, and what it would write is left out."""

    def create(self, *, source_model: Path, target_model: Path) -> None:
        """Nothing."""

    def write_about(self) -> None:
        """Nothing."""

    def save_shortlist(self, shortlist: Shortlist) -> None:
        """Nothing."""

    def save_checkpoint(self, update: int, model: Seq2Seq) -> None:
        """Nothing."""

    def keep_checkpoints(self, updates: set[int]) -> None:
        """Nothing."""

    def save_best(self, model: Seq2Seq, *, keeping_last: bool = False) -> None:
        """Nothing."""

    def save_average(self, model: Seq2Seq) -> None:
        """Nothing."""

    def restore_best(self) -> None:
        """Nothing."""

    def save_last(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def average(self, updates: Sequence[int]) -> Seq2Seq:
        """A model for the weights that the other process will give."""
        return self.new_model()

    def append_log(self, line: str, length: int) -> int:
        """Nothing."""
        return length

    def cut_log(self, length: int) -> int:
        """Nothing."""
        return length


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's generators, by device."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


def _of_rank(rank: int) -> str:
    return f".{rank}" if rank else ""
