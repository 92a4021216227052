"""Write a run to its model directory: everything needed for translation and for an exact resume.

    model/
      config.json              the record of the model (see store/record.py)
      source.model             SentencePiece, as in the data directory
      target.model
      model.safetensors        the weights used by translate: the best by the validation metric, or, with --average,
                               an average of checkpoints
      best.safetensors         the best weights, moved here when an average, or the weights of the extra validation at
                               the end of a run, replaced them in model.safetensors
      log.jsonl                one JSON object per line (see training/loop.py)
      shortlist.safetensors    the likely translations of each source piece (see data/shortlist.py)
      lock                     exists while training runs (see training/lock.py)
      last/state.safetensors   everything that a resumed run needs
      checkpoints/update-00001000/model.safetensors

Weights are safetensors files whose keys are the names of the parameters; tied parameters are stored once.
`state.safetensors` holds `model.<parameter>`, `optimizer.<parameter>.<key>`, `random.<device>` (the states of the
random generators, as bytes; for a rank r above 0, `random.<device>.<r>`) and, with --ema, the moving average as
`mean.<parameter>`. Its metadata `progress` is a JSON object with the fields of `training.progress.Progress`. The
metadata `sha256` of each safetensors file is the hash of the name, type, shape and bytes of every tensor, in order of
the names.

Every file except log.jsonl and lock is written under a temporary name, flushed to the disk and renamed, so that a file
under its final name is always complete. Nothing is pickled.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nmtcli.data.files import (
    append_at,
    cut_to_whole_lines,
    empty_directory,
    remove_file,
    remove_tree,
    rename,
    write_whole,
)
from nmtcli.data.shortlist import Shortlist
from nmtcli.errors import DirectoryError
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.reader import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    SHORTLIST,
    STATE,
    WEIGHTS,
    StoredModel,
    checkpoint_name,
    part_of,
)
from nmtcli.store.weights import load_weights, read_tensors, tensors_bytes, unique_state, weights_bytes
from nmtcli.training.lock import LOCK
from nmtcli.training.progress import Progress

LEFT_AT_START = {LOCK, f"{CONFIG}.tmp"}  # files that a run killed at its very start may leave behind
LOG = "log.jsonl"


class RunWriter(Protocol):
    """Writes the model directory of a run. The first rank uses `DiskWriter`, all others use `NoWriter`."""

    def create(self, source_model: Path, target_model: Path, shortlist: Shortlist | None) -> None:
        """Create the model directory, without weights; delete any run that it holds.

        Args:
            source_model, target_model: SentencePiece files to copy.
            shortlist: the likely translations of each source piece; if None, write no shortlist.
        """

    def continue_run(self) -> None:
        """Prepare the directory for a resumed run: write its record, and put the best weights in model.safetensors."""

    def save_checkpoint(self, update: int, model: Seq2Seq) -> None:
        """Save the weights under checkpoints/, named after the update."""

    def keep_checkpoints(self, updates: set[int]) -> None:
        """Delete all checkpoints except those saved at `updates`."""

    def save_best(self, model: Seq2Seq, *, keeping_last: bool = False) -> None:
        """Save the best weights as model.safetensors, which `nmt translate` uses.

        Args:
            model: the model with the best weights.
            keeping_last: if True, keep the previous best weights as best.safetensors; by default, they are lost.
        """

    def save_average(self, model: Seq2Seq) -> None:
        """Save averaged weights as model.safetensors, and keep the best weights as best.safetensors."""

    def save_last(self, state: "RunState", generators: Sequence[dict[str, Tensor]]) -> None:
        """Save everything that a resumed run needs.

        Args:
            state: state of the run.
            generators: the result of `generator_states` on each rank, ordered by rank.
        """

    def append_log(self, line: str, length: int) -> int:
        """Truncate log.jsonl to `length` [bytes], append a line, and return the new length [bytes]."""

    def cut_log(self, length: int) -> int:
        """Truncate log.jsonl to the lines that end in its first `length` bytes; a resumed run writes later lines anew.

        Args:
            length: maximum length of the truncated log [bytes].
        Returns:
            the new length [bytes].
        """


@dataclasses.dataclass(frozen=True)
class RunState:
    """Everything that changes during a run, except the states of the random generators.

    Attributes:
        model: the model that is trained.
        optimizer: the optimiser, with its state.
        progress: counters of the run, and its position in the training data.
        ema_model: the moving average of the weights; None without --ema.
    """

    model: Seq2Seq
    optimizer: torch.optim.Optimizer
    progress: Progress
    ema_model: Seq2Seq | None


class DiskWriter:
    """Writes a run to disk.

    Args:
        stored: the model directory to write, with the record for its config.json.
    """

    def __init__(self, stored: StoredModel) -> None:
        self._path = stored.path
        self._record = stored.record

    def create(self, source_model: Path, target_model: Path, shortlist: Shortlist | None) -> None:
        if self._path.exists():
            empty_directory(self._path, keep={LOCK})
        self._write_record()  # written first, so that an interrupted run leaves a directory that nmt recognises
        write_whole(self._path / "source.model", source_model.read_bytes())
        write_whole(self._path / "target.model", target_model.read_bytes())
        if shortlist is not None:
            tensors = {name: torch.from_numpy(ids).to(torch.int32) for name, ids in shortlist._asdict().items()}
            write_whole(self._path / SHORTLIST, tensors_bytes(tensors, {}))

    def continue_run(self) -> None:
        self._write_record()
        best = self._path / BEST
        if best.exists():
            rename(best, self._path / WEIGHTS)

    def save_checkpoint(self, update: int, model: Seq2Seq) -> None:
        write_whole(self._path / CHECKPOINTS / checkpoint_name(update) / WEIGHTS, weights_bytes(model))

    def keep_checkpoints(self, updates: set[int]) -> None:
        for update in set(StoredModel(self._path, self._record).checkpoints()) - updates:
            remove_tree(self._path / CHECKPOINTS / checkpoint_name(update))

    def save_best(self, model: Seq2Seq, *, keeping_last: bool = False) -> None:
        if keeping_last:
            self.save_average(model)
        else:
            write_whole(self._path / WEIGHTS, weights_bytes(model))
            remove_file(self._path / BEST, missing_ok=True)

    def save_average(self, model: Seq2Seq) -> None:
        best = self._path / BEST
        if not best.exists():
            write_whole(best, (self._path / WEIGHTS).read_bytes())
        write_whole(self._path / WEIGHTS, weights_bytes(model))

    def save_last(self, state: RunState, generators: Sequence[dict[str, Tensor]]) -> None:
        names = {id(parameter): name for name, parameter in state.model.named_parameters()}
        tensors = {f"model.{name}": value for name, value in unique_state(state.model).items()}
        for parameter, values in state.optimizer.state.items():
            for key, value in values.items():
                tensors[f"optimizer.{names[id(parameter)]}.{key}"] = value
        if state.ema_model is not None:
            tensors |= {f"mean.{name}": value for name, value in unique_state(state.ema_model).items()}
        for rank, states in enumerate(generators):
            tensors |= {_generator_key(device, rank): value for device, value in states.items()}
        metadata = {"progress": json.dumps(dataclasses.asdict(state.progress))}
        write_whole(self._path / STATE, tensors_bytes(tensors, metadata))

    def append_log(self, line: str, length: int) -> int:
        return append_at(self._path / LOG, length, line.encode() + b"\n")

    def cut_log(self, length: int) -> int:
        return cut_to_whole_lines(self._path / LOG, length)

    def _write_record(self) -> None:
        write_whole(self._path / CONFIG, json.dumps(self._record.to_json(), indent=2).encode() + b"\n")


class NoWriter:
    """A `RunWriter` that writes nothing, for all ranks other than the first."""

    def create(self, source_model: Path, target_model: Path, shortlist: Shortlist | None) -> None:
        pass

    def continue_run(self) -> None:
        pass

    def save_checkpoint(self, update: int, model: Seq2Seq) -> None:
        pass

    def keep_checkpoints(self, updates: set[int]) -> None:
        pass

    def save_best(self, model: Seq2Seq, *, keeping_last: bool = False) -> None:
        pass

    def save_average(self, model: Seq2Seq) -> None:
        pass

    def save_last(self, state: RunState, generators: Sequence[dict[str, Tensor]]) -> None:
        pass

    def append_log(self, line: str, length: int) -> int:
        return length

    def cut_log(self, length: int) -> int:
        return length


def load_last(file: Path, state: RunState, rank: int = 0) -> RunState:
    """Restore a run and torch's random generators from a file written by `RunWriter.save_last`.

    Args:
        file: path of the training state.
        state: state of the run; its model, optimiser and ema_model are changed in place.
        rank: the rank whose generator states to restore; if the file has none for it, the generators stay unchanged.
    Returns:
        a copy of `state` with the saved progress.
    Raises:
        DirectoryError: the file is missing or damaged, or does not fit this model.
    """
    tensors, metadata = read_tensors(file, verify=True)
    load_weights(state.model, part_of(tensors, "model."), file)
    if state.ema_model is not None:
        load_weights(state.ema_model, part_of(tensors, "mean."), file)
    try:
        fields = json.loads(metadata["progress"])
        _load_optimizer(state, tensors)
        if not rank or _generator_key("cpu", rank) in tensors:
            torch.set_rng_state(tensors[_generator_key("cpu", rank)])
        if torch.cuda.is_available() and _generator_key("cuda", rank) in tensors:
            torch.cuda.set_rng_state(tensors[_generator_key("cuda", rank)])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DirectoryError(f"{file} is not a training state ({error})", "Start again with --overwrite") from error
    if not isinstance(fields, dict):
        raise DirectoryError(f"{file} has no usable progress", "Start again with --overwrite")
    try:
        return dataclasses.replace(state, progress=Progress.from_json(fields))
    except TypeError as error:
        raise DirectoryError(f"{file} has no usable progress ({error})") from error


def _load_optimizer(state: RunState, tensors: dict[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(state.model.named_parameters()):
        if values := part_of(tensors, f"optimizer.{name}."):
            states[number] = values
    param_groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": states, "param_groups": param_groups})


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's default random generators in this process, keyed by device type ("cpu", "cuda")."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


def _generator_key(device: str, rank: int) -> str:
    return f"random.{device}.{rank}" if rank else f"random.{device}"
