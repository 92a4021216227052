"""What tests of several packages compare: small models in fp64 and their gradients, whole runs, numbers of lines."""

import json
from pathlib import Path
from typing import Any

import torch

from nmtcli.config import ModelConfig
from nmtcli.data.corpus import Corpus
from nmtcli.model.cells import CELLS
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.weights import read_tensors
from tests.conftest import log_of

# models and losses

Shape = dict[str, Any]  # fields of ModelConfig

PAIRS = [([5, 6, 7, 8, 3], [9, 10, 3]), ([4, 3], [11, 12, 13, 14, 15, 3]), ([9, 9, 3], [3])]


def tiny(joint: bool = True, **options: Any) -> Seq2Seq:
    """A small model in fp64 with the same weights each time; 17 tokens a side, or 17 and 20 that are not joint.

    Args:
        options: fields of ModelConfig.
    """
    torch.manual_seed(5)
    config = ModelConfig(**{"hidden_size": 8, "embedding_size": 6, "init_scale": 0.5, **options})
    return Seq2Seq(config, source_size=17, target_size=17 if joint else 20, joint=joint).double().eval()


SHAPES: list[Shape] = [
    {"cell": cell, "arch": arch, "attention": attention, "input_feeding": arch == "luong"}
    for cell in CELLS
    for arch, attention in (("gnmt", "general"), ("luong", "general"), ("bahdanau", "additive"), ("cho", "none"))
]


def gradients(model: Seq2Seq, loss: torch.Tensor) -> list[torch.Tensor]:
    """The gradient of a loss by each parameter of a model, zeros for those that it does not use."""
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


def assert_same_loss(model: Seq2Seq, one: torch.Tensor, other: torch.Tensor) -> None:
    """Assert that two losses are equal to rounding in fp64, and their gradients too."""
    torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    for ours, theirs in zip(gradients(model, one), gradients(model, other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


# runs

VOLATILE = {"seconds", "logged_seconds", "tokens_per_second", "log_bytes"}  # what a clock decides


def steady(record: dict[str, Any]) -> dict[str, Any]:
    """A record of a log or of progress without what a clock decides."""
    return {key: value for key, value in record.items() if key not in VOLATILE}


def progress_of(model: Path) -> dict[str, Any]:
    """How far a run was when it was saved last."""
    progress = json.loads(read_tensors(model / "last/state.safetensors")[1]["progress"])
    assert isinstance(progress, dict)
    return progress


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a directory, by its name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Assert that two runs ended alike, bit for bit, but for what a clock decides."""
    our_files, their_files = tree(ours), tree(theirs)
    assert set(our_files) == set(their_files)
    for name in our_files:
        if name.endswith((".safetensors", ".model")) and not name.startswith("last/"):
            assert our_files[name] == their_files[name], name
    our_state, _ = read_tensors(ours / "last/state.safetensors")
    their_state, _ = read_tensors(theirs / "last/state.safetensors")
    assert set(our_state) == set(their_state)
    assert {name.split(".")[0] for name in our_state} >= {"model", "random"}
    for name, value in our_state.items():
        assert torch.equal(value, their_state[name]), name
    assert steady(progress_of(ours)) == steady(progress_of(theirs))
    assert [steady(record) for record in log_of(ours)] == [steady(record) for record in log_of(theirs)]


# text


def ids_of(corpus: Corpus) -> list[tuple[list[int], list[int]]]:
    """The ids of each pair, source and target, in order."""
    return [(source.tolist(), target.tolist()) for source, target in map(corpus.__getitem__, range(len(corpus)))]


def count_lines(text: bytes) -> int:
    """Count lines as `wc -l` does, and a last line without its newline."""
    return text.count(b"\n") + (not text.endswith(b"\n") and text not in (b"", b"\xef\xbb\xbf"))
