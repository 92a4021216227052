"""An update is the same whoever asks for it: the loop, an estimate, or a test; what it does is tested with the loop."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtcli.data.batches import Batch
from nmtcli.training.distributed import World
from nmtcli.training.estimate import TIMED, WARM_UP, estimate
from nmtcli.training.updater import Updater
from tests.training.on_cpu import ON_CPU
from tests.training.run import Run

OPTIONS: dict[str, Any] = {"learning_rate": 0.01, "decay": "none", "clip_norm": 1e-3, "validate_every": 99}


def weights_after(run: Run, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """The weights after an update from each batch, made by an `Updater` alone."""
    state = run.parts.state
    updater = Updater(state.model, run.parts.loss, state.optimizer, run.config, machine=ON_CPU, world=World())
    results = [updater.update([batch], number, run.config.learning_rate) for number, batch in enumerate(batches, 1)]
    assert all(result.gradient_norm > run.config.clip_norm for result in results)
    return state.model.state_dict()


def assert_equal_weights(run: Run, expected: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, before[name]) for name, value in expected.items())


@pytest.fixture
def runs(tmp_path: Path, data: Path) -> tuple[Run, Run]:
    """Two runs that begin alike."""
    one, other = (Run(tmp_path / name, data, [1.0], max_updates=4, **OPTIONS) for name in ("one", "other"))
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    return one, other


def test_the_loop_makes_the_updates_of_an_updater(runs: tuple[Run, Run]) -> None:
    looped, alone = runs
    before = {name: value.clone() for name, value in alone.model.state_dict().items()}
    assert looped.to_the_end() == "4 updates"
    assert_equal_weights(looped, weights_after(alone, list(itertools.islice(alone.batches.stream(0, 0), 4))), before)


def test_an_estimate_makes_the_updates_of_an_updater(runs: tuple[Run, Run]) -> None:
    """One from the largest batch, to see its memory; then some from the first ones, to see their time."""
    estimated, alone = runs
    before = {name: value.clone() for name, value in alone.model.state_dict().items()}
    parts = estimated.parts
    found = estimate(parts.state, parts.loss, parts.batches, parts.config, ON_CPU, ranks=1)
    largest = alone.batches.shapes(0).index(found.largest)
    batches = [next(alone.batches.stream(0, largest))]
    batches += itertools.islice(alone.batches.stream(0, 0), WARM_UP + TIMED)
    assert_equal_weights(estimated, weights_after(alone, batches), before)
