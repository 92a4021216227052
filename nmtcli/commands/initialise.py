"""Initialise the weights of a new run from another model (--init-from) or from word vectors."""

from collections.abc import Callable

import torch

from nmtcli.config import ModelConfig
from nmtcli.console import Console
from nmtcli.data.subword import Subword
from nmtcli.data.vectors import read_vectors
from nmtcli.errors import DirectoryError
from nmtcli.knobs import option_text
from nmtcli.model.init import start_from_vectors
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.reader import StoredModel
from nmtcli.store.record import ModelRecord
from nmtcli.store.weights import load_weights, unique_state
from nmtcli.training.assembly import Start


def shape_to_start_from(path: str, asked: ModelConfig, given: frozenset[str]) -> ModelConfig:
    """Return the model options of a new run; with --init-from, copy the options that were not given from that model.

    Args:
        path: directory of the --init-from model; if "", return `asked` unchanged.
        asked: all model options, including defaults.
        given: names of the options that were given; these keep their values in `asked`.
    """
    if not path:
        return asked
    others = StoredModel.open(path).record.model.to_dict()
    return ModelConfig.from_dict(
        {name: value if name in given else others[name] for name, value in asked.to_dict().items()}
    )


def initialiser(start: Start, console: Console) -> Callable[[Seq2Seq], None]:
    """Return a function that copies the --init-from weights, then the given word vectors, if any, into a model."""
    config, data = start.config, start.data

    def initialise(model: Seq2Seq) -> None:
        if config.init_from:
            _copy_weights(model, config.init_from, start.stored.record, console)
        if config.source_vectors:
            _copy_vectors(model.source_embedding.weight, data.source_subword, config.source_vectors, console)
        if config.target_vectors:  # if both sides share one matrix, the target vectors overwrite the source vectors
            _copy_vectors(model.target_embedding_VE, data.target_subword, config.target_vectors, console)

    return initialise


def _copy_weights(model: Seq2Seq, path: str, record: ModelRecord, console: Console) -> None:
    """Copy the weights from another model directory into a model.

    Raises:
        DirectoryError: the other model has different vocabularies or another shape.
    """
    other = StoredModel.open(path)
    if other.record.direction != record.direction:
        console.warn(f"--init-from {path} translates {other.record.direction}, the data is {record.direction}")
    for side in ("source", "target"):
        ours, theirs = record.sha256_of(side), other.record.sha256_of(side)
        if theirs != ours:
            raise DirectoryError(
                f"--init-from {path} has another {side} subword model ({str(theirs)[:12]}) "
                f"than the data ({str(ours)[:12]})",
                f"Preprocess with --source-model {path}/source.model --target-model {path}/target.model",
            )
    weights = unique_state(other.read_model())
    try:
        load_weights(model, weights, other.path)
    except DirectoryError as error:
        shape, other_shape = record.model.to_dict(), other.record.model.to_dict()
        differences = [option_text(name, value) for name, value in shape.items() if value != other_shape[name]]
        raise DirectoryError(
            f"--init-from {path} has another shape than this model with {', '.join(differences)}", "Leave these out"
        ) from error


def _copy_vectors(embedding_VE: torch.Tensor, subword: Subword, path: str, console: Console) -> None:
    """Copy word vectors from a file into the embedding matrix; pieces that the file lacks keep their embeddings."""
    ids, vectors = read_vectors(path, subword.pieces(range(subword.size)), embedding_VE.shape[1])
    device = embedding_VE.device
    start_from_vectors(embedding_VE, torch.from_numpy(ids).to(device), torch.from_numpy(vectors).to(device))
    console.info(f"{path} has vectors for {len(ids):,} of {subword.size:,} pieces; the others start at random")
