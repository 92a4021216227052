"""One training at a time in a model directory.

    model/lock    the process that trains there, "<id> on <host>"; there is one while training runs

The lock is the kernel's, on the open file: it goes with the process, however that ends. What is left of the file of a
process that was killed locks nothing.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nmtcli.data.files import make_directory, open_lock, remove_empty_directory, remove_file, rewrite, try_lock
from nmtcli.errors import DirectoryError, WorldError

LOCK = "lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, which is made if it is not there; if it was, and ends up empty, it is removed.

    Raises:
        DirectoryError: something else has its name.
        WorldError: another process holds the lock.
    """
    try:
        made = not directory.exists()
        make_directory(directory)
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryError(
            f"{directory} cannot be made: {error.filename} is a file", "Use another --model"
        ) from error
    path = directory / LOCK
    file = _acquired(path)
    try:
        rewrite(file, f"{os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        remove_file(path, missing_ok=True)  # while it is held: whoever opened it before sees that the name is gone
        os.close(file)
        if made and not any(directory.iterdir()):
            remove_empty_directory(directory)


def _acquired(path: Path) -> int:
    while True:
        file = open_lock(path)
        if not try_lock(file):
            holder = os.read(file, 100).decode(errors="replace").strip()
            os.close(file)
            who = f"process {holder}" if holder else "another process"
            raise WorldError(f"{path.parent} is in use: {who} trains there", "Wait for it, or use another --model")
        try:
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # it was removed between the two calls
