"""Write a data directory next to its final path, in files that only grow, so that a killed run can resume from its
last save. corpus.py specifies the files.

    data-bin.partial/             renamed to data-bin when it is complete
        work/state.json           the last save: fingerprint and progress of the run, length of each growing file
        work/...                  files that do not belong to the data directory
        ...
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtcli.data.corpus import AGAIN, FORMAT, META, META_KEYS, VERSION, read_meta
from nmtcli.data.files import (
    GrowingFile,
    copy_whole,
    empty_directory,
    make_directory,
    open_directory,
    read_json,
    remove_tree,
    rename,
    sha256_of,
    sync,
    try_lock,
    write_whole,
)
from nmtcli.data.subword import SPECIALS
from nmtcli.errors import DirectoryError, Stopped, WorldError

SAVE_EVERY = 10.0  # minimum time between two saves [seconds]
_HEADER_BYTES = 128  # length of the header of a .npy file
_WORTH_KEEPING = (KeyboardInterrupt, Stopped, WorldError, OSError, MemoryError)  # after these, a retry may succeed


class ArrayWriter:
    """A one-dimensional .npy file that grows; `close` writes the final length into its header."""

    def __init__(self, file: GrowingFile, dtype: "np.dtype[Any]") -> None:
        self._dtype = dtype
        self._file = file
        self.length = max(0, file.size - _HEADER_BYTES) // dtype.itemsize
        if not file.size:
            file.write(self._header())

    def append(self, values: npt.NDArray[Any]) -> None:
        """Append values to the array."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Write the final header and close the file."""
        self._file.write_start(self._header())
        self._file.close()

    def _header(self) -> bytes:
        """Return the header for the current length; NumPy pads headers to the same size for any length."""
        header = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, facts)
        assert len(header.getvalue()) == _HEADER_BYTES
        return header.getvalue()


class SentenceWriter:
    """A writer for one side of the training pairs, which are not kept in memory.

    Args:
        opened: function that opens a growing file by name, `train.<side>.tokens.npy` or `train.<side>.offsets.npy`.
        side: source or target.
        vocabulary_size: size of the vocabulary, which determines the number of bytes per token [pieces].
    """

    def __init__(self, opened: Callable[[str], GrowingFile], side: str, vocabulary_size: int) -> None:
        self._tokens = ArrayWriter(opened(f"train.{side}.tokens.npy"), token_dtype(vocabulary_size))
        self._offsets = ArrayWriter(opened(f"train.{side}.offsets.npy"), np.dtype("<i8"))
        if not self._offsets.length:
            self._offsets.append(np.zeros(1, dtype=np.int64))

    @property
    def tokens(self) -> int:
        """Number of tokens written so far."""
        return self._tokens.length

    def append(self, tokens: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
        """Append sentences, given as concatenated ids and the length of each sentence."""
        self._offsets.append(self.tokens + np.cumsum(lengths, dtype=np.int64))
        self._tokens.append(tokens)

    def close(self) -> None:
        """Write the final headers and close both files."""
        self._tokens.close()
        self._offsets.close()


def token_dtype(vocabulary_size: int) -> "np.dtype[Any]":
    """Return the dtype of token ids: two bytes if the vocabulary has at most 65,536 pieces, otherwise four."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def write_meta(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write meta.json: `facts`, plus the format, the version, the special ids and the hash of each file.

    Args:
        facts: values of the other keys, as specified in corpus.py.
    """
    sha256 = {}
    for path in sorted(directory.iterdir()):
        if path.is_file():
            sha256[path.name] = sha256_of(path)
    known = {"format": FORMAT, "version": VERSION, "special_ids": SPECIALS, "sha256": sha256, **facts}
    assert sorted(known) == sorted(META_KEYS)
    text = json.dumps({key: known[key] for key in META_KEYS}, ensure_ascii=False, indent=2)
    write_whole(directory / META, f"{text}\n".encode())


class Unfinished:
    """An unfinished data directory and the progress of the run that writes it.

    When the same run is started again, it continues from its last save: the growing files are truncated to their saved
    lengths, and `state` is the saved progress. Files left by a different run are removed.

    Args:
        directory: an existing directory.
        run: fingerprint of the run; runs with the same fingerprint are the same run.

    Attributes:
        work: directory for files that only the run needs; removed when the data directory is complete.
        state: progress at the last save; empty if nothing has been saved.
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
            empty_directory(directory)
            make_directory(self.work)
        self._saved_at = time.monotonic()

    def growing(self, name: str) -> GrowingFile:
        """Open a growing file, truncated to its length at the last save, or as copied by `take_over`.

        A file that was neither saved nor copied starts empty.
        """
        self._files[name] = GrowingFile(self.directory / name, self._sizes.get(name, 0))
        return self._files[name]

    def take_over(self, path: Path) -> None:
        """Copy a file from another directory, so that this run can append to the copy."""
        copy_whole(path, self.directory / path.name)
        self._sizes[path.name] = path.stat().st_size

    def begin_stage(self) -> None:
        """Close the growing files of the previous stage; the new stage opens its own."""
        for file in self._files.values():
            file.close()
        self._files, self._sizes = {}, {}

    @property
    def is_due(self) -> bool:
        """True if at least SAVE_EVERY seconds have passed since the last save (or the start)."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY

    def save(self, state: Mapping[str, Any]) -> None:
        """Sync all files and save the progress, so that the same run can resume from here.

        Args:
            state: the progress, as values that JSON can hold.
        """
        for file in self._files.values():
            file.flush()
        for path in (*self.directory.iterdir(), *self.work.iterdir()):
            if path.is_file():
                sync(path)
        sizes = {name: file.size for name, file in self._files.items()}
        saved = {"run": self._run, "sizes": sizes, "state": dict(state)}
        write_whole(self._state_path, json.dumps(saved).encode())
        self.state = dict(state)
        self._saved_at = time.monotonic()

    def _load(self) -> bool:
        """Load the last save; return False if it is missing or from a different run, or if a file is too short."""
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
    """Yield an unfinished directory next to `path` for the block to fill; rename it to `path` when the block succeeds.

    If the block fails, the directory is removed, unless progress was saved and the same run may succeed when it is
    started again; in that case the directory is kept and a note is added to the exception. A different run that is
    started later removes the kept directory's content.

    Args:
        overwrite: if True, replace an existing data directory. An empty one is always replaced, anything else never.
        run: fingerprint of the run; a run with the same fingerprint resumes from the kept directory.

    Raises:
        DirectoryError: `path` exists and may not be replaced, or the directory cannot be made.
        WorldError: another run is writing to the same path.
    """
    final = Path(os.path.realpath(path))
    partial = final.with_name(f"{final.name}.partial")
    _finish_exchange(final)
    _check_replaceable(path, final, overwrite)
    try:
        make_directory(partial)
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryError(f"{path} cannot be made: {error.filename} is a file", "Use another --data") from error
    lock = open_directory(partial)
    try:
        if not try_lock(lock):
            raise WorldError(f"another run is writing {path}", "Wait for it, or use another --data")
        unfinished = None
        try:
            unfinished = Unfinished(partial, run)
            yield unfinished
            _check_replaceable(path, final, overwrite)
            remove_tree(unfinished.work)
            _exchange(partial, final)
        except BaseException as error:
            if unfinished and unfinished.state and isinstance(error, _WORTH_KEEPING):
                error.add_note(f"{partial} keeps the progress; run the same command again to resume")
            else:
                remove_tree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _old_name(final: Path) -> Path:
    """Return the name that the old directory has while the new directory is renamed into place."""
    return final.with_name(f"{final.name}.old")


def _exchange(new: Path, final: Path) -> None:
    """Rename the directory `new` to `final`; an existing directory `final` is replaced and removed."""
    old = _old_name(final)
    if final.exists():
        remove_tree(old, ignore_errors=True)
        rename(final, old)
    rename(new, final)
    remove_tree(old, ignore_errors=True)


def _finish_exchange(final: Path) -> None:
    """Restore the name of the old directory if a run was killed between the two renames in `_exchange`."""
    old = _old_name(final)
    if old.exists() and not final.exists():
        rename(old, final)


def _check_replaceable(path: str, final: Path, overwrite: bool) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    try:
        is_data = read_meta(final).get("format") == FORMAT
    except DirectoryError:
        is_data = False
    if not is_data:
        raise DirectoryError(f"{path} exists and is not a data directory", "Name another one with --data")
    if not overwrite:
        raise DirectoryError(f"{path} already exists", "Use --overwrite or --append, or name another one with --data")
