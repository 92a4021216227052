"""Assemble a run: from options, data and a model directory, make the parts that the training loop needs.

    begun(...) or resumed(...)          the starting point of the run
    assembled(start, machine, world)    the parts of the run, ready to start or to continue

This module writes nothing: `nmt train` writes only after all checks have passed.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.batches import TrainingBatches
from nmtcli.data.corpus import DataDirectory
from nmtcli.data.mixture import Mixture, mixture_of
from nmtcli.errors import ConfigError, DirectoryError
from nmtcli.losses.build import build_loss
from nmtcli.losses.protocol import Loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.translator import SubwordPair
from nmtcli.store.reader import CONFIG, STATE, StoredModel
from nmtcli.store.record import ModelRecord
from nmtcli.training.checkpoint import DiskWriter, NoWriter, RunState, RunWriter, load_last
from nmtcli.training.distributed import World
from nmtcli.training.estimate import fitting_batch_tokens
from nmtcli.training.machine import Machine
from nmtcli.training.optimizer import optimizer_for
from nmtcli.training.progress import Progress
from nmtcli.training.validation import Validation, Validator

RANK_SEEDS = 1 << 63


@dataclass(frozen=True)
class Start:
    """Starting point of a run: its options, data and model directory.

    Attributes:
        config: options of the run.
        data: the data directory.
        stored: the model directory; a new run has not created it yet.
        has_state: True if there is a saved training state to continue from.
    """

    config: TrainConfig
    data: DataDirectory
    stored: StoredModel
    has_state: bool = False


@dataclass(frozen=True)
class Parts:
    """Everything that the training loop needs.

    Attributes:
        config: options of the run.
        stored: the model directory, from which checkpoints are read.
        state: model in training mode, optimiser, progress and moving average.
        loss: the training objective.
        batches: this rank's share of the training batches.
        validate: computes the validation scores of a model.
        writer: writes the model directory.
        batch_tokens: the value of `--batch-tokens`, with `auto` resolved [tokens/batch].
        continues: True if the state was restored from a saved training state.
        machine: the hardware and precision used by this rank.
        world: the ranks that train together.
    """

    config: TrainConfig
    stored: StoredModel
    state: RunState
    loss: Loss
    batches: TrainingBatches
    validate: Callable[[Seq2Seq], Validation]
    writer: RunWriter
    batch_tokens: int
    continues: bool
    machine: Machine
    world: World


def begun(model_config: ModelConfig, config: TrainConfig, data: DataDirectory, precision: str) -> Start:
    """Return the starting point of a new run.

    Args:
        model_config: shape of the model.
        config: options of the run.
        data: the data directory.
        precision: the value of `--precision`, with `auto` resolved.
    """
    record = ModelRecord(
        source_lang=data.source_lang,
        target_lang=data.target_lang,
        subword=data.meta["subword"],
        joint=data.joint,
        source_size=data.source_subword.size,
        target_size=data.target_subword.size,
        source_sha256=data.source_subword.sha256,
        target_sha256=data.target_subword.sha256,
        training_sha256=data.training_sha256,
        model=model_config,
        training=config.to_dict(),
        precision=precision,
    )
    return Start(config, data, StoredModel(Path(config.model), record))


def resumed(stored: StoredModel, config: TrainConfig, data: DataDirectory) -> Start:
    """Return the starting point of a resumed run.

    Args:
        stored: the model directory.
        config: the stored options, overridden by the options given now that may change.
        data: the data directory; must have the languages, vocabularies and training pairs that the run began with.
    Raises:
        DirectoryError: the languages, vocabularies or training pairs of the data differ.
    """
    _check_same_data(stored, data)
    record = dataclasses.replace(stored.record, training=config.to_dict())
    return Start(config, data, dataclasses.replace(stored, record=record), stored.has_state())


def assembled(
    start: Start,
    machine: Machine,
    world: World,
    *,
    initialise: Callable[[Seq2Seq], None] = lambda model: None,
    loss: Loss | None = None,
) -> Parts:
    """Make the parts of a run, ready to start or to continue; seed or restore torch's random generators.

    Args:
        start: from `begun` or `resumed`.
        machine: the hardware and precision used by this rank.
        world: the ranks that train together.
        initialise: changes the randomly drawn weights in place; not called if a training state is restored. By
            default, the drawn weights are kept.
        loss: the training objective; by default, the objective named by `--loss`.
    Raises:
        ConfigError: options are incompatible with each other or with the data.
        DirectoryError: the training state is damaged.
        TrainingError: with `--batch-tokens auto`, not even the smallest batch fits in memory.
    """
    config, data = start.config, start.data
    _check_sampling(config, data)
    mixture = mixture_of(config.mix, data.corpora) if config.mix else None
    loss = loss or build_loss(
        config, start.stored.record.model, target=data.target_subword, target_lang=data.target_lang
    )
    torch.manual_seed(config.seed)
    model = start.stored.new_model().to(machine.device)
    state = RunState(model, optimizer_for(model, config), Progress(), None)
    has_state = world.broadcast(start.has_state)
    if not has_state:
        initialise(model)
    model.train()
    batch_tokens = config.batch_tokens or (
        start.stored.record.resolved_batch_tokens(start.stored.path / CONFIG)
        if has_state
        else world.broadcast(fitting_batch_tokens(state, loss, data.train.longest(), config, machine))
    )
    record = dataclasses.replace(start.stored.record, batch_tokens=batch_tokens)
    stored = dataclasses.replace(start.stored, record=record)
    state = dataclasses.replace(state, ema_model=copy.deepcopy(model) if config.ema else None)
    if world.rank:  # so that each rank draws its own dropout; saved generators, if any, are restored below
        torch.manual_seed(hash((config.seed, world.rank)) % RANK_SEEDS)
    if has_state:
        state = load_last(stored.path / STATE, state, world.rank)
    text = SubwordPair(data.source_subword, data.target_subword)
    return Parts(
        config=config,
        stored=stored,
        state=state,
        loss=loss,
        batches=_batches(config, data, mixture, batch_tokens, machine, world),
        validate=Validator(data.valid, text, record, config, batch_tokens=batch_tokens, machine=machine, world=world),
        writer=DiskWriter(stored) if world.is_first else NoWriter(),
        batch_tokens=batch_tokens,
        continues=has_state,
        machine=machine,
        world=world,
    )


def _batches(
    config: TrainConfig,
    data: DataDirectory,
    mixture: Mixture | None,
    batch_tokens: int,
    machine: Machine,
    world: World,
) -> TrainingBatches:
    """Return this rank's share of the training batches."""
    return TrainingBatches(
        data.train,
        data.source_subword,
        data.target_subword,
        batch_tokens=batch_tokens,
        seed=config.seed,
        subword_alpha=config.subword_alpha,
        workers=config.loader_workers,
        pin_memory=machine.device.type == "cuda",
        mixture=mixture,
        share=(world.rank, world.size),
    )


def _check_same_data(stored: StoredModel, data: DataDirectory) -> None:
    """Check that the data has the languages, vocabularies and training pairs that the run began with."""
    record = stored.record
    if record.direction != data.direction:
        raise DirectoryError(
            f"{data.path} is {data.direction}, but {stored.path} translates {record.direction}",
            "Use --data with the data that the model was trained on",
        )
    for side, subword in (("source", data.source_subword), ("target", data.target_subword)):
        if record.sha256_of(side) != subword.sha256:
            raise DirectoryError(
                f"{data.path} has another {side} subword model ({subword.sha256[:12]}) than {stored.path} "
                f"({str(record.sha256_of(side))[:12]})",
                "Use --data with the data that the model was trained on",
            )
    if record.training_sha256 != data.training_sha256:
        raise DirectoryError(
            f"{data.path} has other training pairs ({data.training_sha256[:12]}) than those that {stored.path} was "
            f"trained on ({str(record.training_sha256)[:12]})",
            f"To train the model on other text, start a new run with --init-from {stored.path}",
        )


def _check_sampling(config: TrainConfig, data: DataDirectory) -> None:
    if config.subword_alpha and not {data.source_subword.kind, data.target_subword.kind} <= {"unigram", "bpe"}:
        raise ConfigError(
            f"--subword-alpha samples unigram and bpe segmentations, but {config.data} has {data.meta['subword']}",
            "Use --subword-alpha 0",
        )
