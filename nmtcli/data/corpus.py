"""The data directory: what `nmt preprocess` writes and `nmt train` reads. This docstring is its specification.

    meta.json                    see below
    source.model target.model    SentencePiece models; identical files if the vocabulary is joint
    train.source.tokens.npy      ids of all source sentences, concatenated, each ending in EOS; one-dimensional,
                                 uint16 if the vocabulary has at most 65,536 pieces, otherwise uint32
    train.source.offsets.npy     int64; sentence i is tokens[offsets[i]:offsets[i + 1]], so there is one entry more
                                 than pairs; the first entry is 0, the last is the number of tokens
    train.target.tokens.npy  train.target.offsets.npy     the same for the target side
    train.hashes.npy             only with --dedup: uint64, two numbers per pair (see clean.py); needed for
                                 --append --dedup
    valid.source.txt  valid.target.txt                    raw text, UTF-8; every line, even the last, ends in "\\n" only
    test.1.source.txt  test.1.target.txt  test.2.…        the same for each `--test`, in the order given

`meta.json` is one JSON object in UTF-8. Its keys, in this order:

    format, version       "nmtcli-data", 1
    source_lang, target_lang
    subword               unigram, bpe, char, word or none; with --source-model, the kind of that model
    joint                 true if source and target share one vocabulary, with the same ids
    special_ids           {"pad": 0, "unk": 1, "bos": 2, "eos": 3}
    vocabulary_sizes      {"source": …, "target": …} [pieces]
    pairs                 number of training pairs
    corpora               a list of {"name": prefix as given, "pairs": …}, one for each text of --train, in the order
                          of the pairs; may be missing
    tokens                {"source": …, "target": …} training tokens, EOS counted
    valid                 {"name": prefix as given, "pairs": …}
    test                  a list of objects like `valid`; may be empty
    user_words            null without --user-words, otherwise an object: "read" and "unusable" count the words of the
                          list; "source" and "target" are {"pieces", "rare", "beyond"}, the numbers of words that
                          became pieces, are too rare, or exceed the limit (see user_words.py). May be missing
    cleaning              {"read", "empty", "duplicate", "too_long", "ratio", "kept"} [pairs]; see clean.py
    config                the options of nmt preprocess that affect the files written
    appended              a list of objects like `config`, one for each later run with --append; may be missing
    sha256                {file name: SHA-256 in hexadecimal} for every other file

A directory is renamed into place when it is complete (writing.py). The same text and options give the same bytes on
any machine.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtcli.data.files import QUICK_BYTES, read_json, sha256_of, size_of_regular
from nmtcli.data.subword import EOS, Subword
from nmtcli.data.text import read_written_lines
from nmtcli.errors import DirectoryError

FORMAT, VERSION = "nmtcli-data", 1
META = "meta.json"
HASHES = "train.hashes.npy"
AGAIN = "Run nmt preprocess again"
SIDES = ("source", "target")
META_KEYS = (
    *("format", "version", "source_lang", "target_lang", "subword", "joint", "special_ids", "vocabulary_sizes"),
    *("pairs", "corpora", "tokens", "valid", "test", "user_words", "cleaning", "config", "appended", "sha256"),
)
LENGTHS_AT_ONCE = 1 << 20  # lengths read at a time [pairs]


class Corpus:
    """Training pairs as ids, memory-mapped and read-only; `corpus[i]` is `(source, target)`, each ending in EOS.

    Args:
        directory: a data directory.

    Raises:
        DirectoryError: a file is missing or truncated, or the files do not match each other.
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
                raise DirectoryError(f"{directory}/train.{side}.tokens.npy does not match its offsets", AGAIN)

    def __reduce__(self) -> tuple[type["Corpus"], tuple[Path]]:
        return Corpus, (self._directory,)  # a worker process maps the files itself

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
                f"{self._directory}/train.{side}.offsets.npy: sentence {index + 1:,} ({start:,} to {end:,}) is not "
                f"a sentence of the {len(tokens):,} tokens",
                AGAIN,
            )
        return tokens[start:end]

    def lengths(self, pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the source and target lengths of the pairs with the given indices, EOS counted [tokens]."""
        source, target = (
            offsets[pairs + 1].astype(np.int64) - offsets[pairs].astype(np.int64)
            for offsets in (self._source_offsets, self._target_offsets)
        )
        return source, target

    def longest(self) -> tuple[int, int]:
        """Return the lengths of the longest source and the longest target sentence, EOS counted [tokens]."""
        starts = range(0, len(self), LENGTHS_AT_ONCE)
        source, target = 0, 0
        for start in starts:
            sides = self.lengths(np.arange(start, min(start + LENGTHS_AT_ONCE, len(self))))
            source, target = (
                max(before, int(side.max())) for before, side in zip((source, target), sides, strict=True)
            )
        return source, target


class DataDirectory:
    """An open data directory. The time to open a directory does not grow with the corpus.

    Attributes:
        path: path of the directory.
        meta: content of meta.json.
        train: the training pairs.
        corpora: an object {"name", "pairs"} for each training text, in the order in which their pairs are stored.
        source_subword, target_subword: the subword models; the same object if the vocabulary is joint.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.source_lang: str = meta["source_lang"]
        self.target_lang: str = meta["target_lang"]
        self.joint: bool = meta["joint"]
        self.corpora: list[dict[str, Any]] = meta.get("corpora") or [{"name": "train", "pairs": meta["pairs"]}]
        self.train = Corpus(path)
        self.source_subword = self._subword("source")
        self.target_subword = self.source_subword if self.joint else self._subword("target")
        if len(self.train) != meta["pairs"]:
            raise DirectoryError(f"{path} has {len(self.train):,} pairs, but its {META} has {meta['pairs']:,}", AGAIN)

    @classmethod
    def open(cls, path: str | Path) -> "DataDirectory":
        """Open a data directory.

        Raises:
            DirectoryError: the directory is missing or damaged, or has another format or version.
        """
        path = Path(path)
        if not path.exists():
            raise DirectoryError(f"{path} does not exist", "Run nmt preprocess first")
        meta = read_meta(path)
        if meta.get("format") != FORMAT:
            raise DirectoryError(f"{path} is not a data directory", "Name a directory that nmt preprocess has written")
        if meta.get("version") != VERSION:
            raise DirectoryError(f"{path} has version {meta.get('version')}, but this nmt reads {VERSION}", AGAIN)
        _check_meta(path / META, meta)
        return cls(path, meta)

    @property
    def direction(self) -> str:
        """The direction of translation, such as "de to en"."""
        return f"{self.source_lang} to {self.target_lang}"

    @property
    def training_sha256(self) -> str:
        """Fingerprint of the training pairs: a hash of the hashes that meta.json records for the files of the pairs."""
        names = [f"train.{side}.{part}.npy" for side in SIDES for part in ("tokens", "offsets")]
        return hashlib.sha256("".join(self.meta["sha256"][name] for name in names).encode()).hexdigest()

    @functools.cached_property
    def valid(self) -> list[tuple[str, str]]:
        """The validation pairs as raw text."""
        return self._text("valid", self.meta["valid"]["pairs"])

    def test(self, number: int) -> list[tuple[str, str]]:
        """Return the pairs of a test text as raw text.

        Args:
            number: number of the test text, in the order of the `--test` options [from 1].

        Raises:
            DirectoryError: there is no such test text, or its files are missing or damaged.
        """
        if not 1 <= number <= len(self.meta["test"]):
            raise DirectoryError(f"{self.path} has no test text number {number} (test texts: {len(self.meta['test'])})")
        return self._text(f"test.{number}", self.meta["test"][number - 1]["pairs"])

    def verify(self, *, quick: bool = False) -> None:
        """Check that each file has the hash that meta.json records for it.

        Args:
            quick: if True, check only files of at most QUICK_BYTES; by default all files are checked.
        Raises:
            DirectoryError: a file is missing or damaged.
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


def read_meta(path: Path) -> dict[str, Any]:
    """Read meta.json of a data directory, without checking its keys and values.

    Raises:
        DirectoryError: the file is missing or is not a JSON object.
    """
    if not (path / META).exists():
        raise DirectoryError(f"{path} is not a data directory: it has no {META}", "Run nmt preprocess first")
    return read_json(path / META, AGAIN)


def _check_meta(path: Path, meta: dict[str, Any]) -> None:
    """Check the keys in meta.json that `DataDirectory` uses, and the types of their values.

    Raises:
        DirectoryError: a key is missing, or its value is invalid.
    """
    kinds: dict[str, type] = {"source_lang": str, "target_lang": str, "subword": str, "joint": bool, "pairs": int}
    kinds |= {"valid": dict, "test": list, "sha256": dict}
    for key, kind in kinds.items():
        if not isinstance(meta.get(key), kind):
            raise DirectoryError(f"{path} is damaged: {key} is {meta.get(key)!r:.40}", AGAIN)
    corpora = meta.get("corpora", [])
    if not isinstance(corpora, list):
        raise DirectoryError(f"{path} is damaged: corpora is {corpora!r:.40}", AGAIN)
    for text in (meta["valid"], *meta["test"], *corpora):
        if not isinstance(text, dict) or not isinstance(text.get("pairs"), int) or text["pairs"] < 0:
            raise DirectoryError(f"{path} is damaged: a text has no number of pairs", AGAIN)
    if corpora and sum(corpus["pairs"] for corpus in corpora) != meta["pairs"]:
        raise DirectoryError(f"{path} is damaged: its corpora do not add up to {meta['pairs']:,} pairs", AGAIN)
    names = {f"train.{side}.{part}.npy" for side in SIDES for part in ("tokens", "offsets")}
    names |= {f"{side}.model" for side in SIDES}
    known = meta["sha256"]
    if not names <= set(known) or not all(isinstance(value, str) and "/" not in name for name, value in known.items()):
        raise DirectoryError(f"{path} is damaged: hashes of files are missing", AGAIN)


def _mapped(path: Path) -> npt.NDArray[Any]:
    """Memory-map the one-dimensional integer array in a .npy file.

    Raises:
        DirectoryError: the file is missing or damaged, or does not hold such an array.
    """
    size_of_regular(path, AGAIN)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy may raise anything for a header that is not Python literals
        raise DirectoryError(f"{path} is cut short or damaged ({error})", AGAIN) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise DirectoryError(f"{path} is not a one-dimensional array of integers", AGAIN)
    return array
