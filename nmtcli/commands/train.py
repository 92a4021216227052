"""`nmt train`: data directory -> model directory."""

import copy
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from nmtcli.commands.machine import (
    autocast,
    choose_device,
    choose_precision,
    deterministic_algorithms,
    set_threads,
)
from nmtcli.commands.report import Reporter, introduce, say_plan, tensorboard
from nmtcli.config import PRECISIONS, ModelConfig, SearchConfig, TrainConfig
from nmtcli.console import Console
from nmtcli.data.batches import TrainingBatches, loader_deaths
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.mixture import mixture_of
from nmtcli.data.parallel import cores
from nmtcli.data.shortlist import Shortlist, evenly, shortlist
from nmtcli.data.subword import Subword
from nmtcli.data.vectors import read_vectors
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.knobs import Config, knob_of, option_name, option_text
from nmtcli.losses.build import build_loss
from nmtcli.model.init import start_from_vectors
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.ranks import environment
from nmtcli.training.checkpoint import BEGUN, CONFIG, STATE, ModelDirectory, Onlooker
from nmtcli.training.distributed import joined, launch
from nmtcli.training.estimate import estimate, fitting_batch_tokens
from nmtcli.training.lock import locked
from nmtcli.training.loop import Trainer
from nmtcli.training.optimizer import optimizer_for
from nmtcli.training.progress import Progress
from nmtcli.training.validation import Validator
from nmtcli.training.weights import load_weights, unique_state


def run(
    model_config: ModelConfig, config: TrainConfig, given: frozenset[str], arguments: Sequence[str], console: Console
) -> None:
    """Trains a model, or goes on training one.

    Args:
        model_config, config: what the command line and the recipe say.
        given: the options that they set; on resume the others are those of the run that goes on.
        arguments: the whole command line, to start other processes with.
        console: who to talk to.
    """
    if config.nproc > 1 and not environment().is_launched:
        launch(config.nproc, arguments)
        return
    with loader_deaths(), ExitStack() as stack:
        device = choose_device(_device_of_rank(config.device))
        world = stack.enter_context(joined(device, config.timeout))
        directory_class: type[ModelDirectory] = ModelDirectory
        if not world.is_first:
            console, directory_class = Console(silent=True), Onlooker
        resumes = world.broadcast(config.resume and _holds_run(config.model))
        if resumes:
            if world.is_first and not config.dry_run:
                stack.enter_context(locked(Path(config.model)))
            directory = directory_class.open(config.model)
            model_config, config = merged(
                (directory.model_config, _training_config(directory)), (model_config, config), given
            )
            directory.about.update(training=config.to_dict())
        data = DataDirectory.open(config.data)
        data.verify(quick=not config.verify)
        set_threads(config.threads or max(1, cores() // environment().local_world_size))
        if resumes:
            _check_same_data(directory, data)
        else:
            if world.is_first and not config.dry_run:
                _check_room(config)
            model_config = _shape_to_start_from(config.init_from, model_config, given)
            about = _about(model_config, config, data, world.broadcast(choose_precision(config.precision, device)))
            directory = directory_class.planned(config.model, about)
        _check_sampling(config, data)
        mixture = mixture_of(config.mix, data.corpora) if config.mix else None
        loss = build_loss(
            config, model_config, source=data.source_subword, target=data.target_subword, target_lang=data.target_lang
        )
        board_class = tensorboard() if config.tensorboard else None
        if config.deterministic:
            stack.enter_context(deterministic_algorithms())
        precision = autocast(device, directory.about["precision"])

        torch.manual_seed(config.seed)
        model = directory.new_model().to(device)
        optimizer = optimizer_for(model, config)
        goes_on = world.broadcast(resumes and directory.has_last())
        if not goes_on:
            _start(model, config, directory, data, console)
        batch_tokens = config.batch_tokens or (
            _stored_batch_tokens(directory)
            if goes_on
            else world.broadcast(
                fitting_batch_tokens(model.train(), loss, data.train.longest(), device=device, autocast=precision)
            )
        )
        directory.about["batch_tokens"] = batch_tokens
        batches = TrainingBatches(
            data.train,
            data.source_subword,
            data.target_subword,
            batch_tokens=batch_tokens,
            seed=config.seed,
            subword_alpha=config.subword_alpha,
            workers=config.loader_workers,
            pin_memory=device.type == "cuda",
            mixture=mixture,
            share=(world.rank, world.size),
        )
        if config.dry_run:
            plan = estimate(
                model.train(), loss, optimizer, batches, config, ranks=world.size, device=device, autocast=precision
            )
            say_plan(console, config, plan, directory.about["precision"])
            return
        mean = copy.deepcopy(model) if config.ema else None
        if world.rank:  # dropout of its own; where its numbers were saved, they go on
            torch.manual_seed(hash((config.seed, world.rank)) % (1 << 63))
        progress = Progress()
        if goes_on:
            progress = _progress(directory.load_last(model, optimizer, mean, world.rank), directory)
            directory.write_about()
            directory.restore_best()
        else:  # everything that can be refused was: only now does anything appear on the disk, or go
            if world.is_first and not resumes:
                stack.enter_context(locked(Path(config.model)))
                _check_room(config)  # another run may have begun here since
            likely = _shortlist(data) if world.is_first else None
            directory.create(source_model=data.path / "source.model", target_model=data.path / "target.model")
            if likely is not None:
                directory.save_shortlist(likely)
        world.broadcast(None)  # the directory is there: no rank reads it before
        validator = Validator(
            data.valid,
            data.source_subword,
            data.target_subword,
            target_lang=data.target_lang,
            search=SearchConfig(beam=config.validation_beam),
            by_logits=directory.searches_by_logits,
            batch_tokens=batch_tokens,
            samples=config.show,
            device=device,
            autocast=precision,
            world=world,
        )
        introduce(console, model, data, device, directory.about["precision"], progress)
        if world.size > 1:
            tokens = batch_tokens * config.accumulate * world.size
            console.say(f"{world.size} ranks; {tokens:,} tokens an update, padding counted")
        bar, signals = stack.enter_context(console.bar("training")), stack.enter_context(_signals())
        board = stack.enter_context(board_class(config.tensorboard)) if board_class else None
        trainer = Trainer(
            model.train(),
            loss,
            optimizer,
            batches,
            validator,
            directory,
            config,
            progress=progress,
            mean=mean,
            events=Reporter(console, bar, board, config, world.size),
            device=device,
            autocast=precision,
            signal_seen=lambda: signals[-1] if signals else 0,
            world=world,
        )
        reason = trainer.run()
        console.say(f"Done after {reason}. Translate with: nmt translate --model {config.model} < input.txt")


def _device_of_rank(name: str) -> str:
    """Each rank of a machine has a GPU of its own, where there are GPUs."""
    local_rank = environment().local_rank
    return f"cuda:{local_rank}" if local_rank is not None and choose_device(name) == torch.device("cuda") else name


def merged(
    stored: tuple[ModelConfig, TrainConfig], asked: tuple[ModelConfig, TrainConfig], given: frozenset[str]
) -> tuple[ModelConfig, TrainConfig]:
    """The options of a run that goes on: those it began with, but for those given now that may change.

    Raises:
        ConfigError: an option that may not change was given another value; all of them are named.
    """
    differences: list[str] = []
    both = [_merged(old, new, given, differences) for old, new in zip(stored, asked, strict=True)]
    if differences:
        raise ConfigError(
            f"--resume goes on with the options the run began with, but now there is {', '.join(differences)}",
            "Leave them out, or start again with --overwrite",
        )
    return both[0], both[1]


def _merged(stored: Config, asked: Config, given: frozenset[str], differences: list[str]) -> Any:
    values = {}
    for field in dataclasses.fields(stored):
        name = field.name
        old, new = getattr(stored, name), getattr(asked, name)
        takes_new = name in given or name in ("data", "model", "resume", "overwrite", "dry_run", "nproc", "timeout")
        values[name] = new if takes_new else old
        if takes_new and new != old and not knob_of(field).may_change:
            differences.append(f"{option_name(name)} {new} (was {old})")
    return type(stored)(**values)


def _training_config(directory: ModelDirectory) -> TrainConfig:
    try:
        if directory.about["precision"] not in PRECISIONS:
            raise ConfigError(f"precision is {directory.about['precision']}")
        return TrainConfig.from_dict(directory.about["training"])
    except (ConfigError, KeyError, TypeError) as error:
        raise DirectoryError(f"{directory.path / CONFIG} has no usable training configuration ({error})") from error


def _stored_batch_tokens(directory: ModelDirectory) -> int:
    tokens = directory.about.get("batch_tokens")
    if not isinstance(tokens, int) or tokens < 1:
        raise DirectoryError(f"{directory.path / CONFIG}: batch_tokens is {tokens!r}", "Give --batch-tokens")
    return tokens


def _progress(fields: dict[str, Any], directory: ModelDirectory) -> Progress:
    try:
        progress = Progress(**fields)
        if not all(
            isinstance(number, int) for number in (progress.update, progress.epoch, progress.block, progress.batch)
        ):
            raise TypeError("update, epoch, block and batch must be whole numbers")
    except TypeError as error:
        raise DirectoryError(f"{directory.path / STATE} has no usable progress ({error})") from error
    return progress


def _holds_run(path: str) -> bool:
    return (Path(path) / CONFIG).exists()


def _check_room(config: TrainConfig) -> None:
    """Sees to it that the model directory is absent, empty, or a run that may be replaced."""
    path = Path(config.model)
    if not path.exists():
        return
    if not path.is_dir():
        raise DirectoryError(f"{path} is a file", "Name another directory with --model")
    if _holds_run(config.model):
        if not config.overwrite:
            raise DirectoryError(f"{path} holds a run", "Go on with --resume, replace it with --overwrite")
        ModelDirectory.open(config.model)  # refuse to remove what is not ours
    elif any(child.name not in BEGUN for child in path.iterdir()):
        raise DirectoryError(f"{path} is not empty, and not a model directory", "Name another one with --model")


def _check_sampling(config: TrainConfig, data: DataDirectory) -> None:
    if config.subword_alpha and not {data.source_subword.kind, data.target_subword.kind} <= {"unigram", "bpe"}:
        raise ConfigError(
            f"--subword-alpha samples unigram and bpe segmentations, but {config.data} has {data.meta['subword']}",
            "Use --subword-alpha 0",
        )


def _about(model_config: ModelConfig, config: TrainConfig, data: DataDirectory, precision: str) -> dict[str, Any]:
    return {
        "source_lang": data.source_lang,
        "target_lang": data.target_lang,
        "subword": data.meta["subword"],
        "joint": data.joint,
        "source_size": data.source_subword.size,
        "target_size": data.target_subword.size,
        "source_sha256": data.source_subword.sha256,
        "target_sha256": data.target_subword.sha256,
        "training_sha256": data.training_sha256,
        "model": model_config.to_dict(),
        "training": config.to_dict(),
        "precision": precision,
    }


def _check_same_data(directory: ModelDirectory, data: DataDirectory) -> None:
    """A run goes on with the languages, the vocabularies and the training pairs that it began with."""
    if directory.direction != data.direction:
        raise DirectoryError(
            f"{data.path} is {data.direction}, but {directory.path} translates {directory.direction}",
            "Name the data that the model was trained on with --data",
        )
    for side, subword in (("source", data.source_subword), ("target", data.target_subword)):
        if directory.about.get(f"{side}_sha256") != subword.sha256:
            raise DirectoryError(
                f"{data.path} has another {side} subword model ({subword.sha256[:12]}) than {directory.path} "
                f"({str(directory.about.get(f'{side}_sha256'))[:12]})",
                "Name the data that the model was trained on with --data",
            )
    if directory.about.get("training_sha256") != data.training_sha256:
        raise DirectoryError(
            f"{data.path} has other training pairs ({data.training_sha256[:12]}) than those that {directory.path} was "
            f"trained on ({str(directory.about.get('training_sha256'))[:12]})",
            f"To train its model on other text, start another with --init-from {directory.path}",
        )


def _shape_to_start_from(path: str, asked: ModelConfig, given: frozenset[str]) -> ModelConfig:
    """What is asked for, where nothing is that of the model to start from."""
    if not path:
        return asked
    others = ModelDirectory.open(path).model_config.to_dict()
    return ModelConfig.from_dict(
        {name: value if name in given else others[name] for name, value in asked.to_dict().items()}
    )


def _start(
    model: Seq2Seq, config: TrainConfig, directory: ModelDirectory, data: DataDirectory, console: Console
) -> None:
    """Where weights do not start at random: --init-from, --source-vectors and --target-vectors."""
    if config.init_from:
        _start_from(model, config.init_from, directory, console)
    if config.source_vectors:
        _start_embedding(model.source_embedding.weight, data.source_subword, config.source_vectors, console)
    if config.target_vectors:  # where both sides share a matrix, these are written over the source's
        _start_embedding(model.target_embedding_VE, data.target_subword, config.target_vectors, console)


def _start_from(model: Seq2Seq, path: str, directory: ModelDirectory, console: Console) -> None:
    """Copies the weights of another model directory, which must have the same vocabularies and shape."""
    other = ModelDirectory.open(path)
    if other.direction != directory.direction:
        console.warn(f"--init-from {path} translates {other.direction}, the data is {directory.direction}")
    for side in ("source", "target"):
        if other.about.get(f"{side}_sha256") != directory.about[f"{side}_sha256"]:
            raise DirectoryError(
                f"--init-from {path} has another {side} subword model ({str(other.about.get(f'{side}_sha256'))[:12]}) "
                f"than the data ({directory.about[f'{side}_sha256'][:12]})",
                f"Preprocess with --source-model {path}/source.model --target-model {path}/target.model",
            )
    weights = unique_state(other.read_model())
    try:
        load_weights(model, weights, other.path)
    except DirectoryError as error:
        ours, theirs = directory.model_config.to_dict(), other.model_config.to_dict()
        differences = [option_text(name, value) for name, value in ours.items() if value != theirs[name]]
        raise DirectoryError(
            f"--init-from {path} has another shape than this model with {', '.join(differences)}", "Leave these out"
        ) from error


def _shortlist(data: DataDirectory) -> Shortlist:
    return shortlist(
        (data.train[number] for number in evenly(len(data.train))),
        data.source_subword.size,
        data.target_subword.size,
        joint=data.joint,
    )


def _start_embedding(embedding_VE: torch.Tensor, subword: Subword, path: str, console: Console) -> None:
    """Copies vectors of pieces from a file."""
    ids, vectors = read_vectors(path, subword.pieces(range(subword.size)), embedding_VE.shape[1])
    device = embedding_VE.device
    start_from_vectors(embedding_VE, torch.from_numpy(ids).to(device), torch.from_numpy(vectors).to(device))
    console.say(f"{path} has vectors for {len(ids):,} of {subword.size:,} pieces; the others start at random")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that training can save before it stops; a second one stops at once."""
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
