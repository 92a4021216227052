"""How a data directory is made: beside the place where it will be, from files that only grow, and so that a run which
was killed goes on where it last saved. What the files are is said in corpus.py.

    data-bin.partial/             becomes data-bin by rename when it is whole
        work/state.json           the run that fills it, how far it has come, and how long each growing file was then
        work/...                  what is not for the data directory
        ...
"""

import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nmtcli.data.corpus import AGAIN, FORMAT, META, META_KEYS, VERSION, read_meta
from nmtcli.data.files import read_json, sha256_of
from nmtcli.data.subword import SPECIALS
from nmtcli.errors import DirectoryError, Stopped, WorldError

SAVE_EVERY = 10.0  # seconds between two saves, at least
_HEADER_BYTES = 128  # of a .npy file
_WORTH_KEEPING = (KeyboardInterrupt, Stopped, WorldError, OSError, MemoryError)  # the same run may do better next time


class GrowingFile:
    """A file that is only added to.

    Args:
        path: where it is.
        size: what is kept of what is there [bytes].
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file: BinaryIO = path.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size

    def write(self, data: bytes) -> None:
        """Adds to the end."""
        self._file.write(data)
        self.size += len(data)

    def write_start(self, data: bytes) -> None:
        """Writes over the first bytes."""
        self._file.seek(0)
        self._file.write(data)
        self._file.seek(self.size)

    def flush(self) -> None:
        """Hands all to the system."""
        self._file.flush()

    def close(self) -> None:
        """Completes the file."""
        self._file.close()


class ArrayWriter:
    """A .npy file of one axis that grows; its header is written when the length is known."""

    def __init__(self, file: GrowingFile, dtype: "np.dtype[Any]") -> None:
        self._dtype = dtype
        self._file = file
        self.length = max(0, file.size - _HEADER_BYTES) // dtype.itemsize
        if not file.size:
            file.write(self._header())

    def append(self, values: npt.NDArray[Any]) -> None:
        """Adds values to the end."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Completes the file."""
        self._file.write_start(self._header())
        self._file.close()

    def _header(self) -> bytes:
        """NumPy pads headers so that they keep their size when the length grows."""
        header = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, facts)
        assert len(header.getvalue()) == _HEADER_BYTES
        return header.getvalue()


class SentenceWriter:
    """Writes one side of the training pairs as they come, without keeping them.

    Args:
        opened: gives the growing file of a name: `train.<side>.tokens.npy` and `train.<side>.offsets.npy`.
        side: source or target.
        vocabulary_size: decides how many bytes a token has [pieces].
    """

    def __init__(self, opened: Callable[[str], GrowingFile], side: str, vocabulary_size: int) -> None:
        self._tokens = ArrayWriter(opened(f"train.{side}.tokens.npy"), token_dtype(vocabulary_size))
        self._offsets = ArrayWriter(opened(f"train.{side}.offsets.npy"), np.dtype("<i8"))
        if not self._offsets.length:
            self._offsets.append(np.zeros(1, dtype=np.int64))

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self._tokens.length

    def append(self, tokens: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
        """Writes sentences: their ids one after the other, and how many each one has."""
        self._offsets.append(self.tokens + np.cumsum(lengths, dtype=np.int64))
        self._tokens.append(tokens)

    def close(self) -> None:
        """Completes both files."""
        self._tokens.close()
        self._offsets.close()


def token_dtype(vocabulary_size: int) -> "np.dtype[Any]":
    """The type of a token: two bytes where they are enough, else four; little-endian."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def write_meta(directory: Path, facts: Mapping[str, Any]) -> None:
    """Writes meta.json, its format, version, special ids and sha256s included.

    Args:
        facts: the other keys, as the docstring of corpus.py has them.
    """
    sha256 = {}
    for path in sorted(directory.iterdir()):
        if path.is_file():
            sha256[path.name] = sha256_of(path)
    known = {"format": FORMAT, "version": VERSION, "special_ids": SPECIALS, "sha256": sha256, **facts}
    assert sorted(known) == sorted(META_KEYS)
    text = json.dumps({key: known[key] for key in META_KEYS}, ensure_ascii=False, indent=2)
    (directory / META).write_text(text + "\n", encoding="utf-8")


class Unfinished:
    """A directory that a run fills, and how far it has come.

    What was done until the last save is there again when the same run is started anew: the growing files are cut to
    what they were then, and `state` says what the run said of itself. What another run left is removed.

    Args:
        directory: is there.
        run: by which a run is known.

    Attributes:
        work: a folder for what the run alone needs; it goes when the directory is whole.
        state: of the last save; empty where there was none.
    """

    def __init__(self, directory: Path, run: str) -> None:
        self.directory = directory
        self.work = directory / "work"
        self._run = run
        self._state_path = self.work / "state.json"
        self._files: dict[str, GrowingFile] = {}
        self._sizes: dict[str, int] = {}
        self.state: dict[str, Any] = {}
        if not self._load():
            _empty(directory)
            self.work.mkdir()
        self._saved_at = time.monotonic()

    def growing(self, name: str) -> GrowingFile:
        """A file of the directory, as long as it was at the last save, or as it was taken over."""
        self._files[name] = GrowingFile(self.directory / name, self._sizes.get(name, 0))
        return self._files[name]

    def take_over(self, path: Path) -> None:
        """Copies a file, which may be one that grows on."""
        shutil.copyfile(path, self.directory / path.name)
        self._sizes[path.name] = path.stat().st_size

    def begin_stage(self) -> None:
        """Closes the growing files: those opened from here on are others."""
        for file in self._files.values():
            file.close()
        self._files, self._sizes = {}, {}

    @property
    def is_due(self) -> bool:
        """True when it is time for a save."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY

    def save(self, state: Mapping[str, Any]) -> None:
        """Makes what was done so far last, whatever happens next.

        Args:
            state: as JSON has it.
        """
        for file in self._files.values():
            file.flush()
        for path in (*self.directory.iterdir(), *self.work.iterdir()):
            if path.is_file():
                _sync(path)
        sizes = {name: file.size for name, file in self._files.items()}
        new = self._state_path.with_suffix(".new")
        new.write_text(json.dumps({"run": self._run, "sizes": sizes, "state": dict(state)}), encoding="utf-8")
        _sync(new)
        new.replace(self._state_path)
        _sync(self.work)
        self.state = dict(state)
        self._saved_at = time.monotonic()

    def _load(self) -> bool:
        """Takes up the last save, if it was this run's and is whole."""
        try:
            saved = read_json(self._state_path, AGAIN)
            if saved["run"] != self._run:
                return False
            for name, size in saved["sizes"].items():
                if (self.directory / name).stat().st_size < size:
                    return False
        except (DirectoryError, OSError, KeyError, AttributeError, TypeError):
            return False
        self._sizes, self.state = saved["sizes"], saved["state"]
        return True


@contextmanager
def new_data_directory(path: str, *, overwrite: bool, run: str = "") -> Iterator[Unfinished]:
    """A directory beside `path` to write into; it takes the name `path` when the block ends well.

    If the block fails it goes, unless something was saved and the failure is none of what the run was given; a note on
    the exception says so then. What is left there goes when another run takes the place.

    Args:
        overwrite: a data directory that is there may be replaced. Anything else that is there never is.
        run: by which a run is known that may go on.

    Raises:
        DirectoryError: something is there that may not be replaced.
        WorldError: another run is writing there.
    """
    final = Path(os.path.realpath(path))
    partial, old = (final.with_name(f"{final.name}.{what}") for what in ("partial", "old"))
    if old.exists() and not final.exists():
        old.rename(final)  # a run was killed between the two renames below
    _check_replaceable(path, final, overwrite)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryError(f"{path} cannot be made: {error.filename} is a file", "Use another --data") from error
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorldError(f"another run is writing {path}", "Wait for it, or use another --data") from error
        unfinished = None
        try:
            unfinished = Unfinished(partial, run)
            yield unfinished
            _check_replaceable(path, final, overwrite)
            shutil.rmtree(unfinished.work)
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
                final.rename(old)
            partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException as error:
            if unfinished and unfinished.state and isinstance(error, _WORTH_KEEPING):
                error.add_note(f"{partial} keeps what was done; the same command goes on from there")
            else:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _check_replaceable(path: str, final: Path, overwrite: bool) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    try:
        is_data = read_meta(final).get("format") == FORMAT
    except DirectoryError:
        is_data = False
    if not is_data:
        raise DirectoryError(f"{path} is there and is not a data directory", "Name another one with --data")
    if not overwrite:
        raise DirectoryError(f"{path} is there already", "Use --overwrite or --append, or name another one with --data")


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(path: Path) -> None:
    """What is in a file or a directory reaches the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
