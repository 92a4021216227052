"""The files of run and data directories: opened, written, renamed, synced, locked and removed here and nowhere else.

This is the one place to inject faults and to reason about crash safety. Standard library only. Text files that a user
names are read by text.py; the files of a directory are specified in corpus.py and in the store package.

A directory may come from anybody, so its files are checked before they are opened: a device or a pipe in place of a
file could be read forever, and gigabytes in place of kilobytes would exhaust memory.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nmtcli.errors import DirectoryError

JSON_BYTES = 1 << 24
SUBWORD_BYTES = 1 << 28
QUICK_BYTES = 1 << 26  # files up to this size are hashed within a tenth of a second


def size_of_regular(path: Path, mend: str) -> int:
    """Return the size of a regular file; symbolic links are followed [bytes].

    Raises:
        DirectoryError: the file is missing, or is not a regular file.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DirectoryError(f"{path} does not exist", mend) from error
    except OSError as error:  # such as a loop of links or a name that is too long
        raise DirectoryError(f"{path} cannot be read ({error.strerror})", mend) from error
    if not stat.S_ISREG(found.st_mode):
        raise DirectoryError(f"{path} is not a regular file", mend)
    return found.st_size


def read_small(path: Path, at_most: int, mend: str) -> bytes:
    """Return the content of a file.

    Args:
        at_most: largest size accepted [bytes].
        mend: what the user can do if the file cannot be read.

    Raises:
        DirectoryError: the file is missing, is not a regular file, or is larger than `at_most`.
    """
    size = size_of_regular(path, mend)
    if size > at_most:
        raise DirectoryError(f"{path} has {size:,} bytes, but may have at most {at_most:,}", mend)
    return path.read_bytes()


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DirectoryError: the file is missing, is not a regular file, is too large, or does not hold a JSON object.
    """
    try:
        content = json.loads(read_small(path, JSON_BYTES, mend))
    except (ValueError, RecursionError) as error:
        raise DirectoryError(f"{path} is not JSON ({str(error) or type(error).__name__})", mend) from error
    if not isinstance(content, dict):
        raise DirectoryError(f"{path} does not hold a JSON object", mend)
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_read(path: Path) -> BinaryIO:
    """Open a file for reading."""
    return path.open("rb")


def open_to_write(path: Path) -> BinaryIO:
    """Open a file for writing and truncate it. For files of directories that appear by rename when complete."""
    return path.open("wb")


class GrowingFile:
    """A file that grows at its end.

    Args:
        path: path of the file.
        size: how much of an existing file to keep; the rest is cut off [bytes].
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file: BinaryIO = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self.size += len(data)

    def write_start(self, data: bytes) -> None:
        """Overwrite the first bytes."""
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(self.size)

    def flush(self) -> None:
        """Hand everything to the operating system; `sync` puts it on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and is on disk when this returns."""
    with _appearing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def copy_whole(source: Path, target: Path) -> None:
    """Copy the content of a file; the copy appears whole or not at all, as with `write_whole`."""
    with _appearing(target) as temporary:
        shutil.copyfile(source, temporary)
        sync(temporary)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary name for the block to write and sync; rename it to `path`, or remove it on failure."""
    make_directory(path.parent)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        rename(temporary, path)
    except BaseException:
        remove_file(temporary, missing_ok=True)
        raise
    sync(path.parent)


def append_at(path: Path, length: int, content: bytes) -> int:
    """Truncate a file to a length and append to it; create it if it is missing. Return its new length [bytes].

    This removes what a failed write has left after `length`. Nothing is synced.
    """
    with path.open("ab") as file:
        file.truncate(length)
        return length + file.write(content)


def cut_to_whole_lines(path: Path, length: int) -> int:
    """Truncate a file to the lines that end within its first `length` bytes; create it if it is missing.

    Args:
        length: upper bound of the new length [bytes].

    Returns:
        the new length [bytes].
    """
    with path.open("a+b") as file:
        file.seek(0)
        kept = file.read(length).rfind(b"\n") + 1
        file.truncate(kept)
    return kept


def sync(path: Path) -> None:
    """Flush the content of a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename a file or a directory; a file or an empty directory of that name is replaced."""
    os.replace(source, target)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, unless they exist.

    Raises:
        FileExistsError, NotADirectoryError: the directory, or a parent, exists and is a file.
    """
    path.mkdir(parents=True, exist_ok=True)


def remove_file(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file; a link is removed, not followed."""
    path.unlink(missing_ok=missing_ok)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a directory and its content; links are removed, not followed."""
    shutil.rmtree(path, ignore_errors=ignore_errors)


def remove_empty_directory(path: Path) -> None:
    """Remove an empty directory."""
    path.rmdir()


def empty_directory(path: Path, keep: Collection[str] = ()) -> None:
    """Remove the content of a directory except the names in `keep`; links are removed, not followed."""
    for child in path.iterdir():
        if child.name in keep:
            continue
        if child.is_dir() and not child.is_symlink():
            remove_tree(child)
        else:
            remove_file(child)


def open_directory(path: Path) -> int:
    """Open a directory in order to lock it. Return a descriptor, to be closed with `os.close`."""
    return os.open(path, os.O_RDONLY)


def open_lock(path: Path) -> int:
    """Open a file in order to lock it, or create it. Return a descriptor, to be closed with `os.close`."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory until this process closes it or ends.

    Returns:
        False if another process holds the lock.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def rewrite(descriptor: int, content: bytes) -> None:
    """Replace the content of an open file, from its first byte."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
