"""Files of run and data directories appear whole or not at all, and only what is named goes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nmtcli.data.files import (
    append_at,
    copy_whole,
    cut_to_whole_lines,
    empty_directory,
    open_directory,
    open_lock,
    remove_tree,
    rewrite,
    try_lock,
    write_whole,
)


def write(path: Path, content: bytes) -> None:
    write_whole(path, content)


def copy(path: Path, content: bytes) -> None:
    source = path.parents[1] / "source"
    source.write_bytes(content)
    copy_whole(source, path)


@pytest.mark.parametrize("place", [write, copy])
def test_a_file_is_written_whole_or_not_at_all(
    place: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder" / "file"
    place(path, b"first")
    assert path.read_bytes() == b"first"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        place(path, b"second")
    assert path.read_bytes() == b"first"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_an_emptied_directory_keeps_what_is_named_and_what_its_links_lead_to(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "directory"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("mine")
    for name in ("kept", "file"):
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    (directory / "folder" / "deep").mkdir(parents=True)
    (directory / "link to a folder").symlink_to(outside / "folder")
    (directory / "link to a file").symlink_to(outside / "file")
    (directory / "link to nothing").symlink_to(outside / "nothing")
    empty_directory(directory, keep={"kept", "absent"})
    assert [path.name for path in directory.iterdir()] == ["kept"]
    assert sorted(path.name for path in outside.iterdir()) == ["file", "folder"]
    empty_directory(directory)
    assert list(directory.iterdir()) == []


def test_removing_a_directory_keeps_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "link").symlink_to(tmp_path / "outside")
    remove_tree(tmp_path / "directory")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_appending_replaces_what_a_failed_write_has_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert append_at(log, 0, b"one\n") == 4
    assert append_at(log, 4, b"tw") == 6
    assert append_at(log, 4, b"two\n") == 8
    assert log.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "length", "left"),
    [
        (b"one\ntwo\nthree\n", 8, b"one\ntwo\n"),
        (b"one\ntwo\nthree\n", 7, b"one\n"),
        (b"one\ntwo", 100, b"one\n"),
        (b"one", 3, b""),
        (None, 10, b""),
    ],
)
def test_a_log_is_cut_to_whole_lines_within_a_length(
    content: bytes | None, length: int, left: bytes, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    if content is not None:
        log.write_bytes(content)
    assert cut_to_whole_lines(log, length) == len(left)
    assert log.read_bytes() == left


def test_a_lock_is_held_by_one_opened_file_at_a_time(tmp_path: Path) -> None:
    for opened in (lambda: open_lock(tmp_path / "lock"), lambda: open_directory(tmp_path)):
        first, second = opened(), opened()
        assert try_lock(first)
        assert not try_lock(second)
        os.close(first)
        assert try_lock(second)
        os.close(second)


def test_rewriting_an_opened_file_leaves_nothing_of_what_it_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a long line\n")
    opened = open_lock(tmp_path / "file")
    os.read(opened, 100)
    rewrite(opened, b"short\n")
    os.close(opened)
    assert (tmp_path / "file").read_bytes() == b"short\n"
