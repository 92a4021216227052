"""Ranks that train together make the run of one that accumulates as many batches; and none waits for a dead one."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from nmtcli.data.batches import plan
from nmtcli.data.corpus import DataDirectory
from nmtcli.store.weights import read_tensors
from tests.conftest import TINY, log_of

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def trained_by(
    ranks: int, data: Path, out: Path, *, loss: str = "cross-entropy", updates: int, accumulate: int
) -> Path:
    """A training in float64 (rank.py) by so many processes."""
    out.mkdir(exist_ok=True)
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "tests.training.rank", data, out, loss, updates, accumulate]
    processes = [
        subprocess.Popen(
            [str(part) for part in command],
            env={**ENVIRONMENT, **where, "RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in read_tensors(out / "model/last/state.safetensors")[0].items()
        if name.startswith("model.")
    }


def seen(out: Path) -> list[tuple[int, tuple[int, ...]]]:
    """Updates and target sentences that all ranks were trained on."""
    return [
        (update, tuple(ids)) for path in out.glob("seen-*.json") for update, ids in json.loads(path.read_text("utf-8"))
    ]


def validations(out: Path) -> list[tuple[Any, ...]]:
    return [(one["update"], one["bleu"], one["chrf"]) for one in log_of(out / "model", "validation")]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that accumulates four batches, for 20 updates: more than two epochs."""
    return trained_by(1, data, tmp_path_factory.mktemp("ranks") / "alone", updates=20, accumulate=4)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_make_the_updates_of_one_process_that_accumulates(
    ranks: int, alone: Path, data: Path, tmp_path: Path
) -> None:
    together = trained_by(ranks, data, tmp_path / "together", updates=20, accumulate=4 // ranks)
    ours, theirs = weights(together), weights(alone)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, theirs[name], atol=1e-10, rtol=0)
    assert sorted(seen(together)) == sorted(seen(alone))  # the same sentences in each update
    corpus = DataDirectory.open(data).train
    batches = plan(*corpus.lengths(np.arange(len(corpus))), batch_tokens=440, seed=1, epoch=0)
    updates_per_epoch = -(-len(batches) // 4)
    assert len(batches) % 4  # the last update of an epoch has fewer batches than there are ranks
    assert 2 * updates_per_epoch < 20
    epoch = Counter(ids for update, ids in seen(together) if update < updates_per_epoch)
    assert epoch == Counter(tuple(corpus[n][1].tolist()) for n in range(len(corpus)))  # each pair exactly once
    assert validations(together) == validations(alone)
    losses = [[one["loss"] for one in log_of(out / "model")] for out in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize("loss", ["greedy", "beam", "risk"])
def test_every_kind_of_loss_works_on_ranks(loss: str, data: Path, tmp_path: Path) -> None:
    one = trained_by(1, data, tmp_path / "one", loss=loss, updates=3, accumulate=2)
    two = trained_by(2, data, tmp_path / "two", loss=loss, updates=3, accumulate=1)
    for name, value in weights(two).items():
        torch.testing.assert_close(value, weights(one)[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_of_two_ranks_goes_on_with_another_number(ranks: int, data: Path, tmp_path: Path) -> None:
    """In the same order of batches: over the epoch in which the number changes, each pair is seen exactly once."""
    first = trained_by(2, data, tmp_path / "first", updates=2, accumulate=1)
    second = tmp_path / "second"
    shutil.copytree(first / "model/last", second / "model/last")
    corpus = DataDirectory.open(data).train
    batches = plan(*corpus.lengths(np.arange(len(corpus))), batch_tokens=440, seed=1, epoch=0)
    updates_left = -(-(len(batches) - 4) // ranks)
    trained_by(ranks, data, second, updates=2 + updates_left, accumulate=1)
    both = Counter(ids for _, ids in itertools.chain(seen(first), seen(second)))
    assert both == Counter(tuple(corpus[n][1].tolist()) for n in range(len(corpus)))


# the command line


def command(data: Path, model: Path, *options: str) -> list[str]:
    parts = ["train", "--data", data, "--model", model, *TINY, "--dropout", "0", *options]
    return [sys.executable, "-m", "nmtcli", *(str(part) for part in parts)]


def run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def wait_for_update_10(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    assert any(line.startswith("update 10 ") for line in process.stderr)


def test_nproc_is_the_run_of_one_process_that_accumulates(data: Path, tmp_path: Path) -> None:
    options = ["--max-updates", "6", "--validate-every", "3", "--log-every", "2"]
    for name, more in (("one", ["--accumulate", "2"]), ("two", ["--nproc", "2"])):
        done = run(command(data, tmp_path / name, *options, *more))
        assert done.returncode == 0, done.stderr
        if name == "two":
            assert "2 ranks; 512 tokens per update, including padding" in done.stderr
            assert done.stderr.count("validation at update 3") == 1  # one rank talks
    one, two = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=0)
    names = [{str(path.relative_to(tmp_path / one)) for path in (tmp_path / one).rglob("*")} for one in ("one", "two")]
    assert names[0] == names[1]


def test_a_mistake_is_said_once(data: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    done = run(command(absent, tmp_path / "model", "--nproc", "2"))
    assert done.returncode == 4
    assert re.fullmatch(rf"Error: rank \d on \S+: {absent} does not exist\. Run nmt preprocess first\.\n", done.stderr)
    assert not (tmp_path / "model").exists()


def test_a_rank_that_is_killed_takes_the_others_down_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    options = ["--save-every", "5", "--validate-every", "0", "--log-every", "5", "--patience", "0", "--resume"]
    ranks = ["--nproc", "2", "--timeout", "20"]
    with subprocess.Popen(
        command(data, model, *options, "--max-updates", "1000000", *ranks),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_update_10(process)
        victim = max(
            (child for child in psutil.Process(process.pid).children() if "nmtcli" in child.cmdline()),
            key=lambda child: child.create_time(),
        )
        victim.kill()
        began = time.monotonic()
        said = process.communicate(timeout=60)[1]
    assert time.monotonic() - began < 20  # within the timeout
    assert process.returncode == 6
    last = said.strip().splitlines()[-1]
    assert re.fullmatch(r"Error: rank \d on \S+: was killed by signal 9\. Go on with --resume\.", last)
    assert "Traceback" not in said
    done = run(command(data, model, *options, "--max-updates", "30", *ranks))
    assert done.returncode == 0, done.stderr
    assert "Going on at update" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_ends_it_saved(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    with subprocess.Popen(
        command(data, model, "--nproc", "2", "--log-every", "5", "--validate-every", "0", "--max-updates", "1000000"),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_update_10(process)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "continue with nmt train --resume" in said
    assert (model / "last/state.safetensors").exists()
    assert not (model / "lock").exists()


def torchruns(machines: int, *arguments: str) -> list["subprocess.Popen[str]"]:
    """Two ranks of torchrun on one machine, or on two, each of which has its own torchrun; here both are this one."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(2 // machines)]
    if machines == 1:
        torchrun += ["--standalone"]
    else:
        torchrun += ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "one"]
        torchrun += ["--rdzv-endpoint", f"localhost:{free_port()}", "--local-addr", "localhost"]
    return [
        subprocess.Popen([*torchrun, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(machines)
    ]


@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_restarts_what_was_killed(machines: int, data: Path, tmp_path: Path) -> None:
    """With --max-restarts and --resume a rank that dies costs the updates since the last save, and no more."""
    model = tmp_path / "model"
    options = ["--save-every", "1", "--validate-every", "0", "--log-every", "5", "--patience", "0", "--resume"]
    assert run(command(data, tmp_path / "whole", *options, "--max-updates", "60", "--nproc", "2")).returncode == 0
    arguments = command(data, model, *options, "--max-updates", "60")[3:]
    started = torchruns(machines, "--max-restarts", "3", "-m", "nmtcli", *arguments)
    while not (model / "log.jsonl").exists() or len(log_of(model)) < 2:
        assert [process.poll() for process in started] == [None] * machines
        time.sleep(0.05)
    ranks = [child for child in psutil.Process(started[-1].pid).children() if "nmtcli" in child.cmdline()]
    ranks[-1].kill()
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * machines, said
    assert "Going on at update" in "".join(said)
    ours, theirs = (read_tensors(one / "last/state.safetensors")[0] for one in (model, tmp_path / "whole"))
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), name


@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_starts_it(machines: int, data: Path, tmp_path: Path) -> None:
    options = ["--validate-every", "0", "--max-updates", "6", "--resume"]
    started = torchruns(machines, "-m", "nmtcli", *command(data, tmp_path / "two", *options)[3:])
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * machines, said
    assert "".join(said).count("2 ranks; 512 tokens per update, including padding") == 1
    assert run(command(data, tmp_path / "one", *options, "--accumulate", "2")).returncode == 0
    ours, theirs = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("two", "one"))
    for name, value in theirs.items():
        torch.testing.assert_close(value, ours[name], atol=1e-5, rtol=0)
