"""The data directory: what `nmt preprocess` writes and `nmt train` reads. This docstring is its specification.

    meta.json                    see below
    source.model target.model    SentencePiece models; the same bytes twice where the vocabulary is joint
    train.source.tokens.npy      the ids of all source sentences one after the other, each with its EOS at the end:
                                 uint16 where the vocabulary has at most 65,536 pieces, else uint32; one axis
    train.source.offsets.npy     int64, one more than there are pairs: sentence i is tokens[offsets[i]:offsets[i + 1]];
                                 the first is 0, the last the number of tokens
    train.target.tokens.npy  train.target.offsets.npy     likewise
    valid.source.txt  valid.target.txt                    raw text, UTF-8; each line ended by "\\n" and by nothing else
    test.1.source.txt  test.1.target.txt  test.2.…        likewise, a pair of files for each `--test`, in their order

`meta.json` is one JSON object in UTF-8. Its keys, in this order:

    format, version       "nmtcli-data", 1
    source_lang, target_lang
    subword               unigram, bpe, char, word or none; of the source, where models were given
    joint                 true where source and target have one vocabulary, with the same ids
    special_ids           {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    vocabulary_sizes      {"source": …, "target": …} [pieces]
    pairs                 training pairs
    tokens                {"source": …, "target": …} training tokens, EOS counted
    valid                 {"name": prefix as it was given, "pairs": …}
    test                  a list of the same, may be empty
    user_words            null, or {"read", "unusable"} [words] of the list, and for "source" and "target" {"pieces",
                          "rare", "beyond"}: words that became pieces, or were left out; see user_words.py. May be
                          missing
    cleaning              {"read", "empty", "duplicate", "too_long", "ratio", "kept"} [pairs]; see clean.py
    config                the options of nmt preprocess, but for those without influence on the result
    sha256                {file name: hexadecimal} of every other file

The directory appears by rename when it is whole. The same text and options give the same bytes, whatever the machine.
"""

import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nmtcli.data.files import QUICK_BYTES, read_json, sha256_of, size_of_regular
from nmtcli.data.subword import EOS, SPECIALS, Subword
from nmtcli.data.text import read_written_lines
from nmtcli.errors import DirectoryError, WorldError

FORMAT, VERSION = "nmtcli-data", 1
META = "meta.json"
AGAIN = "Run nmt preprocess again"
SIDES = ("source", "target")
_META_KEYS = (
    *("format", "version", "source_lang", "target_lang", "subword", "joint", "special_ids", "vocabulary_sizes"),
    *("pairs", "tokens", "valid", "test", "user_words", "cleaning", "config", "sha256"),
)
LENGTHS_AT_ONCE = 1 << 20  # pairs


class Corpus:
    """Training pairs as ids, memory-mapped and read-only; `corpus[i]` is `(source, target)`, each with its EOS.

    Args:
        directory: a data directory.

    Raises:
        DirectoryError: a file is missing or cut short, or the files disagree.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (self._source_tokens, self._source_offsets), (self._target_tokens, self._target_offsets) = (
            (_mapped(directory / f"train.{side}.tokens.npy"), _mapped(directory / f"train.{side}.offsets.npy"))
            for side in SIDES
        )
        if len(self._source_offsets) != len(self._target_offsets):
            sentences = [f"{len(offsets) - 1:,}" for offsets in (self._source_offsets, self._target_offsets)]
            raise DirectoryError(f"{directory} has {sentences[0]} source and {sentences[1]} target sentences", AGAIN)
        for side, tokens, offsets in (
            ("source", self._source_tokens, self._source_offsets),
            ("target", self._target_tokens, self._target_offsets),
        ):
            if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(tokens):
                raise DirectoryError(f"{directory}/train.{side}.tokens.npy is not as long as its offsets say", AGAIN)

    def __reduce__(self) -> tuple[type["Corpus"], tuple[Path]]:
        return Corpus, (self._directory,)  # a worker maps the files itself

    def __len__(self) -> int:
        return len(self._source_offsets) - 1

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = self._sentence("source", self._source_tokens, self._source_offsets, index)
        return source, self._sentence("target", self._target_tokens, self._target_offsets, index)

    def _sentence(self, side: str, tokens: npt.NDArray[Any], offsets: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
        start, end = int(offsets[index]), int(offsets[index + 1])
        if not 0 <= start < end <= len(tokens) or tokens[end - 1] != EOS:
            raise DirectoryError(
                f"{self._directory}/train.{side}.offsets.npy: sentence {index + 1:,} is no sentence of the "
                f"{len(tokens):,} tokens ({start:,} to {end:,})",
                AGAIN,
            )
        return tokens[start:end]

    def lengths(self, pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Lengths of the source and target sentences of these pairs, EOS counted [tokens]."""
        source, target = (
            offsets[pairs + 1].astype(np.int64) - offsets[pairs].astype(np.int64)
            for offsets in (self._source_offsets, self._target_offsets)
        )
        return source, target

    def longest(self) -> tuple[int, int]:
        """The longest source and target sentence, EOS counted [tokens]."""
        starts = range(0, len(self), LENGTHS_AT_ONCE)
        source, target = 0, 0
        for start in starts:
            sides = self.lengths(np.arange(start, min(start + LENGTHS_AT_ONCE, len(self))))
            source, target = (
                max(before, int(side.max())) for before, side in zip((source, target), sides, strict=True)
            )
        return source, target

    @functools.cached_property
    def source_lengths(self) -> npt.NDArray[np.int64]:
        """Lengths of the source sentences, EOS counted [tokens]."""
        return np.diff(self._source_offsets)

    @functools.cached_property
    def target_lengths(self) -> npt.NDArray[np.int64]:
        """Lengths of the target sentences, EOS counted [tokens]."""
        return np.diff(self._target_offsets)


class DataDirectory:
    """An opened data directory. Opening takes no time that grows with the corpus.

    Attributes:
        path: where it is.
        meta: what meta.json holds.
        train: the training pairs.
        source_subword, target_subword: the vocabularies; one object where they are joint.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.source_lang: str = meta["source_lang"]
        self.target_lang: str = meta["target_lang"]
        self.joint: bool = meta["joint"]
        self.train = Corpus(path)
        self.source_subword = self._subword("source")
        self.target_subword = self.source_subword if self.joint else self._subword("target")
        if len(self.train) != meta["pairs"]:
            raise DirectoryError(f"{path} has {len(self.train):,} pairs, but its {META} says {meta['pairs']:,}", AGAIN)

    @classmethod
    def open(cls, path: str | Path) -> "DataDirectory":
        """Opens a data directory.

        Raises:
            DirectoryError: it is missing, of another format or version, cut short, or its files disagree.
        """
        path = Path(path)
        if not path.exists():
            raise DirectoryError(f"{path} is not there", "Run nmt preprocess first")
        meta = _read_meta(path)
        if meta.get("format") != FORMAT:
            raise DirectoryError(f"{path} is not a data directory", "Name what nmt preprocess has written")
        if meta.get("version") != VERSION:
            raise DirectoryError(f"{path} is of version {meta.get('version')}, but this nmt reads {VERSION}", AGAIN)
        _check_meta(path / META, meta)
        return cls(path, meta)

    @property
    def direction(self) -> str:
        """The languages, as in "de to en"."""
        return f"{self.source_lang} to {self.target_lang}"

    @property
    def training_sha256(self) -> str:
        """What the training pairs are known by: a hash over the hashes of their files that meta.json has."""
        names = [f"train.{side}.{part}.npy" for side in SIDES for part in ("tokens", "offsets")]
        return hashlib.sha256("".join(self.meta["sha256"][name] for name in names).encode()).hexdigest()

    @functools.cached_property
    def valid(self) -> list[tuple[str, str]]:
        """The validation pairs, raw text."""
        return self._text("valid", self.meta["valid"]["pairs"])

    def test(self, number: int) -> list[tuple[str, str]]:
        """The pairs of a test text, raw.

        Args:
            number: which `--test`, from 1.

        Raises:
            DirectoryError: there is no such test text.
        """
        if not 1 <= number <= len(self.meta["test"]):
            raise DirectoryError(f"{self.path} has {len(self.meta['test'])} test texts, not a number {number}")
        return self._text(f"test.{number}", self.meta["test"][number - 1]["pairs"])

    def verify(self, *, quick: bool = False) -> None:
        """Hashes every file and compares with meta.json.

        Args:
            quick: only those whose hash takes no time.
        Raises:
            DirectoryError: a file is not what it was.
        """
        for name in self.meta["sha256"]:
            path = self.path / name
            if size_of_regular(path, AGAIN) <= QUICK_BYTES or not quick:
                self._verify_file(path)

    def _verify_file(self, path: Path) -> None:
        if sha256_of(path) != self.meta["sha256"].get(path.name):
            raise DirectoryError(f"{path} is damaged: its sha256 is not the one in {META}", AGAIN)

    def _subword(self, side: str) -> Subword:
        name = f"{side}.model"
        subword = Subword.load(self.path / name)
        if subword.sha256 != self.meta["sha256"][name]:
            raise DirectoryError(f"{self.path / name} is not the one that the corpus was encoded with", AGAIN)
        return subword

    def _text(self, name: str, pairs: int) -> list[tuple[str, str]]:
        sides = []
        for side in SIDES:
            path = self.path / f"{name}.{side}.txt"
            if size_of_regular(path, AGAIN) <= QUICK_BYTES:
                self._verify_file(path)
            try:
                sides.append(list(read_written_lines(path)))
            except (FileNotFoundError, UnicodeDecodeError) as error:
                raise DirectoryError(f"{path} is missing or damaged", AGAIN) from error
            if len(sides[-1]) != pairs:
                raise DirectoryError(f"{path} has {len(sides[-1]):,} lines instead of {pairs:,}", AGAIN)
        return list(zip(*sides, strict=True))


class SentenceWriter:
    """Writes one side of the training pairs as they come, without keeping them.

    Args:
        directory: where `train.<side>.tokens.npy` and `train.<side>.offsets.npy` go.
        side: source or target.
        vocabulary_size: decides how many bytes a token has [pieces].
    """

    def __init__(self, directory: Path, side: str, vocabulary_size: int) -> None:
        dtype = token_dtype(vocabulary_size)
        self._tokens = _ArrayWriter(directory / f"train.{side}.tokens.npy", dtype)
        self._offsets = _ArrayWriter(directory / f"train.{side}.offsets.npy", np.dtype("<i8"))
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
        facts: the other keys, as the docstring of this page has them.
    """
    sha256 = {}
    for path in sorted(directory.iterdir()):
        sha256[path.name] = sha256_of(path)
    known = {"format": FORMAT, "version": VERSION, "special_ids": SPECIALS, "sha256": sha256, **facts}
    assert sorted(known) == sorted(_META_KEYS)
    text = json.dumps({key: known[key] for key in _META_KEYS}, ensure_ascii=False, indent=2)
    (directory / META).write_text(text + "\n", encoding="utf-8")


@contextmanager
def new_data_directory(path: str, *, overwrite: bool) -> Iterator[Path]:
    """A directory beside `path` to write into; it takes the name `path` when the block ends well, and goes if it fails.

    What a killed run left there is replaced.

    Args:
        overwrite: a data directory that is there may be replaced. Anything else that is there never is.

    Raises:
        DirectoryError: something is there that may not be replaced.
        WorldError: another run is writing there.
    """
    final = Path(os.path.realpath(path))
    partial, old = final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.old")
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
        try:
            _empty(partial)
            yield partial
            _check_replaceable(path, final, overwrite)
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
                final.rename(old)
            partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _check_replaceable(path: str, final: Path, overwrite: bool) -> None:
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    try:
        is_data = _read_meta(final).get("format") == FORMAT
    except DirectoryError:
        is_data = False
    if not is_data:
        raise DirectoryError(f"{path} is there and is not a data directory", "Name another one with --data")
    if not overwrite:
        raise DirectoryError(f"{path} is there already", "Use --overwrite, or name another one with --data")


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / META).exists():
        raise DirectoryError(f"{path} is not a data directory: it has no {META}", "Run nmt preprocess first")
    return read_json(path / META, AGAIN)


def _check_meta(path: Path, meta: dict[str, Any]) -> None:
    """Sees to it that what is read of meta.json is of the type that it must be.

    Raises:
        DirectoryError: a key is missing, or its value is something else.
    """
    kinds: dict[str, type] = {"source_lang": str, "target_lang": str, "subword": str, "joint": bool, "pairs": int}
    kinds |= {"valid": dict, "test": list, "sha256": dict}
    for key, kind in kinds.items():
        if not isinstance(meta.get(key), kind):
            raise DirectoryError(f"{path} is not whole: {key} is {meta.get(key)!r:.40}", AGAIN)
    for text in (meta["valid"], *meta["test"]):
        if not isinstance(text, dict) or not isinstance(text.get("pairs"), int):
            raise DirectoryError(f"{path} is not whole: a text has no number of pairs", AGAIN)
    names = {f"train.{side}.{part}.npy" for side in SIDES for part in ("tokens", "offsets")}
    names |= {f"{side}.model" for side in SIDES}
    known = meta["sha256"]
    if not names <= set(known) or not all(isinstance(value, str) and "/" not in name for name, value in known.items()):
        raise DirectoryError(f"{path} is not whole: it lacks hashes of files", AGAIN)


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file, memory-mapped."""
    size_of_regular(path, AGAIN)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a header is Python literals to NumPy, and what it raises for others has no end
        raise DirectoryError(f"{path} is cut short or damaged ({error})", AGAIN) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise DirectoryError(f"{path} does not hold a list of whole numbers", AGAIN)
    return array


class _ArrayWriter:
    """A .npy file of one axis that grows; its header is written when the length is known."""

    def __init__(self, path: Path, dtype: "np.dtype[Any]") -> None:
        self._dtype = dtype
        self.length = 0
        self._file: BinaryIO = path.open("wb")
        self._file.write(self._header())

    def append(self, values: npt.NDArray[Any]) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def _header(self) -> bytes:
        """NumPy pads headers so that they keep their size when the length grows."""
        header = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, facts)
        assert len(header.getvalue()) == 128
        return header.getvalue()
