"""`nmt train`: train a model from a data directory into a model directory."""

import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from nmtcli.commands.initialise import initialiser, shape_to_start_from
from nmtcli.commands.machine import (
    choose_device,
    choose_precision,
    deterministic_algorithms,
    machine_of,
    set_threads,
)
from nmtcli.commands.report import Reporter, introduce, show_plan, tensorboard
from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.console import Console
from nmtcli.data.batches import loader_deaths
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.parallel import cores
from nmtcli.data.shortlist import Shortlist, evenly, shortlist
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.knobs import Config, knob_of, option_name
from nmtcli.ranks import environment
from nmtcli.store.reader import StoredModel, check_is_model, holds_model
from nmtcli.training.assembly import Parts, Start, assembled, begun, resumed
from nmtcli.training.checkpoint import LEFT_AT_START
from nmtcli.training.distributed import World, joined, launch
from nmtcli.training.estimate import estimate
from nmtcli.training.lock import locked
from nmtcli.training.loop import Trainer
from nmtcli.training.machine import Machine

FOR_EACH_CALL = ("data", "model", "resume", "overwrite", "dry_run", "nproc", "timeout")  # never taken from a stored run


def run(
    model_config: ModelConfig, config: TrainConfig, given: frozenset[str], arguments: Sequence[str], console: Console
) -> None:
    """Train a model, or continue training one.

    Args:
        model_config, config: options from the command line and the recipe, completed with defaults.
        given: names of the options set on the command line or in the recipe; a resumed run takes all other options
            from the stored run.
        arguments: command-line arguments of this process, passed on to the processes started for --nproc.
        console: for messages.
    """
    if config.nproc > 1 and not environment().is_launched:
        launch(config.nproc, arguments)
        return
    with loader_deaths(), ExitStack() as stack:
        device = choose_device(_device_of_rank(config.device))
        world = stack.enter_context(joined(device, config.timeout))
        if not world.is_first:
            console = Console(silent=True)
        writes = world.is_first and not config.dry_run

        resumes = world.broadcast(config.resume and holds_model(config.model))
        if resumes and writes:
            stack.enter_context(locked(Path(config.model)))
        start, machine = (_resume if resumes else _begin)(model_config, config, given, device, world)
        config = start.config
        board_class = tensorboard() if config.tensorboard else None
        if config.deterministic:
            stack.enter_context(deterministic_algorithms())
        parts = assembled(start, machine, world, initialise=initialiser(start, console))
        if config.dry_run:
            plan = estimate(parts.state, parts.loss, parts.batches, config, machine, ranks=world.size)
            show_plan(console, config, plan, machine.precision)
            return

        # all checks have passed; files are created or deleted only from here on
        if writes and not resumes:
            stack.enter_context(locked(Path(config.model)))
            _check_room(config)  # checked again, since another run may have started in this directory meanwhile
        _open_for_writing(parts, start.data)
        world.broadcast(None)  # barrier: no rank reads the directory before it exists

        introduce(console, parts, start.data)
        bar, signals = stack.enter_context(console.bar("training")), stack.enter_context(_signals())
        board = stack.enter_context(board_class(config.tensorboard)) if board_class else None
        reporter = Reporter(console, bar, board, config, world.size)
        reason = Trainer(parts, events=reporter, signal_seen=lambda: signals[-1] if signals else 0).run()
        console.info(f"Done after {reason}. Translate with: nmt translate --model {config.model} < input.txt")


def _device_of_rank(name: str) -> str:
    """Return the name of the device for this rank.

    That is its own GPU if `name` is "cuda", or if `name` is "auto" and the machine has GPUs; otherwise `name` itself.
    """
    local_rank = environment().local_rank
    return f"cuda:{local_rank}" if local_rank is not None and choose_device(name) == torch.device("cuda") else name


def _begin(
    model_config: ModelConfig, config: TrainConfig, given: frozenset[str], device: torch.device, world: World
) -> tuple[Start, Machine]:
    """Return the starting point of a new run, and the hardware and precision to use."""
    data = _open_data(config)
    if world.is_first and not config.dry_run:
        _check_room(config)
    machine = machine_of(device, world.broadcast(choose_precision(config.precision, device)))
    model_config = shape_to_start_from(config.init_from, model_config, given)
    return begun(model_config, config, data, machine.precision), machine


def _resume(
    model_config: ModelConfig, config: TrainConfig, given: frozenset[str], device: torch.device, _: World
) -> tuple[Start, Machine]:
    """Return the starting point of a resumed run, and the hardware and precision to use."""
    stored = StoredModel.open(config.model)
    config = merged((stored.record.model, stored.train_config), (model_config, config), given)[1]
    data = _open_data(config)
    return resumed(stored, config, data), machine_of(device, str(stored.record.precision))


def _open_data(config: TrainConfig) -> DataDirectory:
    """Open and verify the data directory, and set the number of threads of this rank."""
    data = DataDirectory.open(config.data)
    data.verify(quick=not config.verify)
    set_threads(config.threads or max(1, cores() // environment().local_world_size))
    return data


def merged(
    stored: tuple[ModelConfig, TrainConfig], asked: tuple[ModelConfig, TrainConfig], given: frozenset[str]
) -> tuple[ModelConfig, TrainConfig]:
    """Return the options of a resumed run: the stored options, overridden by the options given now.

    Args:
        stored: options stored in the model directory.
        asked: options given now, completed with defaults.
        given: names of the options given now.
    Raises:
        ConfigError: an option that must not change now has a different value; the message lists all such options.
    """
    differences: list[str] = []
    both = [_merged(old, new, given, differences) for old, new in zip(stored, asked, strict=True)]
    if differences:
        raise ConfigError(
            f"--resume continues with the options that the run began with, but now there is {', '.join(differences)}",
            "Leave them out, or start again with --overwrite",
        )
    return both[0], both[1]


def _merged(stored: Config, asked: Config, given: frozenset[str], differences: list[str]) -> Any:
    values = {}
    for field in dataclasses.fields(stored):
        name = field.name
        old, new = getattr(stored, name), getattr(asked, name)
        takes_new = name in given or name in FOR_EACH_CALL
        values[name] = new if takes_new else old
        if takes_new and new != old and not knob_of(field).may_change:
            differences.append(f"{option_name(name)} {new} (was {old})")
    return type(stored)(**values)


def _check_room(config: TrainConfig) -> None:
    """Check that the model directory is missing or empty, or that it holds a run that --overwrite may replace."""
    path = Path(config.model)
    if not path.exists():
        return
    if not path.is_dir():
        raise DirectoryError(f"{path} is a file", "Name another directory with --model")
    if holds_model(path):
        if not config.overwrite:
            raise DirectoryError(f"{path} holds a run", "Continue it with --resume, or replace it with --overwrite")
        check_is_model(path)  # --overwrite must not delete a directory that nmt did not make
    elif any(child.name not in LEFT_AT_START for child in path.iterdir()):
        raise DirectoryError(f"{path} is not empty, and not a model directory", "Name another one with --model")


def _open_for_writing(parts: Parts, data: DataDirectory) -> None:
    """Create the model directory of a new run, or prepare the existing one of a resumed run."""
    if parts.continues:
        parts.writer.continue_run()
        return
    likely = _shortlist(data) if parts.world.is_first else None
    parts.writer.create(data.path / "source.model", data.path / "target.model", likely)


def _shortlist(data: DataDirectory) -> Shortlist:
    return shortlist(
        (data.train[number] for number in evenly(len(data.train))),
        data.source_subword.size,
        data.target_subword.size,
        joint=data.joint,
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that training can save before it stops; the same signal again stops it at once."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, _: object) -> None:
        seen.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before: dict[signal.Signals, Any] = {}
    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, note)
    try:
        yield seen
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
