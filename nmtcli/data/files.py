"""Files of a data or model directory, which may come from anybody: looked at before they are opened.

A device or a pipe under the name of a file would be read without end, a file of gigabytes where kilobytes are due would
fill the memory.
"""

import hashlib
import json
import stat
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
