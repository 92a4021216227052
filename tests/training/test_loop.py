"""The training loop: when it stops, what it keeps, what it leaves out; with validations that a test decides."""

import errno
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch

from nmtcli.data.batches import Batch
from nmtcli.errors import Stopped, TrainingError, WorldError
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.store.weights import read_tensors
from nmtcli.training.checkpoint import DiskWriter
from nmtcli.training.schedule import Schedule
from tests.conftest import log_of
from tests.training.run import Run

# when it stops


def test_training_stops_after_max_updates(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0], max_updates=3, validate_every=0)
    assert run.to_the_end() == "3 updates"
    assert run.events.updates == 3
    assert [record["update"] for record in run.events.validations] == [3]  # once more, because nothing was validated


def test_training_stops_after_max_epochs_and_validates_after_each(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0, 2.0], max_epochs=2, validate_every=0, batch_tokens=600)
    assert run.to_the_end() == "2 epochs"
    ends = [len(run.batches.plan(0)), len(run.batches.plan(0)) + len(run.batches.plan(1))]
    assert [record["update"] for record in run.events.validations] == ends
    assert run.progress.epoch == 2
    assert run.progress.batch == 0


def test_an_epochs_last_update_takes_the_batches_that_are_left(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0, 2.0], max_epochs=2, validate_every=0, batch_tokens=600, accumulate=4)
    run.to_the_end()
    counts = [len(run.batches.plan(epoch)) for epoch in range(2)]
    assert any(count % 4 for count in counts)
    assert run.progress.update == sum(-(-count // 4) for count in counts)


def test_an_epoch_of_several_blocks_ends_after_the_last(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmtcli.data.batches.BLOCK", 256)
    monkeypatch.setattr("nmtcli.data.batches.NEIGHBOURS", 32)
    run = Run(tmp_path / "model", data, [1.0, 2.0], max_epochs=2, validate_every=0, batch_tokens=600, accumulate=4)
    assert run.to_the_end() == "2 epochs"
    counts = [len(run.batches.plan(epoch, block)) for epoch in range(2) for block in range(3)]
    assert run.progress.update == sum(-(-count // 4) for count in counts)
    assert [record["update"] for record in run.events.validations] == [
        sum(-(-count // 4) for count in counts[:3]),
        run.progress.update,
    ]
    assert (run.progress.epoch, run.progress.block, run.progress.batch) == (2, 0, 0)


def test_patience_counts_validations_without_a_better_one(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0, 3.0, 2.0, 3.0, 4.0, 4.0, 1.0, 3.9], patience=3)
    assert run.to_the_end() == "3 validations without a better bleu"
    assert run.progress.update == 16
    assert run.progress.best == 4.0


def test_of_losses_the_lowest_is_best(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [5.0, 3.0, 7.0, 6.0, 6.5], patience=2, validation_metric="loss", keep=9)
    assert run.to_the_end() == "2 validations without a better loss"
    assert run.progress.best == 93.0
    assert run.weights() == run.checkpoint(6)


def test_a_time_limit_ends_it_saved(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0], time_limit=1e-6, validate_every=1000)
    assert run.to_the_end() == "the time limit of 1e-06 minutes"
    assert run.progress.update == 1
    _, metadata = read_tensors(tmp_path / "model/last/state.safetensors")
    assert json.loads(metadata["progress"])["update"] == 1


def test_a_signal_ends_it_saved(tmp_path: Path, data: Path) -> None:
    signals = iter([0, 0, 15])
    run = Run(tmp_path / "model", data, [], validate_every=1000, signal_seen=lambda: next(signals))
    with pytest.raises(Stopped, match="update 3") as stopped:
        run.to_the_end()
    assert stopped.value.exit_code == 143
    _, metadata = read_tensors(tmp_path / "model/last/state.safetensors")
    assert json.loads(metadata["progress"])["update"] == 3


def test_a_run_at_its_end_learns_nothing_more(tmp_path: Path, data: Path) -> None:
    Run(tmp_path / "model", data, [1.0, 2.0], max_updates=4).to_the_end()
    before = (tmp_path / "model/model.safetensors").read_bytes()
    again = Run(tmp_path / "model", data, [], max_updates=4)
    assert again.to_the_end() == "4 updates"
    assert again.events.updates == 0
    assert again.weights() == before


# what it keeps


def test_the_model_is_that_of_the_best_validation(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0, 5.0, 3.0, 5.0], max_updates=8, keep=4)
    run.to_the_end()
    assert run.stored.checkpoints() == [2, 4, 6, 8]
    assert run.weights() == run.checkpoint(4)
    assert not (tmp_path / "model/best.safetensors").exists()
    assert [record["best"] for record in log_of(tmp_path / "model", "validation")] == [True, True, False, False]


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_the_latest_checkpoints_are_kept(tmp_path: Path, data: Path, keep: int) -> None:
    run = Run(tmp_path / "model", data, [1.0, 5.0, 3.0, 2.0], max_updates=8, keep=keep)
    run.to_the_end()
    assert run.stored.checkpoints() == [2, 4, 6, 8][4 - keep :]


@pytest.mark.parametrize(
    ("options", "averaged"),
    [
        ({"average": 3, "average_of": "last"}, [8, 10, 12]),
        ({"average": 3, "average_of": "best"}, [4, 8, 10]),
        ({"average": 2, "average_of": "best", "validation_metric": "loss"}, [4, 10]),
        ({"average": 1, "average_of": "best"}, [4]),
        ({"average": 99, "average_of": "best"}, [2, 4, 6, 8, 10, 12]),
    ],
)
def test_the_average_of_the_last_or_the_best_becomes_the_model_and_the_best_stays_beside_it(
    tmp_path: Path, data: Path, options: dict[str, Any], averaged: list[int]
) -> None:
    run = Run(tmp_path / "model", data, [1.0, 9.0, 2.0, 7.0, 8.0, 3.0, 6.0], max_updates=12, keep=0, **options)
    run.to_the_end()
    assert run.stored.checkpoints() == averaged
    parts = [safetensors.numpy.load(run.checkpoint(update)) for update in averaged]
    for name, mean in safetensors.numpy.load(run.weights()).items():
        by_hand = sum(part[name].astype("float64") for part in parts) / len(parts)
        assert mean == pytest.approx(by_hand, rel=1e-6, abs=1e-9)
    alone = Run(tmp_path / "until the best", data, [1.0, 9.0], max_updates=4)
    alone.to_the_end()
    assert run.weights("best") == alone.weights()
    (record,) = log_of(tmp_path / "model", "average")
    assert record["averaged"] == averaged
    assert record["bleu"] == 6.0


def test_a_run_that_goes_on_averages_anew_and_the_best_stays_the_best(tmp_path: Path, data: Path) -> None:
    options: dict[str, Any] = {"average": 2, "average_of": "last", "keep": 4}
    Run(tmp_path / "model", data, [1.0, 5.0, 4.0], max_updates=4, **options).to_the_end()
    run = Run(tmp_path / "model", data, [3.0, 6.0, 2.0, 7.0], max_updates=10, **options)
    run.to_the_end()
    assert run.stored.checkpoints() == [4, 6, 8, 10]
    assert run.weights("best") == run.checkpoint(8)
    (record,) = log_of(tmp_path / "model", "average")
    assert record["averaged"] == [8, 10]


# rates


def test_a_plateau_cuts_the_rate_after_so_many_validations_without_a_better_one(tmp_path: Path, data: Path) -> None:
    scores = [5.0, 4.0, 4.0, 4.0, 4.0, 6.0, 5.0, 5.0]
    options: dict[str, Any] = {"decay": "plateau", "decay_factor": 0.1, "decay_patience": 2, "learning_rate": 0.5}
    run = Run(tmp_path / "model", data, scores, max_updates=17, log_every=1, **options, show=0)
    scores.append(0.0)  # the last update is validated too
    run.to_the_end()
    rates = {record["update"]: record["learning_rate"] for record in log_of(tmp_path / "model", "train")}
    cuts_after = {6, 10, 16}  # validations: 2 best; 4, 6 worse: cut; 8, 10: cut; 12 best; 14, 16: cut
    for update, rate in rates.items():
        assert rate == pytest.approx(0.5 * 0.1 ** sum(cut < update for cut in cuts_after))
    assert len(rates) == 17


@pytest.mark.parametrize("decay", ["none", "inverse-sqrt", "linear"])
def test_every_update_has_the_rate_of_the_schedule(tmp_path: Path, data: Path, decay: str) -> None:
    options: dict[str, Any] = {"decay": decay, "warmup": 4, "learning_rate": 0.25}
    run = Run(tmp_path / "model", data, [1.0], max_updates=9, validate_every=100, log_every=1, **options)
    used: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    run.to_the_end()
    expected = [Schedule(peak=0.25, warmup=4, decay=decay, max_updates=9).rate(n) for n in range(1, 10)]
    assert used == expected
    assert [record["learning_rate"] for record in run.events.logs] == expected


def test_a_step_cuts_the_rate_after_so_many_epochs_and_every_so_many(tmp_path: Path, data: Path) -> None:
    options: dict[str, Any] = {"decay": "step", "decay_factor": 0.1, "decay_start": 1.0, "decay_every": 0.5}
    scores = [1.0] * 9
    run = Run(
        tmp_path / "model", data, scores, max_epochs=2, validate_every=0, log_every=1, batch_tokens=600, **options
    )
    run.to_the_end()
    rates = [record["learning_rate"] for record in run.events.logs]
    first, second = (len(run.batches.plan(epoch)) for epoch in range(2))
    half = -(-second // 2)
    expected = [0.001] * first + [0.0001] * half + [0.00001] * (second - half)
    assert rates == pytest.approx(expected)


def test_the_mean_of_the_weights_is_validated_and_kept(tmp_path: Path, data: Path) -> None:
    """Oracle: the mean by hand from the weights after each update."""
    run = Run(tmp_path / "model", data, [1.0], max_updates=4, validate_every=4, ema=0.3, learning_rate=0.05)
    name = "decoder.readout.weight"
    mean = dict(run.model.named_parameters())[name].detach().double().clone()
    weights: list[torch.Tensor] = []
    run.optimizer.register_step_post_hook(
        lambda *_: weights.append(dict(run.model.named_parameters())[name].detach().double().clone())
    )
    run.to_the_end()
    for number, weight in enumerate(weights, start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * weight
    for saved in (run.weights(), run.checkpoint(4)):
        torch.testing.assert_close(
            torch.from_numpy(safetensors.numpy.load(saved)[name]).double(), mean, atol=1e-6, rtol=0
        )
    assert not torch.allclose(mean, weights[-1], atol=1e-4)


# updates


def gradients(model: Seq2Seq, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Of the mean loss over all target tokens of these batches."""
    loss = CrossEntropy(0.0)
    total = torch.stack([loss(model, batch).loss for batch in batches]).sum()
    mean = total / sum(batch.target_tokens for batch in batches)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(mean, parameters), strict=True))


def first_batches(run: Run, count: int) -> list[Batch]:
    return [batch for batch, _ in zip(run.batches.stream(0, 0), range(count), strict=False)]


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_accumulated_batches_make_the_update_of_one_large_batch_with_its_norm_cut(
    tmp_path: Path, data: Path, clip_norm: float
) -> None:
    """Oracle: the gradient of the mean over all tokens of the three batches, cut by hand, and one step down it."""
    options: dict[str, Any] = {"accumulate": 3, "clip_norm": clip_norm, "decay": "none", "log_every": 1}
    run = Run(tmp_path / "model", data, [1.0], max_updates=1, learning_rate=10.0, optimizer="sgd", **options)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    found = gradients(run.model, first_batches(run, 3))
    norm = math.sqrt(sum(float(gradient.double().pow(2).sum()) for gradient in found.values()))
    assert norm > 1e-3
    run.to_the_end()
    assert run.events.logs[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    factor = clip_norm / norm if clip_norm else 1.0
    for name, parameter in run.model.named_parameters():
        assert torch.allclose(parameter, before[name] - 10.0 * factor * found[name], rtol=1e-4, atol=1e-6)


class BrokenAt(CrossEntropy):
    """A loss that is not a number at these calls, counted from 1."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__(0.0)
        self.calls, self.number = calls, 0

    def __call__(self, model: Seq2Seq, batch: Batch, update: int = 0) -> LossSums:
        self.number += 1
        sums = super().__call__(model, batch)
        return sums._replace(loss=sums.loss * math.nan) if self.number in self.calls else sums


def test_an_update_whose_gradient_is_not_finite_is_left_out(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0, 2.0], loss=BrokenAt({2, 4, 5}), max_updates=4, log_every=1)
    run.to_the_end()
    assert [update for update, _ in run.events.skips] == [2, 3, 3]
    assert run.events.updates == 7  # seven groups of batches for four updates
    assert run.progress.skipped == 3
    assert [record["skipped"] for record in run.events.logs] == [0, 1, 3, 3]
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    assert len(run.events.validations) == 2  # at updates 2 and 4, and not again where an update was left out


@pytest.mark.parametrize("most", [2, 10])
def test_training_gives_up_when_so_many_updates_in_a_row_are_not_finite(most: int, tmp_path: Path, data: Path) -> None:
    calls = set(range(3, 100)) - {3 + most - 1}  # one that is finite just in time, and then no more
    options: dict[str, Any] = {"max_updates": 50, "learning_rate": 0.25, "max_skips": most}
    run = Run(tmp_path / "model", data, [1.0], loss=BrokenAt(calls), **options)
    with pytest.raises(TrainingError, match=rf"{most} updates in a row.*0\.25.*{tmp_path}/model/last"):
        run.to_the_end()
    assert len(run.events.skips) == 2 * most - 1
    _, metadata = read_tensors(tmp_path / "model/last/state.safetensors")
    assert json.loads(metadata["progress"])["update"] == 2


class Narrow(CrossEntropy):
    """A loss that does not fit in memory for more than so many sentences, or tokens of one."""

    def __init__(self, sentences: int, tokens: int = 1000) -> None:
        super().__init__(0.0)
        self.sentences, self.tokens = sentences, tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int = 0) -> LossSums:
        sums = super().__call__(model, batch)
        if len(batch.source_BS) > self.sentences:
            (sums.loss * 7).backward()  # what is made of the gradient before it fails
            raise torch.OutOfMemoryError("CUDA out of memory")
        if batch.target_output_BT.shape[1] > self.tokens:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return sums


def test_a_batch_that_does_not_fit_is_cut_until_it_does_and_the_update_is_the_same(tmp_path: Path, data: Path) -> None:
    options: dict[str, Any] = {"max_updates": 2, "accumulate": 2, "log_every": 1, "validate_every": 9}
    whole = Run(tmp_path / "whole", data, [1.0], loss=CrossEntropy(0.0), **options)
    cut = Run(tmp_path / "cut", data, [1.0], loss=Narrow(3), **options)
    for run in (whole, cut):
        run.to_the_end()
    sizes = [len(batch.source_BS) for batch in first_batches(whole, 4)]
    assert max(sizes) > 6  # some are cut twice
    assert cut.progress.splits == len(cut.events.splits) > len([size for size in sizes if size > 3])
    assert whole.progress.splits == 0
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    records = [log_of(tmp_path / name, "train") for name in ("whole", "cut")]
    for one, other in zip(*records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["tokens_per_second"] > 0
    assert records[1][-1]["splits"] == cut.progress.splits


def test_a_pair_that_does_not_fit_ends_it(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "model", data, [1.0], loss=Narrow(1000, tokens=1), max_updates=2)
    with pytest.raises(TrainingError, match=r"update 1: a pair of \d+ and \d+ tokens does not fit in memory"):
        run.to_the_end()


# saves that fail


def failing(monkeypatch: pytest.MonkeyPatch, name: str, calls: set[int]) -> None:
    """Make these calls of a method of the writer find a full disk."""
    inner, number = getattr(DiskWriter, name), itertools.count(1)

    def method(*arguments: object, **more: object) -> object:
        if next(number) in calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        return inner(*arguments, **more)

    monkeypatch.setattr(DiskWriter, name, method)


@pytest.mark.parametrize("name", ["save_last", "save_best", "save_checkpoint"])
def test_a_save_that_fails_ends_it_and_what_was_saved_is_whole(
    name: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "model", data, [1.0, 2.0, 3.0], max_updates=6)
    failing(monkeypatch, name, {2})
    with pytest.raises(WorldError, match=r"update 4 could not be saved in .*model \(No space left on device\)"):
        run.to_the_end()
    _, metadata = read_tensors(tmp_path / "model/last/state.safetensors")
    assert json.loads(metadata["progress"])["update"] == 2


@pytest.mark.parametrize("name", ["save_last", "save_best", "save_checkpoint"])
def test_a_save_that_fails_is_said_and_training_goes_on_if_it_may(
    name: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "model", data, [1.0, 2.0, 3.0], max_updates=6, if_save_fails="go-on")
    failing(monkeypatch, name, {2})
    run.to_the_end()
    assert run.events.failures == [(4, "No space left on device")]
    _, metadata = read_tensors(tmp_path / "model/last/state.safetensors")
    assert json.loads(metadata["progress"])["update"] == 6


def test_the_last_save_must_not_fail(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "model", data, [1.0], max_updates=3, validate_every=9, if_save_fails="go-on")
    failing(monkeypatch, "save_last", {1})
    with pytest.raises(WorldError, match="update 3 could not be saved"):
        run.to_the_end()


# the log


def test_the_log_means_what_it_says(tmp_path: Path, data: Path) -> None:
    """Oracle: the losses that the loop was given, summed by hand."""
    given: list[tuple[float, float, int]] = []

    class Noted(CrossEntropy):
        def __call__(self, model: Seq2Seq, batch: Batch, update: int = 0) -> LossSums:
            assert update == len(given) // 2
            sums = super().__call__(model, batch)
            assert sums.nll is not None
            given.append((float(sums.loss.detach()), float(sums.nll), batch.target_tokens))
            return sums

    run = Run(
        tmp_path / "model", data, [1.0], loss=Noted(0.1), max_updates=6, log_every=2, accumulate=2, validate_every=9
    )
    run.to_the_end()
    records = log_of(tmp_path / "model", "train")
    assert [record["update"] for record in records] == [2, 4, 6]
    for number, record in enumerate(records):
        part = given[4 * number : 4 * number + 4]
        tokens = sum(count for *_, count in part)
        assert record["loss"] == pytest.approx(sum(one for one, *_ in part) / tokens)
        assert record["nll"] == pytest.approx(sum(one for _, one, _ in part) / tokens)
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert all(record["tokens_per_second"] > 0 for record in records)


class PerSentence:
    """A loss that counts sentences, and knows no likelihood."""

    def count(self, batch: Batch) -> int:
        return len(batch.source_BS)

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        return LossSums(3.0 * len(batch.source_BS) + 0.0 * CrossEntropy(0.0)(model, batch).loss, None)


def test_a_loss_of_sentences_is_divided_by_sentences_and_logged_so(tmp_path: Path, data: Path) -> None:
    options: dict[str, Any] = {"log_every": 2, "accumulate": 2, "validate_every": 9}
    run = Run(tmp_path / "model", data, [1.0], loss=PerSentence(), max_updates=4, **options)
    run.to_the_end()
    for record in log_of(tmp_path / "model", "train"):
        assert record["loss"] == pytest.approx(3.0)
        assert record["nll"] is None


def test_the_log_of_a_run_that_goes_on_has_each_update_once(tmp_path: Path, data: Path) -> None:
    signals: Iterator[int] = iter([0, 0, 0, 0, 2])
    options: dict[str, Any] = {"log_every": 1, "save_every": 2}
    run = Run(tmp_path / "model", data, [1.0, 2.0], signal_seen=lambda: next(signals), **options)
    with pytest.raises(Stopped):
        run.to_the_end()
    state = (tmp_path / "model/last/state.safetensors").read_bytes()
    Run(tmp_path / "model", data, [3.0, 4.0], max_updates=8, **options).to_the_end()
    (tmp_path / "model/last/state.safetensors").write_bytes(state)  # as if it had been killed, and not saved
    Run(tmp_path / "model", data, [3.0, 4.0], max_updates=8, **options).to_the_end()
    assert [record["update"] for record in log_of(tmp_path / "model", "train")] == list(range(1, 9))
    assert [record["update"] for record in log_of(tmp_path / "model", "validation")] == [2, 4, 6, 8]


@pytest.mark.parametrize("left", [0, 100, None])
def test_a_log_that_lost_lines_is_not_filled_with_zeros(tmp_path: Path, data: Path, left: int | None) -> None:
    """The machine may have lost power when the log was not yet on the disk, or somebody removed it."""
    Run(tmp_path / "model", data, [1.0, 2.0], max_updates=4, log_every=1).to_the_end()
    log = tmp_path / "model/log.jsonl"
    if left is None:
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:left])
    for last in (6, 8):
        Run(tmp_path / "model", data, [3.0], max_updates=last, log_every=1).to_the_end()
    assert b"\0" not in log.read_bytes()
    records = [json.loads(line) for line in log.read_bytes().splitlines() if line.endswith(b"}")]
    assert [record["update"] for record in records if record["kind"] == "train"][-4:] == [5, 6, 7, 8]
