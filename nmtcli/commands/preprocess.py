"""nmt preprocess: raw parallel text -> data directory, in two passes that keep nothing of the corpus in memory.

The first pass counts, hashes and samples; then duplicates are found and the vocabulary is learnt from the sample. The
second pass encodes, drops what is too long or too uneven, and writes.
"""

import itertools
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from nmtcli.config import PreprocessConfig
from nmtcli.console import Console
from nmtcli.data.clean import CleaningReport, Duplicates, Sample, dropping_rule, is_empty_pair, pair_hash
from nmtcli.data.corpus import SIDES, SentenceWriter, new_data_directory, token_dtype, write_meta
from nmtcli.data.parallel import apart, in_order
from nmtcli.data.subword import UNK, Subword, learn
from nmtcli.data.text import STDIN, read_pairs, read_written_lines, write_lines
from nmtcli.data.user_words import Chosen, WordCounter, choose, read_words
from nmtcli.errors import ConfigError, DataError, Stopped

CHUNK = 2000  # pairs that a worker encodes at a time
SHOW_EVERY = 10_000  # pairs between two moves of the bar
WITHOUT_INFLUENCE = ("data", "workers", "overwrite")  # options that do not change what is written

Pair = tuple[str, str]


def run(config: PreprocessConfig, console: Console) -> None:
    """Makes a data directory of parallel text.

    Raises:
        ConfigError: options that cannot be.
        DataError: text that cannot be used, or of which nothing is left.
        DirectoryError: `--data` is there and may not be replaced, or a given SentencePiece model is no good.
        WorldError: a worker died, or another run writes the same directory.
        Stopped: SIGTERM; nothing is left behind.
    """
    if STDIN in (*config.train, config.valid, *config.test):
        raise ConfigError("the text cannot come from stdin: it is read twice", "Name files")
    with _stopped_by_sigterm(), new_data_directory(config.data, overwrite=config.overwrite) as directory:
        valid = _keep_text(config.valid, "valid", config, directory)
        tests = [_keep_text(prefix, f"test.{1 + index}", config, directory) for index, prefix in enumerate(config.test)]

        work = directory / "work"
        work.mkdir()
        words, unusable = read_words(config.user_words) if config.user_words else ([], 0)
        counters = [WordCounter(words) for _ in SIDES] if words else []
        report, is_duplicate = _first_pass(config, console, work, counters)
        chosen = _chosen_words(config, counters)
        subwords = _vocabularies(config, console, directory, work, chosen)
        writers = [SentenceWriter(directory, side, subwords[column].size) for column, side in enumerate(SIDES)]
        _second_pass(config, console, report, is_duplicate, subwords, writers)
        shutil.rmtree(work)

        facts = {
            "source_lang": config.source_lang,
            "target_lang": config.target_lang,
            "subword": _subword_option(subwords[0]) if config.source_model else config.subword,
            "joint": subwords[0].sha256 == subwords[1].sha256 if config.source_model else config.joint,
            "vocabulary_sizes": {side: subwords[column].size for column, side in enumerate(SIDES)},
            "pairs": report.kept,
            "tokens": {side: writers[column].tokens for column, side in enumerate(SIDES)},
            "valid": valid,
            "test": tests,
            "user_words": _words_report(len(words), unusable, chosen) if words else None,
            "cleaning": report.to_dict(),
            "config": {name: value for name, value in config.to_dict().items() if name not in WITHOUT_INFLUENCE},
        }
        write_meta(directory, facts)
        shares = [
            _unknown_share(directory / f"valid.{side}.txt", subwords[column]) for column, side in enumerate(SIDES)
        ]
    _tell(config, console, facts, shares)


def _subword_option(subword: Subword) -> str:
    """What --subword would give such a model."""
    return "none" if subword.kind == "word" and not subword.joins else subword.kind


def _keep_text(prefix: str, name: str, config: PreprocessConfig, directory: Path) -> dict[str, Any]:
    """Copies validation or test text as it is; gives its entry in meta.json."""
    pairs = 0
    for column, side in enumerate(SIDES):
        lines = (pair[column] for pair in read_pairs(prefix, config.source_lang, config.target_lang))
        pairs = write_lines(directory / f"{name}.{side}.txt", lines)
    if not pairs:
        raise DataError(f"{prefix} has no lines", "Name a text with lines")
    return {"name": prefix, "pairs": pairs}


def _training_pairs(config: PreprocessConfig) -> Iterator[Pair]:
    for prefix in config.train:
        yield from read_pairs(prefix, config.source_lang, config.target_lang)


def _first_pass(
    config: PreprocessConfig, console: Console, work: Path, counters: Sequence[WordCounter]
) -> tuple[CleaningReport, Iterable[bool]]:
    """Counts pairs and words, writes a sample to learn from, and finds duplicates.

    Returns:
        The report so far; and for each pair whether it came before.
    """
    report = CleaningReport()
    sample = Sample(config.sentences_for_vocab)
    duplicates = Duplicates(work)
    with console.bar("Reading") as bar:
        for number, (source, target) in enumerate(_training_pairs(config)):
            report.read += 1
            if report.read % SHOW_EVERY == 0:
                bar.update(completed=report.read)
            if is_empty_pair(source, target):
                report.empty += 1
                continue
            digest = pair_hash(source, target)
            sample.offer(source, target, digest)
            for counter, text in zip(counters, (source, target), strict=False):
                counter.add(text)
            if config.dedup:
                duplicates.add(digest, number)
    if report.read == report.empty:
        _refuse_nothing(report)
    pairs = sample.pairs()
    for column, side in enumerate(SIDES):
        write_lines(work / f"sample.{side}.txt", (pair[column] for pair in pairs))
    return report, duplicates.find(report.read) if config.dedup else itertools.repeat(False)


def _chosen_words(config: PreprocessConfig, counters: Sequence[WordCounter]) -> list[Chosen]:
    """The words of --user-words that become pieces, of each side; none without the option."""
    if not counters:
        return [Chosen([], 0, 0) for _ in SIDES]
    counts = [counter.counts for counter in counters]
    if config.joint:
        counts = [Counter({word: counts[0][word] + counts[1][word] for word in counts[0]})] * 2
    return [choose(one, at_least=config.user_words_min, most=config.vocab_size // 2) for one in counts]


def _words_report(read: int, unusable: int, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """What meta.json says of --user-words."""
    sides = {
        side: {"pieces": len(one.words), "rare": one.rare, "beyond": one.beyond}
        for side, one in zip(SIDES, chosen, strict=True)
    }
    return {"read": read + unusable, "unusable": unusable, **sides}


def _vocabularies(
    config: PreprocessConfig, console: Console, directory: Path, work: Path, chosen: Sequence[Chosen]
) -> tuple[Subword, Subword]:
    """Puts source.model and target.model into the directory, copied or learnt."""
    paths = [directory / f"{side}.model" for side in SIDES]
    samples = [work / f"sample.{side}.txt" for side in SIDES]
    langs = (config.source_lang, config.target_lang)
    if config.source_model:
        for given, path in zip((config.source_model, config.target_model), paths, strict=True):
            Subword.load(given)  # refuses what is not one, by the name that the user gave
            shutil.copyfile(given, path)
    elif config.joint:
        console.say(f"Learning a vocabulary of {' and '.join(langs)}")
        _learn_apart(samples, paths[0], config, chosen[0].words)
        shutil.copyfile(paths[0], paths[1])
    else:
        for lang, sample, path, words in zip(langs, samples, paths, chosen, strict=True):
            console.say(f"Learning a vocabulary of {lang}")
            _learn_apart([sample], path, config, words.words)
    source, target = (Subword.load(path) for path in paths)
    if not config.source_model:
        for lang, subword in zip((" and ".join(langs),) if config.joint else langs, (source, target), strict=False):
            if subword.size < config.vocab_size:
                sizes = f"{subword.size:,} pieces instead of {config.vocab_size:,}"
                console.say(f"Note: the vocabulary of {lang} has {sizes}: the text holds no more")
    return source, target


def _learn_apart(samples: list[Path], path: Path, config: PreprocessConfig, words: list[str]) -> None:
    """Learns in a process of its own, so that its memory does not stay."""
    apart(_learn_from_files, (samples, path, config, words))


def _learn_from_files(item: tuple[list[Path], Path, PreprocessConfig, list[str]]) -> None:
    samples, path, config, words = item
    learn(
        itertools.chain.from_iterable(read_written_lines(sample) for sample in samples),
        path,
        kind=config.subword,
        vocab_size=config.vocab_size,
        normalization=config.normalization,
        character_coverage=config.character_coverage,
        user_words=words,
    )


def _second_pass(
    config: PreprocessConfig,
    console: Console,
    report: CleaningReport,
    is_duplicate: Iterable[bool],
    subwords: tuple[Subword, Subword],
    writers: list[SentenceWriter],
) -> None:
    """Encodes and writes the pairs that are kept, in their order, and completes the report."""
    encoder = Encoder(*subwords, max_length=config.max_length, max_ratio=config.max_ratio)
    chunks = _chunks(_candidates(config, report, is_duplicate))
    processes = _process_count(config.workers, report.read)
    encoded = in_order(encoder, chunks, processes) if processes > 1 else (encoder(chunk) for chunk in chunks)
    with console.bar("Encoding") as bar, closing(encoded):
        for chunk in encoded:
            for rule, count in chunk.dropped.items():
                setattr(report, rule, getattr(report, rule) + count)
            for writer, sentences in zip(writers, (chunk.source, chunk.target), strict=True):
                writer.append(sentences.tokens, sentences.lengths)
            report.kept += len(chunk.source.lengths)
            bar.update(completed=report.kept, total=report.read)
    for writer in writers:
        writer.close()
    if not report.kept:
        _refuse_nothing(report)


def _candidates(config: PreprocessConfig, report: CleaningReport, is_duplicate: Iterable[bool]) -> Iterator[Pair]:
    """The pairs that are neither empty nor a duplicate."""
    read = 0
    for (source, target), came_before in zip(_training_pairs(config), is_duplicate, strict=False):
        read += 1
        if is_empty_pair(source, target):
            continue
        if came_before:
            report.duplicate += 1
            continue
        yield source, target
    if read != report.read:
        raise DataError(f"the training text had {report.read:,} pairs, then {read:,}", "Do not change it meanwhile")


@dataclass(frozen=True, slots=True)
class Sentences:
    """One side of some pairs: their ids one after the other, and how many each has, EOS counted [tokens]."""

    tokens: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """What is kept of some pairs, and how many pairs each rule dropped."""

    source: Sentences
    target: Sentences
    dropped: Counter[str]


@dataclass(frozen=True, slots=True)
class Encoder:
    """Text -> ids, and the rules that count tokens."""

    source: Subword
    target: Subword
    max_length: int
    max_ratio: float

    def __call__(self, pairs: list[Pair]) -> EncodedChunk:
        dropped: Counter[str] = Counter()
        sources, targets = [], []
        source_ids = self.source.encode_many([source for source, _ in pairs])
        target_ids = self.target.encode_many([target for _, target in pairs])
        for source, target in zip(source_ids, target_ids, strict=True):
            rule = dropping_rule(len(source) - 1, len(target) - 1, max_length=self.max_length, max_ratio=self.max_ratio)
            if rule:
                dropped[rule] += 1
            else:
                sources.append(source)
                targets.append(target)
        return EncodedChunk(_packed(sources, self.source.size), _packed(targets, self.target.size), dropped)


def _packed(sentences: list[list[int]], vocabulary_size: int) -> Sentences:
    tokens = np.fromiter(itertools.chain.from_iterable(sentences), dtype=token_dtype(vocabulary_size))
    return Sentences(tokens, np.fromiter(map(len, sentences), dtype=np.int64))


def _chunks(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    while chunk := list(itertools.islice(pairs, CHUNK)):
        yield chunk


def _process_count(workers: int, pairs: int) -> int:
    """How many processes encode: no more than have a chunk to do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(workers or cores, -(-pairs // CHUNK))


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises in the main thread, so that what was begun is removed."""

    def stop(*_: object) -> NoReturn:
        raise Stopped(signal.SIGTERM, "Terminated; nothing was written")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _refuse_nothing(report: CleaningReport) -> NoReturn:
    dropped = ", ".join(f"{name} {count:,}" for name, count in report.to_dict().items() if count and name != "read")
    if not report.read:
        raise DataError("the training text has no lines", "Check --train")
    raise DataError(f"none of {report.read:,} training pairs is left ({dropped})", "Check the text and the limits")


def _unknown_share(path: Path, subword: Subword) -> float:
    """The share of a text's tokens that are <unk>, EOS not counted. Only words can be unknown."""
    if subword.kind != "word":
        return 0.0
    unknown = tokens = 0
    for line in read_written_lines(path):
        ids = subword.encode(line)
        unknown += ids.count(UNK)
        tokens += len(ids) - 1
    return unknown / max(tokens, 1)


def _tell(config: PreprocessConfig, console: Console, facts: dict[str, Any], unknown_shares: list[float]) -> None:
    """Says what was read, what was dropped, and what is left."""
    names = {"read": "pairs read", "too_long": "too long"}
    for name, count in facts["cleaning"].items():
        console.say(f"{names.get(name, name):<12}{count:>14,}")
    if words := facts["user_words"]:
        console.say(f"{words['read']:,} user words, {words['unusable']:,} of them cannot be pieces")
        for side, lang in zip(SIDES, (config.source_lang, config.target_lang), strict=True):
            counts = words[side]
            console.say(
                f"    {lang}: {counts['pieces']:,} are pieces; left out {counts['rare']:,} that come fewer than "
                f"{config.user_words_min:,} times, {counts['beyond']:,} beyond half the vocabulary"
            )
    console.say(f"{'':<12}{'tokens':>14}{'mean length':>14}{'vocabulary':>14}")
    for side, lang in zip(SIDES, (config.source_lang, config.target_lang), strict=True):
        tokens, vocabulary = facts["tokens"][side], facts["vocabulary_sizes"][side]
        console.say(f"{lang:<12}{tokens:>14,}{tokens / facts['pairs']:>14.1f}{vocabulary:>14,}")
    for share, lang in zip(unknown_shares, (config.source_lang, config.target_lang), strict=True):
        if share:
            console.say(f"Note: {share:.1%} of the words of {config.valid}.{lang} are not in the vocabulary")
    console.say(f"Wrote {config.data}; go on with nmt train")
