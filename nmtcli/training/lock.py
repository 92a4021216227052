"""One training at a time in a model directory.

    model/lock    the process that trains there, "<id> on <host>"; there is one while training runs

The lock is the kernel's, on the open file: it goes with the process, however that ends. What is left of the file of a
process that was killed locks nothing.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nmtcli.errors import DirectoryError, WorldError

LOCK = "lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory, which is made if it is not there; one that was made and is empty again goes.

    Raises:
        DirectoryError: something else has its name.
        WorldError: another process holds the lock.
    """
    try:
        made = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryError(
            f"{directory} cannot be made: {error.filename} is a file", "Use another --model"
        ) from error
    path = directory / LOCK
    file = _acquired(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is not this name's any more
        os.close(file)
        if made and not any(directory.iterdir()):
            directory.rmdir()


def _acquired(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 100).decode(errors="replace").strip()
            os.close(file)
            who = f"process {holder}" if holder else "another process"
            raise WorldError(
                f"{path.parent} is in use: {who} trains there", "Wait for it, or use another --model"
            ) from error
        try:
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # it was removed between the two calls
