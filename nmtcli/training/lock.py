"""Lock a model directory, so that only one run at a time trains in it.

    model/lock    exists while training runs; its content is "<process id> on <host>"

The lock belongs to the open file, and the operating system releases it when the process ends for any reason. So a lock
file left behind by a killed process does not lock the directory.
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
    """Hold the lock of a directory. Create the directory if needed; if it was created, remove it if it ends up empty.

    Raises:
        DirectoryError: the path, or a parent of it, is a file.
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
        # removed before unlocking, so that a process that has already opened the file notices the removal
        remove_file(path, missing_ok=True)
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
        os.close(file)  # the file was removed or replaced between opening and locking
