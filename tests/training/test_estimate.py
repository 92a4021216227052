"""An estimate counts what is there."""

from pathlib import Path

import pytest

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.data.batches import TrainingBatches
from nmtcli.data.corpus import DataDirectory
from nmtcli.errors import TrainingError
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import LossSums
from nmtcli.training.assembly import assembled, begun
from nmtcli.training.distributed import World
from nmtcli.training.estimate import Estimate, estimate
from tests.training.on_cpu import ON_CPU


def estimated(data: Path, batch_tokens: int, ranks: int = 1, optimizer: str = "adam") -> Estimate:
    directory = DataDirectory.open(data)
    config = TrainConfig(accumulate=3, batch_tokens=batch_tokens, loader_workers=0, optimizer=optimizer)
    start = begun(ModelConfig(hidden_size=16, embedding_size=8), config, directory, "fp32")
    parts = assembled(start, ON_CPU, World())
    return estimate(parts.state, parts.loss, parts.batches, config, ON_CPU, ranks=ranks)


def batches_of(directory: DataDirectory, batch_tokens: int) -> TrainingBatches:
    return TrainingBatches(
        directory.train,
        directory.source_subword,
        directory.target_subword,
        batch_tokens=batch_tokens,
        seed=1,
        subword_alpha=0,
        workers=0,
        pin_memory=False,
    )


def test_padding_and_updates_are_those_of_an_epoch(data: Path) -> None:
    directory = DataDirectory.open(data)
    batches = batches_of(directory, 512)
    epoch = list(zip(batches.stream(0, 0), batches.plan(0), strict=False))
    real = sum(batch.source_tokens + batch.target_tokens for batch, _ in epoch)
    places = sum(batch.source_BS.numel() + batch.target_output_BT.numel() for batch, _ in epoch)
    found = estimated(data, 512)
    assert found.padding == pytest.approx(1 - real / places)
    assert found.updates_per_epoch == -(-len(epoch) // 3)
    assert found.seconds_per_update * found.updates_per_epoch * found.tokens_per_second == pytest.approx(real)
    shapes = [(*batch.source_BS.shape, batch.target_output_BT.shape[1]) for batch, _ in epoch]
    assert found.largest in shapes
    assert found.largest[0] * sum(found.largest[1:]) == max(b * (s + t) for b, s, t in shapes)


def test_ranks_share_an_epoch(data: Path) -> None:
    alone, four = estimated(data, 512), estimated(data, 512, ranks=4)
    batches = len(batches_of(DataDirectory.open(data), 512).plan(0))
    assert (alone.updates_per_epoch, four.updates_per_epoch) == (-(-batches // 3), -(-batches // 12))


def test_a_batch_that_does_not_fit_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> LossSums:
        raise MemoryError

    monkeypatch.setattr(CrossEntropy, "__call__", full)
    with pytest.raises(TrainingError, match=r"a batch of \d+ pairs, \d+ and \d+ positions, does not fit in memory"):
        estimated(data, 512)


def test_memory_is_counted_tensor_by_tensor(data: Path) -> None:
    adam, sgd = estimated(data, 512), estimated(data, 512, optimizer="sgd")
    assert adam.weights == adam.gradients == 4 * adam.parameters
    assert sgd.optimizer == 0
    assert 8 * adam.parameters <= adam.optimizer <= 8 * adam.parameters + 1000  # two means, and a count of steps
    assert adam.memory == adam.weights + adam.gradients + adam.optimizer + adam.activations


def test_a_batch_twice_as_large_keeps_about_twice_as_much(data: Path) -> None:
    small, large = estimated(data, 400), estimated(data, 800)
    ratio = large.largest[0] * sum(large.largest[1:]) / (small.largest[0] * sum(small.largest[1:]))
    assert large.activations == pytest.approx(ratio * small.activations, rel=0.3)
