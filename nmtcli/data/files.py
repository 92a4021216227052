"""Files of a data or model directory, which may come from anybody: looked at before they are opened.

A device or a pipe under the name of a file would be read without end, a file of gigabytes where kilobytes are due would
fill the memory.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nmtcli.errors import DirectoryError

JSON_BYTES = 1 << 24
SUBWORD_BYTES = 1 << 28
QUICK_BYTES = 1 << 26  # what is hashed in a tenth of a second


def size_of_regular(path: Path, mend: str) -> int:
    """The size of a file that is there and is one [bytes]; a symbolic link to one will do.

    Raises:
        DirectoryError: it is missing, or something else.
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
    """The content of a file.

    Raises:
        DirectoryError: it is missing, no file, or larger than it can be.
    """
    size = size_of_regular(path, mend)
    if size > at_most:
        raise DirectoryError(f"{path} has {size:,} bytes, more than it can have ({at_most:,})", mend)
    return path.read_bytes()


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DirectoryError: it is missing, no file, too large, or holds something else.
    """
    try:
        content = json.loads(read_small(path, JSON_BYTES, mend))
    except (ValueError, RecursionError) as error:
        raise DirectoryError(f"{path} is not JSON ({str(error) or type(error).__name__})", mend) from error
    if not isinstance(content, dict):
        raise DirectoryError(f"{path} holds no JSON object", mend)
    return content


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Puts a file there whole or not at all, and on the disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that it holds."""
    shutil.rmtree(path)


def remove_file(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file."""
    path.unlink(missing_ok=missing_ok)


def empty_directory(path: Path, keep: Collection[str] = ()) -> None:
    """Remove all that a directory holds but these names; links are removed, not followed."""
    for child in path.iterdir():
        if child.name in keep:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def replace(source: Path, target: Path) -> None:
    """Rename a file over another."""
    source.replace(target)


def append_at(path: Path, length: int, content: bytes) -> int:
    """Cut a file to a length and append to it; return its new length [bytes]."""
    with path.open("ab") as file:
        file.truncate(length)
        return length + file.write(content)


def cut_to_whole_lines(path: Path, length: int) -> int:
    """Cut a file to its last whole line within a length; return what is left [bytes]."""
    with path.open("a+b") as file:
        file.seek(0)
        length = file.read(length).rfind(b"\n") + 1
        file.truncate(length)
    return length
