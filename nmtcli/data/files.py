"""The files of run and data directories: opened, written, renamed, synced, locked and removed here and nowhere else.

So there is one place where faults can be injected, and one that says what survives a crash. Standard library only.
Text that a user names is read by text.py; which files a directory has is for corpus.py and the model directory to say.

A directory may come from anybody, so its files are looked at before they are opened: a device or a pipe under the name
of a file would be read without end, and a file of gigabytes where kilobytes are due would fill the memory.
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
QUICK_BYTES = 1 << 26  # hashed in a tenth of a second


def size_of_regular(path: Path, mend: str) -> int:
    """Return the size of a regular file, or of the one that a symbolic link leads to [bytes].

    Raises:
        DirectoryError: it is missing, or is not a regular file.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DirectoryError(f"{path} is not there", mend) from error
    except OSError as error:  # a loop of links, a name that is too long
        raise DirectoryError(f"{path} cannot be read ({error.strerror})", mend) from error
    if not stat.S_ISREG(found.st_mode):
        raise DirectoryError(f"{path} is not a file", mend)
    return found.st_size


def read_small(path: Path, at_most: int, mend: str) -> bytes:
    """Return the content of a file.

    Args:
        at_most: the largest size that the file can have [bytes].
        mend: what the user can do if it cannot be read.

    Raises:
        DirectoryError: it is missing, is not a regular file, or is larger than `at_most`.
    """
    size = size_of_regular(path, mend)
    if size > at_most:
        raise DirectoryError(f"{path} has {size:,} bytes, more than it can have ({at_most:,})", mend)
    return path.read_bytes()


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DirectoryError: it is missing, is not a regular file, is too large, or does not hold a JSON object.
    """
    try:
        content = json.loads(read_small(path, JSON_BYTES, mend))
    except (ValueError, RecursionError) as error:
        raise DirectoryError(f"{path} is not JSON ({str(error) or type(error).__name__})", mend) from error
    if not isinstance(content, dict):
        raise DirectoryError(f"{path} holds no JSON object", mend)
    return content


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_read(path: Path) -> BinaryIO:
    """Open a file for reading."""
    return path.open("rb")


def open_to_write(path: Path) -> BinaryIO:
    """Open a file for writing; what it held is gone. For directories that appear by rename when they are whole."""
    return path.open("wb")


class GrowingFile:
    """A file to which bytes are only added.

    Args:
        path: where it is.
        size: how much of an existing file is kept; the rest is cut off [bytes].
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file: BinaryIO = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size

    def write(self, data: bytes) -> None:
        """Add to the end."""
        self._file.write(data)
        self.size += len(data)

    def write_start(self, data: bytes) -> None:
        """Write over the first bytes."""
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(self.size)

    def flush(self) -> None:
        """Hand everything to the operating system; `sync` puts it on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and is on the disk when this returns."""
    with _appearing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def copy_whole(source: Path, target: Path) -> None:
    """Copy the content of a file; the copy appears as by `write_whole`."""
    with _appearing(target) as temporary:
        shutil.copyfile(source, temporary)
        sync(temporary)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a temporary name for a file that the block writes and syncs; it becomes `path`, or goes if that fails."""
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
    """Cut a file to a length, then append to it; it is made if it is missing. Return its new length [bytes].

    What a failed write has left behind `length` goes this way. Nothing is synced.
    """
    with path.open("ab") as file:
        file.truncate(length)
        return length + file.write(content)


def cut_to_whole_lines(path: Path, length: int) -> int:
    """Cut a file to the lines that end within its first bytes; it is made if it is missing.

    Args:
        length: how many of its bytes may stay [bytes].

    Returns:
        its new length [bytes].
    """
    with path.open("a+b") as file:
        file.seek(0)
        kept = file.read(length).rfind(b"\n") + 1
        file.truncate(kept)
    return kept


def sync(path: Path) -> None:
    """Put the content of a file on the disk, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or a directory another name, in the place of a file or an empty directory that has it."""
    os.replace(source, target)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, unless they exist.

    Raises:
        FileExistsError, NotADirectoryError: a file has the name, or that of a directory above.
    """
    path.mkdir(parents=True, exist_ok=True)


def remove_file(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file, or a link but not what it leads to."""
    path.unlink(missing_ok=missing_ok)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a directory and all that is in it; links are removed, not followed."""
    shutil.rmtree(path, ignore_errors=ignore_errors)


def remove_empty_directory(path: Path) -> None:
    """Remove a directory that has nothing in it."""
    path.rmdir()


def empty_directory(path: Path, keep: Collection[str] = ()) -> None:
    """Remove everything in a directory but these names; a link is removed, not followed."""
    for child in path.iterdir():
        if child.name in keep:
            continue
        if child.is_dir() and not child.is_symlink():
            remove_tree(child)
        else:
            remove_file(child)


def open_directory(path: Path) -> int:
    """Open a directory, to lock it. Return its descriptor, which is for `os.close` to close."""
    return os.open(path, os.O_RDONLY)


def open_lock(path: Path) -> int:
    """Open a file to lock, and make it if it is missing. Return its descriptor, which is for `os.close` to close."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory for this process, until it closes it or ends in whatever way.

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
