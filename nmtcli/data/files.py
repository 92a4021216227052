"""Open, write, rename, sync, lock and remove the files of run and data directories, here and nowhere else.

Crash safety is decided in this one module, and tests inject faults here. It uses only the standard library. text.py
reads the text files that a user names; corpus.py and the store package specify the files in a directory.

A directory may come from an untrusted source, so its files are checked before they are opened: reading a device or a
pipe might never end, and reading a file of gigabytes where kilobytes are expected might exhaust memory.
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

JSON_BYTES = 1 << 24  # maximum size of a JSON file [bytes]
SUBWORD_BYTES = 1 << 28  # maximum size of a subword model [bytes]
QUICK_BYTES = 1 << 26  # files up to this size are hashed within a tenth of a second [bytes]


def size_of_regular(path: Path, mend: str) -> int:
    """Return the size of a regular file [bytes]; symbolic links are followed.

    Args:
        mend: what the user can do about an error; part of the error message.

    Raises:
        DirectoryError: the file is missing or cannot be read, or is not a regular file.
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
    """Return the content of a file of at most `at_most` bytes.

    Args:
        at_most: maximum size of the file [bytes].
        mend: as for `size_of_regular`.

    Raises:
        DirectoryError: the file is missing, is not a regular file, or is larger than `at_most`.
    """
    size = size_of_regular(path, mend)
    if size > at_most:
        raise DirectoryError(f"{path} has {size:,} bytes, but may have at most {at_most:,}", mend)
    return path.read_bytes()


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        mend: as for `size_of_regular`.

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
    """Return the SHA-256 hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_to_read(path: Path) -> BinaryIO:
    """Open a file for reading in binary mode."""
    return path.open("rb")


def open_to_write(path: Path) -> BinaryIO:
    """Open a file for writing in binary mode, and truncate it.

    A crash can leave the file incomplete: use this only in a directory that is renamed into place when it is complete.
    """
    return path.open("wb")


class GrowingFile:
    """A file that grows by appending.

    Args:
        path: path of the file.
        size: length to which an existing file is truncated; 0: start with an empty file [bytes].
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file: BinaryIO = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size

    def write(self, data: bytes) -> None:
        """Append bytes to the file."""
        self._file.write(data)
        self.size += len(data)

    def write_start(self, data: bytes) -> None:
        """Overwrite the first bytes of the file with `data`."""
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(self.size)

    def flush(self) -> None:
        """Pass buffered bytes to the operating system; `sync` then writes them to disk."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it appears whole or not at all, and is on disk when the function returns."""
    with _appearing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file atomically: the copy appears whole or not at all, and is on disk when the function returns."""
    with _appearing(target) as temporary:
        shutil.copyfile(source, temporary)
        sync(temporary)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, at which the caller's block writes and syncs a file.

    The file is then renamed to `path`, or removed if the block fails.
    """
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
    """Truncate a file to `length` bytes and append `content`; return the new length [bytes].

    Truncation discards whatever a failed write left beyond `length`. A missing file is created. Nothing is synced.
    """
    with path.open("ab") as file:
        file.truncate(length)
        return length + file.write(content)


def cut_to_whole_lines(path: Path, length: int) -> int:
    """Truncate a file to the lines that end within its first `length` bytes; create the file if it is missing.

    Args:
        length: maximum length of the truncated file [bytes].

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
    """Rename a file or a directory; an existing target is replaced if it is a file or an empty directory."""
    os.replace(source, target)


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents; an existing directory is accepted.

    Raises:
        FileExistsError, NotADirectoryError: the path or one of its parents is a file.
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
    """Remove everything in a directory except the entries named in `keep`; links are removed, not followed."""
    for child in path.iterdir():
        if child.name in keep:
            continue
        if child.is_dir() and not child.is_symlink():
            remove_tree(child)
        else:
            remove_file(child)


def open_directory(path: Path) -> int:
    """Open a directory for locking; return a descriptor, which the caller closes with `os.close`."""
    return os.open(path, os.O_RDONLY)


def open_lock(path: Path) -> int:
    """Open a lock file, or create it if it is missing; return a descriptor, which the caller closes with `os.close`."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file or directory; the lock lasts until the descriptor is closed or this process exits.

    Returns:
        True if the lock was acquired, False if another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def rewrite(descriptor: int, content: bytes) -> None:
    """Replace the whole content of an open file."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
