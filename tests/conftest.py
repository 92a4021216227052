"""Fixtures shared by the tests: a tiny parallel text, its data and model directories, and a command line in process."""

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from hypothesis import settings

from nmtcli import cli

pytest.register_assert_rewrite("tests.oracles", "tests.training.run")

settings.register_profile("shared machine", deadline=None)  # test machines are small and shared
settings.load_profile("shared machine")

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Options that make training small, and equal on every machine.
TINY = (
    *("--hidden-size", "16", "--embedding-size", "8", "--batch-tokens", "256"),
    *("--device", "cpu", "--precision", "fp32", "--threads", "1", "--loader-workers", "0", "--show", "1"),
)

# Everything that a resume must bring back: dropout, sampled segmentations, accumulated batches, sums of the log, a
# plateau's cuts, checkpoints for the average. 18 batches are an epoch: 7 updates of 2 batches end within one.
EVENTFUL = (
    *("--subword-alpha", "0.2", "--accumulate", "2", "--learning-rate", "0.05", "--log-every", "2"),
    *("--validate-every", "3", "--validation-metric", "bleu", "--decay", "plateau", "--patience", "0"),
    *("--average", "2", "--average-of", "last", "--keep", "3"),
)

# For `nmt translate` where only lines are counted: ten tokens are enough.
QUICK = ("--threads", "1", "--beam", "2", "--max-length", "0")


class Result(NamedTuple):
    """The result of a command.

    Attributes:
        code: exit code.
        out: text on stdout.
        err: text on stderr.
    """

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout; each must end with "\\n"."""
        assert self.out == b"" or self.out.endswith(b"\n")
        return self.out.decode().split("\n")[:-1]

    def refusal(self, code: int) -> str:
        """Check that the command failed with this exit code and printed nothing but one line; return that line."""
        assert self.code == code, self.err
        assert self.out == b""
        assert self.err.startswith("Error: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1
        return self.err.strip()


class Nmt(Protocol):
    """Runs a command line in process: `nmt("translate", "--beam", "1", stdin=b"...")`."""

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> Result:
        """Return exit code and output; an unexpected exception is raised."""


def run_in_process(*arguments: str | Path, stdin: bytes = b"") -> Result:
    """See `Nmt`."""
    contents = [io.BytesIO(content) for content in (stdin, b"", b"")]
    streams = [io.TextIOWrapper(content, encoding="utf-8") for content in contents]
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        code = cli.run([str(argument) for argument in arguments])
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for stream in streams[1:]:
            stream.flush()
    out, err = (content.getvalue() for content in contents[1:])
    return Result(code, out, err.decode())


# What `make quick` leaves out: tests that train or use what was trained, known by their fixtures, and whole modules.
TRAINING_FIXTURES = {"nmt", "data", "other_data", "trained", "model"}
SLOW_MODULES = {"recipes", "test_pipeline", "losses/test_beam"}


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow that need training or are in a slow module."""
    here = Path(__file__).parent
    for item in items:
        module = item.path.relative_to(here).with_suffix("").as_posix() if item.path.is_relative_to(here) else ""
        if TRAINING_FIXTURES & set(getattr(item, "fixturenames", ())) or SLOW_MODULES & {module, module.split("/")[0]}:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def nmt() -> Nmt:
    return run_in_process


def digits_and_words(count: int, seed: int) -> list[tuple[str, str]]:
    """Make distinct pairs like ("3 1 4", "three one four")."""
    generator = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        digits = [generator.randrange(10) for _ in range(generator.randint(2, 7))]
        pairs[" ".join(map(str, digits))] = " ".join(WORDS[digit] for digit in digits)
    return list(pairs.items())


def write_pairs(prefix: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Write PREFIX.num and PREFIX.en."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for column, language in enumerate(("num", "en")):
        Path(f"{prefix}.{language}").write_text("".join(f"{pair[column]}\n" for pair in pairs), encoding="utf-8")


def make_data(directory: Path, corpus: Path, *options: str) -> Path:
    """Make a data directory of the tiny corpus."""
    texts: list[str | Path] = ["--train", corpus / "train", "--valid", corpus / "valid"]
    result = run_in_process(
        *("preprocess", "-s", "num", "-t", "en", *texts, "--data", directory, "--workers", "1", *options)
    )
    assert result.code == 0, result.err
    return directory


def train(nmt: Nmt, data: Path, model: Path, *options: str | Path, shape: tuple[str, ...] = TINY) -> Result:
    """Run `nmt train`; see `trained_well`."""
    return nmt("train", "--data", data, "--model", model, *shape, *options)


def trained_well(nmt: Nmt, data: Path, model: Path, *options: str | Path) -> Path:
    """Run `nmt train` with a tiny model and further options; return the model directory."""
    result = train(nmt, data, model, *options)
    assert result.code == 0, result.err
    assert result.out == b""
    return model


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with train, valid and test, .num and .en: 600, 40 and 40 pairs, all distinct."""
    directory = tmp_path_factory.mktemp("corpus")
    pairs = digits_and_words(680, seed=1)
    for name, part in (("train", pairs[:600]), ("valid", pairs[600:640]), ("test", pairs[640:])):
        write_pairs(directory / name, part)
    return directory


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus's data directory, with a joint vocabulary of about 300 subwords and bytes. Do not write here."""
    return make_data(tmp_path_factory.mktemp("data") / "data-bin", corpus, "--vocab-size", "400")


@pytest.fixture(scope="session")
def other_data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of the same text with two vocabularies of words."""
    options = ("--subword", "word", "--vocab-size", "0", "--separate")
    return make_data(tmp_path_factory.mktemp("data") / "data-words", corpus, *options)


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory from `nmt train` that translates most words. Do not write here; `model` is a copy."""
    directory = tmp_path_factory.mktemp("model") / "model"
    result = run_in_process(
        *("train", "--data", data, "--model", directory, *TINY, "--hidden-size", "32", "--embedding-size", "16"),
        *("--learning-rate", "0.005", "--dropout", "0", "--batch-tokens", "512", "--patience", "0"),
        *("--max-updates", "150", "--validate-every", "50", "--keep", "3"),
    )
    assert result.code == 0, result.err
    return directory


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A directory in which no file can be made: /sys, because permissions do not stop root."""
    place = Path("/sys") if os.geteuid() == 0 else tmp_path / "read-only"
    if place != Path("/sys"):
        place.mkdir(mode=0o555)
    try:
        (place / "probe").mkdir()
    except OSError:
        return place
    (place / "probe").rmdir()
    pytest.skip(f"{place} can be written in")


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained model directory, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def log_of(model: Path, kind: str = "") -> list[dict[str, Any]]:
    """Read the records of a run's log, of one kind or all."""
    records = [json.loads(line) for line in (model / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record for record in records if kind in ("", record["kind"])]


@contextlib.contextmanager
def edited_json(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the object in a JSON file; write its changes back at the end."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content), encoding="utf-8")
