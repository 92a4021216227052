"""One training at a time in a directory; a dead one's lock locks nothing."""

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from nmtcli.errors import DirectoryError, WorldError
from nmtcli.training.lock import LOCK, locked


def hold(directory: str, holds: Event) -> None:
    with locked(Path(directory)):
        holds.set()
        signal.pause()


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not_in_the_way(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    holds = spawn.Event()
    process = spawn.Process(target=hold, args=(str(tmp_path), holds))
    process.start()
    assert holds.wait(60)
    with (
        pytest.raises(WorldError, match=rf"{tmp_path} is in use: process {process.pid} on .* trains there"),
        locked(tmp_path),
    ):
        pass
    assert process.is_alive()
    process.kill()
    process.join()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text(encoding="utf-8").startswith(f"{os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_made_and_goes_again_if_nothing_came_into_it(tmp_path: Path) -> None:
    model = tmp_path / "a" / "model"
    with locked(model):
        assert [path.name for path in model.iterdir()] == [LOCK]
    assert not model.exists()
    with locked(model):
        (model / "config.json").write_text("{}", encoding="utf-8")
    assert [path.name for path in model.iterdir()] == ["config.json"]
    with pytest.raises(ZeroDivisionError), locked(model):
        _ = 1 / 0
    assert [path.name for path in model.iterdir()] == ["config.json"]


def test_one_that_waited_for_a_name_that_was_removed_gets_the_new_one(tmp_path: Path) -> None:
    """Whoever opened the file before its holder removed it must not think that it has the lock of the directory."""
    with locked(tmp_path):
        old = os.open(tmp_path / LOCK, os.O_RDWR)
    with locked(tmp_path):
        assert not os.path.samestat(os.fstat(old), os.stat(tmp_path / LOCK))
    os.close(old)


def test_a_file_of_its_name_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("text", encoding="utf-8")
    with pytest.raises(DirectoryError, match="is a file"), locked(tmp_path / "model"):
        pass
