"""The two passes of `nmt preprocess` over the training text; each can resume after any block of pairs."""

import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from nmtcli.config import PreprocessConfig
from nmtcli.console import Console
from nmtcli.data.clean import CleaningReport, Duplicates, Sample
from nmtcli.data.corpus import HASHES, SIDES, DataDirectory
from nmtcli.data.files import open_to_read, remove_file
from nmtcli.data.parallel import cores, in_order
from nmtcli.data.shards import Encoded, Encoder, Examiner
from nmtcli.data.subword import Subword
from nmtcli.data.text import PairBlock, read_blocks, write_lines
from nmtcli.data.user_words import read_words
from nmtcli.data.writing import ArrayWriter, SentenceWriter, Unfinished
from nmtcli.errors import DataError

PAIRS_AT_ONCE = 2000  # maximum size of a block, the unit of work of a process [pairs]
HASHES_AT_ONCE = 1 << 17  # hashes read at a time [pairs]
QUICK = 50  # number of blocks that the first pass reads in less time than worker processes take to start

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class PassState:
    """Progress of a run of `nmt preprocess`, saved so that the run can resume.

    Attributes:
        encodes: False in the first pass, True in the second pass.
        read: number of pairs read in the current pass.
        blank: number of pairs with a blank side, counted in the first pass.
        examined: total number of pairs; None until the first pass is completed, or if it was skipped.
        words: number of occurrences of each word of --user-words in the source and in the target (first pass).
        user_words: the entry `user_words` of meta.json.
        report: numbers of pairs read, dropped by each rule, and kept in the second pass (see `CleaningReport`).
        kept: number of pairs kept from each training text in the second pass.
    """

    encodes: bool = False
    read: int = 0
    blank: int = 0
    examined: int | None = None
    words: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    user_words: dict[str, Any] | None = None
    report: dict[str, int] = field(default_factory=lambda: CleaningReport().to_dict())
    kept: list[int] = field(default_factory=list)


def _blocks(config: PreprocessConfig, after: int) -> Iterator[tuple[int, PairBlock]]:
    """Yield (index of the training text, block) for each block after the first `after` pairs."""
    read = 0
    for text, prefix in enumerate(config.train):
        for block in read_blocks(prefix, config.source_lang, config.target_lang, PAIRS_AT_ONCE):
            read += block.count
            if read > after:
                yield text, block


def _spread(
    function: Callable[[Item], Result], items: Iterable[Item], config: PreprocessConfig, *, alone: int
) -> Generator[Result, None, None]:
    """Yield the function's result for each item, in order, computed on a Ray cluster, in workers or in this process.

    Args:
        alone: maximum number of items that this process handles itself, without starting workers (ignored with Ray).
    """
    if config.engine == "ray":
        from nmtcli.data.cluster import in_order_on_ray

        return in_order_on_ray(function, items, config.workers, config.ray_address)
    processes = config.workers or cores()
    items = iter(items)
    first = list(itertools.islice(items, max(processes, alone + 1)))
    items = itertools.chain(first, items)
    if processes == 1 or len(first) <= alone:
        return (function(item) for item in items)
    return in_order(function, items, min(processes, len(first)))


def first_pass(
    config: PreprocessConfig, console: Console, unfinished: Unfinished, state: PassState, old: DataDirectory | None
) -> None:
    """Sample pairs for learning the vocabulary, count user words and find duplicates, as the options require.

    Args:
        state: the progress so far; updated in place.
        old: the data directory that --append extends; None if the data directory is new.

    Raises:
        DataError: the text or the word list is invalid, or all pairs have a blank side.
    """
    words, unusable = read_words(config.user_words) if config.user_words else ([], 0)
    candidates = unfinished.growing("work/candidates")
    sample = _sample_from(candidates.path, config.sentences_for_vocab)
    duplicates = Duplicates(hashes := unfinished.growing("work/hashes"), unfinished.work)
    before = old.meta["pairs"] if old and config.dedup else 0
    if old and before and not hashes.size:
        _add_known(duplicates, old)
    blocks = ((block, 0 if old or config.source_model else sample.below) for _, block in _blocks(config, state.read))
    examined = _spread(Examiner(words), blocks, config, alone=QUICK)
    with console.bar("Reading") as bar, closing(examined):
        for block in examined:
            for digest, source, target in block.candidates:
                if sample.offer(source, target, digest):
                    line = json.dumps((digest.hex(), source, target))
                    candidates.write(f"{line}\n".encode())
            _add_counts(state.words, block.words)
            if config.dedup:
                duplicates.add(block.hashes, before + state.read + block.numbers)
            state.read += block.pairs
            state.blank += block.pairs - len(block.numbers)
            bar.update(completed=state.read)
            if unfinished.is_due:
                unfinished.save(dataclasses.asdict(state))
    if state.read == state.blank:
        _refuse_nothing(CleaningReport(read=state.read, empty=state.blank))
    state.examined = state.read
    if words:
        state.user_words = {"read": len(words) + unusable, "unusable": unusable}
        state.words = [{word: counts.get(word, 0) for word in words} for counts in state.words]
    if config.dedup:
        duplicates.find(before + state.read)
    pairs = sample.pairs()
    for column, side in enumerate(SIDES):
        write_lines(unfinished.work / f"sample.{side}.txt", (pair[column] for pair in pairs))


def _sample_from(path: Path, size: int) -> Sample:
    """Restore the sample, of at most `size` pairs, from the candidates saved in a file."""
    sample = Sample(size)
    with open_to_read(path) as file:
        for line in file:
            digest, source, target = json.loads(line)
            sample.offer(source, target, bytes.fromhex(digest))
    return sample


def _add_counts(totals: Sequence[dict[str, int]], counts: Sequence[Mapping[str, int]]) -> None:
    """Add the word counts of a block to the totals, for the source and for the target."""
    for total, of_block in zip(totals, counts, strict=True):
        for word, count in of_block.items():
            total[word] = total.get(word, 0) + count


def _add_known(duplicates: Duplicates, old: DataDirectory) -> None:
    """Add the hashes of the pairs in an existing data directory to `duplicates`."""
    known = np.load(old.path / HASHES, mmap_mode="r", allow_pickle=False)
    pairs = old.meta["pairs"]
    for start in range(0, pairs, HASHES_AT_ONCE):
        numbers = np.arange(start, min(start + HASHES_AT_ONCE, pairs))
        duplicates.add(known[2 * start : 2 * (start + len(numbers))], numbers)


class _PairWriter:
    """A writer for both sides of the training pairs and, if `hashing` is True, for their hashes."""

    def __init__(self, unfinished: Unfinished, subwords: Sequence[Subword], *, hashing: bool) -> None:
        self._sides = [
            SentenceWriter(unfinished.growing, side, subword.size)
            for side, subword in zip(SIDES, subwords, strict=True)
        ]
        self._hashes = ArrayWriter(unfinished.growing(HASHES), np.dtype("<u8")) if hashing else None

    def append(self, block: Encoded) -> None:
        """Write the kept pairs of a block."""
        for writer, sentences in zip(self._sides, (block.source, block.target), strict=True):
            writer.append(sentences.tokens, sentences.lengths)
        if self._hashes:
            self._hashes.append(block.hashes)

    def close(self) -> dict[str, int]:
        """Write the final headers and close the files; return the number of tokens on each side."""
        for writer in self._sides:
            writer.close()
        if self._hashes:
            self._hashes.close()
        return {side: writer.tokens for side, writer in zip(SIDES, self._sides, strict=True)}


def second_pass(
    config: PreprocessConfig,
    console: Console,
    unfinished: Unfinished,
    state: PassState,
    old: DataDirectory | None,
    subwords: Sequence[Subword],
) -> dict[str, int]:
    """Encode the pairs, clean them, and write the kept pairs in their original order.

    Args:
        state, old: as for `first_pass`.

    Returns:
        number of tokens on each side, including the tokens already in `old` [tokens].

    Raises:
        DataError: the text is invalid or was changed during the run, or no pair is kept.
    """
    hashing = (old.path / HASHES).exists() if old else config.dedup
    writer = _PairWriter(unfinished, subwords, hashing=hashing)
    unfinished.save(dataclasses.asdict(state))
    for name in ("hashes", "candidates"):
        remove_file(unfinished.work / name, missing_ok=True)
    flags = np.load(unfinished.work / "duplicates.npy", mmap_mode="r", allow_pickle=False) if config.dedup else None
    texts: deque[int] = deque()  # index of the training text of each block in progress
    place = (old.meta["pairs"] if old else 0) + state.read
    blocks = _with_repeats(_blocks(config, state.read), flags, place, texts)
    encoder = Encoder(
        subwords[0], subwords[1], max_length=config.max_length, max_ratio=config.max_ratio, hashing=hashing
    )
    report = CleaningReport(**state.report)
    encoded = _spread(encoder, blocks, config, alone=1)
    with console.bar("Encoding") as bar, closing(encoded):
        for block in encoded:
            for rule, count in block.dropped.items():
                setattr(report, rule, getattr(report, rule) + count)
            writer.append(block)
            kept = len(block.source.lengths)
            report.read, report.kept = report.read + block.pairs, report.kept + kept
            state.kept[texts.popleft()] += kept
            state.read, state.report = report.read, report.to_dict()
            bar.update(completed=state.read, total=state.examined)
            if unfinished.is_due:
                unfinished.save(dataclasses.asdict(state))
    tokens = writer.close()
    if state.examined is not None and state.read != state.examined:
        raise DataError(
            f"the training text changed during the run, from {state.examined:,} to {state.read:,} pairs",
            "Run again, and do not change it meanwhile",
        )
    if not report.kept:
        _refuse_nothing(report)
    return tokens


def _with_repeats(
    blocks: Iterable[tuple[int, PairBlock]], flags: npt.NDArray[np.bool_] | None, place: int, texts: deque[int]
) -> Iterator[tuple[PairBlock, npt.NDArray[np.bool_] | None]]:
    """Yield each block with the duplicate flags of its pairs, for `Encoder`.

    Args:
        flags: a flag for each pair, True for a duplicate; None if duplicates are kept.
        place: position in `flags` of the first pair of the first block.
        texts: queue to which the index of each block's training text is appended.
    """
    for text, block in blocks:
        texts.append(text)
        yield block, None if flags is None else np.array(flags[place : place + block.count])
        place += block.count


def _refuse_nothing(report: CleaningReport) -> NoReturn:
    dropped = ", ".join(f"{name} {count:,}" for name, count in report.to_dict().items() if count and name != "read")
    if not report.read:
        raise DataError("the training text has no lines", "Check --train")
    raise DataError(
        f"none of {report.read:,} training pairs is left ({dropped})", "Check the text, --max-length and --max-ratio"
    )
