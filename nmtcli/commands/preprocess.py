"""nmt preprocess: raw parallel text -> data directory, in two passes that keep nothing of the corpus in memory.

The first pass counts, hashes and samples; then duplicates are found and the vocabulary is learnt from the sample.
Where nothing of that is needed, there is none. The second pass encodes, drops what is too long or too uneven, and
writes. What was done is saved now and then: a run that was killed goes on there when it is started again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from nmtcli import __version__
from nmtcli.config import PreprocessConfig
from nmtcli.console import Console
from nmtcli.data.clean import CleaningReport, Duplicates, Sample
from nmtcli.data.corpus import HASHES, META, SIDES, DataDirectory
from nmtcli.data.files import sha256_of
from nmtcli.data.parallel import apart, in_order
from nmtcli.data.shards import Encoder, Examiner
from nmtcli.data.subword import UNK, Subword, learn
from nmtcli.data.text import STDIN, PairBlock, paths_of, read_blocks, read_pairs, read_written_lines, write_lines
from nmtcli.data.user_words import Chosen, choose, read_words
from nmtcli.data.writing import ArrayWriter, SentenceWriter, Unfinished, new_data_directory, write_meta
from nmtcli.errors import ConfigError, DataError, DirectoryError, Stopped
from nmtcli.knobs import option_name, option_text

BLOCK = 2000  # pairs that a process does at a time
QUICK = 50  # blocks that the first pass does sooner by itself than other processes start
WITHOUT_INFLUENCE = ("data", "workers", "engine", "ray_address", "overwrite", "append")  # on what is written
FREE = (*WITHOUT_INFLUENCE, "train", "max_length", "max_ratio", "dedup", "drop_empty")  # with --append

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class State:
    """How far a run is.

    Attributes:
        encodes: the first pass is done, or not needed.
        read: pairs of the pass under way.
        blank: of the first pass, pairs with a blank side.
        examined: pairs of the whole first pass.
        words: of the first pass, how often either side holds the words of --user-words.
        user_words: what meta.json says of these.
        report: of the second pass.
        kept: of the second pass, pairs of each training text.
    """

    encodes: bool = False
    read: int = 0
    blank: int = 0
    examined: int | None = None
    words: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    user_words: dict[str, Any] | None = None
    report: dict[str, int] = field(default_factory=lambda: CleaningReport().to_dict())
    kept: list[int] = field(default_factory=list)


def run(config: PreprocessConfig, console: Console) -> None:
    """Makes a data directory of parallel text, or adds to one.

    Raises:
        ConfigError: options that cannot be.
        DataError: text that cannot be used, or of which nothing is left.
        DirectoryError: `--data` is there and may not be replaced, or a given SentencePiece model is no good.
        WorldError: a worker died, or another run writes the same directory.
        Stopped: Ctrl-C or SIGTERM.
    """
    if STDIN in (*config.train, config.valid, *config.test):
        raise ConfigError("the text cannot come from stdin: it is read twice", "Name files")
    old = DataDirectory.open(config.data) if config.append else None
    if old:
        _check_same_options(config, old)
    replaces = config.overwrite or config.append
    with (
        _stops(console),
        new_data_directory(config.data, overwrite=replaces, run=_identity(config, old)) as unfinished,
    ):
        directory = unfinished.directory
        state = State(**unfinished.state)
        if unfinished.state:
            console.say(
                f"Going on in {directory}, at pair {state.read:,} of the {('first', 'second')[state.encodes]} pass"
            )
        valid, tests = (old.meta["valid"], old.meta["test"]) if old else _texts(config, directory)
        if not state.encodes:
            if config.dedup or not (old or config.source_model):
                _first_pass(config, console, unfinished, state, old)
            unfinished.begin_stage()
            if old:
                for name in old.meta["sha256"]:
                    unfinished.take_over(old.path / name)
            state.encodes, state.read, state.kept = True, 0, [0] * len(config.train)
            if not old:
                _vocabularies(config, console, directory, unfinished.work, _chosen_words(config, state))
        subwords = [Subword.load(directory / f"{side}.model") for side in SIDES]
        tokens = _second_pass(config, console, unfinished, state, old, subwords)
        facts = {
            "source_lang": config.source_lang,
            "target_lang": config.target_lang,
            "subword": _subword_option(subwords[0]) if config.source_model else config.subword,
            "joint": subwords[0].sha256 == subwords[1].sha256 if config.source_model else config.joint,
            "vocabulary_sizes": {side: subwords[column].size for column, side in enumerate(SIDES)},
            "pairs": sum(state.kept),
            "corpora": [{"name": prefix, "pairs": kept} for prefix, kept in zip(config.train, state.kept, strict=True)],
            "tokens": tokens,
            "valid": valid,
            "test": tests,
            "user_words": state.user_words,
            "cleaning": state.report,
            "config": _influential(config),
            "appended": [],
        }
        if old:
            facts = _added(old, facts)
        write_meta(directory, facts)
        shares = [
            _unknown_share(directory / f"valid.{side}.txt", subwords[column]) for column, side in enumerate(SIDES)
        ]
    _tell(config, console, state, facts, shares)


def _influential(config: PreprocessConfig) -> dict[str, Any]:
    """The options that decide what is written."""
    return {name: value for name, value in config.to_dict().items() if name not in WITHOUT_INFLUENCE}


def _identity(config: PreprocessConfig, old: DataDirectory | None) -> str:
    """By which a run is known: it gives the same bytes as another with the same, and may go on where that stopped."""
    texts = [path for prefix in (*config.train, *config.test) for path in paths_of(prefix, *_langs(config))]
    texts += paths_of(config.valid, *_langs(config)) if config.valid else ()
    texts += [path for path in (config.source_model, config.target_model, config.user_words) if path]
    files = [(path, status.st_size, status.st_mtime_ns) for path in texts if (status := _status(path))]
    before = sha256_of(old.path / META) if old else ""
    known = [__version__, BLOCK, _influential(config), files, before]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _status(path: str) -> os.stat_result | None:
    return os.stat(path) if os.path.exists(path) else None


def _langs(config: PreprocessConfig) -> tuple[str, str]:
    return config.source_lang, config.target_lang


def _check_same_options(config: PreprocessConfig, old: DataDirectory) -> None:
    """With --append languages, vocabularies and texts are those of the directory.

    Raises:
        ConfigError: an option says otherwise.
        DirectoryError: duplicates are to be found among pairs whose hashes are not there.
    """
    stored, defaults = old.meta.get("config"), _defaults()
    stored = {**defaults, **(stored if isinstance(stored, dict) else {})}
    stored |= {"source_lang": old.source_lang, "target_lang": old.target_lang}
    for name, value in _influential(config).items():
        if name not in FREE and value not in (stored[name], defaults[name]):
            raise ConfigError(
                f"--append keeps what {config.data} has, which is {option_text(name, stored[name])}, but now "
                f"{option_name(name)} is {value}",
                "Leave it out",
            )
    if config.dedup and not (old.path / HASHES).exists():
        raise DirectoryError(
            f"{config.data} was made without --dedup, so that its pairs are not known any more",
            "Leave --dedup out, or run nmt preprocess again with all texts",
        )


def _defaults() -> dict[str, Any]:
    """The defaults of all options, as JSON has them; no languages."""
    return {
        config_field.name: list(config_field.default) if config_field.default == () else config_field.default
        for config_field in dataclasses.fields(PreprocessConfig)
    }


def _added(old: DataDirectory, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a directory with more pairs."""
    meta = old.meta
    cleaning = {rule: meta["cleaning"].get(rule, 0) + count for rule, count in facts["cleaning"].items()}
    kept = {name: meta[name] for name in ("subword", "joint", "user_words", "config")}
    return (
        facts
        | kept
        | {
            "pairs": meta["pairs"] + facts["pairs"],
            "corpora": [*old.corpora, *facts["corpora"]],
            "cleaning": cleaning,
            "appended": [*meta.get("appended", []), facts["config"]],
        }
    )


def _subword_option(subword: Subword) -> str:
    """What --subword would give such a model."""
    return "none" if subword.kind == "word" and not subword.joins else subword.kind


def _texts(config: PreprocessConfig, directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Copies validation and test texts as they are; gives their entries in meta.json."""
    valid = _keep_text(config.valid, "valid", config, directory)
    return valid, [
        _keep_text(prefix, f"test.{1 + index}", config, directory) for index, prefix in enumerate(config.test)
    ]


def _keep_text(prefix: str, name: str, config: PreprocessConfig, directory: Path) -> dict[str, Any]:
    pairs = 0
    for column, side in enumerate(SIDES):
        lines = (pair[column] for pair in read_pairs(prefix, *_langs(config)))
        pairs = write_lines(directory / f"{name}.{side}.txt", lines)
    if not pairs:
        raise DataError(f"{prefix} has no lines", "Name a text with lines")
    return {"name": prefix, "pairs": pairs}


def _blocks(config: PreprocessConfig, after: int) -> Iterator[tuple[int, PairBlock]]:
    """The training text in blocks, with the number of the text that each is of, after so many pairs (whole blocks)."""
    read = 0
    for text, prefix in enumerate(config.train):
        for block in read_blocks(prefix, *_langs(config), BLOCK):
            read += block.count
            if read > after:
                yield text, block


def _spread(
    function: Callable[[Item], Result], items: Iterable[Item], config: PreprocessConfig, *, alone: int
) -> Generator[Result, None, None]:
    """What the function makes of each item, in order: on a cluster, in processes, or here if there are few items.

    Args:
        alone: so many items are done here.
    """
    if config.engine == "ray":
        from nmtcli.data.cluster import in_order_on_ray

        return in_order_on_ray(function, items, config.workers, config.ray_address)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = config.workers or cores
    items = iter(items)
    first = list(itertools.islice(items, max(processes, alone + 1)))
    items = itertools.chain(first, items)
    if processes == 1 or len(first) <= alone:
        return (function(item) for item in items)
    return in_order(function, items, min(processes, len(first)))


def _first_pass(
    config: PreprocessConfig, console: Console, unfinished: Unfinished, state: State, old: DataDirectory | None
) -> None:
    """Writes a sample to learn from, counts words, and finds duplicates, as far as they are asked for."""
    words, unusable = read_words(config.user_words) if config.user_words else ([], 0)
    sample = Sample(config.sentences_for_vocab)
    candidates = unfinished.growing("work/candidates")
    with candidates.path.open(encoding="utf-8") as file:
        for line in file:
            digest, source, target = json.loads(line)
            sample.offer(source, target, bytes.fromhex(digest))
    duplicates = Duplicates(hashes := unfinished.growing("work/hashes"), unfinished.work)
    before = old.meta["pairs"] if old and config.dedup else 0
    if old and before and not hashes.size:
        duplicates.add(np.load(old.path / HASHES, mmap_mode="r"), np.arange(before))
    blocks = ((block, 0 if old or config.source_model else sample.below) for _, block in _blocks(config, state.read))
    examined = _spread(Examiner(words), blocks, config, alone=QUICK)
    with console.bar("Reading") as bar, closing(examined):
        for block in examined:
            for digest, source, target in block.candidates:
                if sample.offer(source, target, digest):
                    line = json.dumps((digest.hex(), source, target))
                    candidates.write(f"{line}\n".encode())
            for total, counts in zip(state.words, block.words, strict=True):
                for word, count in counts.items():
                    total[word] = total.get(word, 0) + count
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


def _chosen_words(config: PreprocessConfig, state: State) -> list[Chosen]:
    """The words of --user-words that become pieces, of each side; none without the option."""
    if state.user_words is None:
        return [Chosen([], 0, 0) for _ in SIDES]
    counts = [Counter(counts) for counts in state.words]
    if config.joint:
        counts = [Counter({word: counts[0][word] + counts[1][word] for word in counts[0]})] * 2
    chosen = [choose(one, at_least=config.user_words_min, most=config.vocab_size // 2) for one in counts]
    for side, one in zip(SIDES, chosen, strict=True):
        state.user_words[side] = {"pieces": len(one.words), "rare": one.rare, "beyond": one.beyond}
    state.words = [{}, {}]
    return chosen


def _vocabularies(
    config: PreprocessConfig, console: Console, directory: Path, work: Path, chosen: Sequence[Chosen]
) -> None:
    """Puts source.model and target.model into the directory, copied or learnt."""
    paths = [directory / f"{side}.model" for side in SIDES]
    samples = [work / f"sample.{side}.txt" for side in SIDES]
    langs = _langs(config)
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
    if not config.source_model:
        for lang, path in zip((" and ".join(langs),) if config.joint else langs, paths, strict=False):
            if (size := Subword.load(path).size) < config.vocab_size:
                sizes = f"{size:,} pieces instead of {config.vocab_size:,}"
                console.say(f"Note: the vocabulary of {lang} has {sizes}: the text holds no more")


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
    unfinished: Unfinished,
    state: State,
    old: DataDirectory | None,
    subwords: Sequence[Subword],
) -> dict[str, int]:
    """Encodes and writes the pairs that are kept, in their order.

    Returns:
        the tokens of either side, those that were there before included [tokens].
    """
    hashing = (old.path / HASHES).exists() if old else config.dedup
    writers = [
        SentenceWriter(unfinished.growing, side, subword.size) for side, subword in zip(SIDES, subwords, strict=True)
    ]
    hashes = ArrayWriter(unfinished.growing(HASHES), np.dtype("<u8")) if hashing else None
    unfinished.save(dataclasses.asdict(state))
    for name in ("hashes", "candidates"):
        (unfinished.work / name).unlink(missing_ok=True)
    flags = np.load(unfinished.work / "duplicates.npy", mmap_mode="r") if config.dedup else None
    before = old.meta["pairs"] if old else 0
    texts: deque[int] = deque()  # of the blocks under way

    def blocks() -> Iterator[tuple[PairBlock, Any]]:
        place = before + state.read
        for text, block in _blocks(config, state.read):
            texts.append(text)
            repeats = flags[place : place + block.count] if flags is not None else None
            yield block, None if repeats is None else np.array(repeats)
            place += block.count

    report = CleaningReport(**state.report)
    encoder = Encoder(
        subwords[0], subwords[1], max_length=config.max_length, max_ratio=config.max_ratio, hashing=hashing
    )
    encoded = _spread(encoder, blocks(), config, alone=1)
    with console.bar("Encoding") as bar, closing(encoded):
        for block in encoded:
            for rule, count in block.dropped.items():
                setattr(report, rule, getattr(report, rule) + count)
            for writer, sentences in zip(writers, (block.source, block.target), strict=True):
                writer.append(sentences.tokens, sentences.lengths)
            if hashes:
                hashes.append(block.hashes)
            kept = len(block.source.lengths)
            report.read, report.kept = report.read + block.pairs, report.kept + kept
            state.kept[texts.popleft()] += kept
            state.read, state.report = report.read, report.to_dict()
            bar.update(completed=state.read, total=state.examined)
            if unfinished.is_due:
                unfinished.save(dataclasses.asdict(state))
    for writer in writers:
        writer.close()
    if hashes:
        hashes.close()
    if state.examined is not None and state.read != state.examined:
        raise DataError(
            f"the training text had {state.examined:,} pairs, then {state.read:,}", "Do not change it meanwhile"
        )
    if not report.kept:
        _refuse_nothing(report)
    return {side: writer.tokens for side, writer in zip(SIDES, writers, strict=True)}


@contextmanager
def _stops(console: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in one line; and what is kept of a run that fails is said.

    Raises:
        Stopped: it was one of them.
    """

    def stop(*_: object) -> NoReturn:
        raise Stopped(signal.SIGTERM, "Terminated")

    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except BaseException as error:
        kept = getattr(error, "__notes__", [])
        for note in kept:
            console.say(note)
        if isinstance(error, (KeyboardInterrupt, Stopped)):
            number = signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT
            word = "Terminated" if isinstance(error, Stopped) else "Interrupted"
            raise Stopped(number, word if kept else f"{word}; nothing was written") from None
        raise
    finally:
        if is_main:
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


def _tell(
    config: PreprocessConfig, console: Console, state: State, facts: dict[str, Any], unknown_shares: list[float]
) -> None:
    """Says what was read, what was dropped, and what is left."""
    names = {"read": "pairs read", "too_long": "too long"}
    for name, count in state.report.items():
        console.say(f"{names.get(name, name):<12}{count:>14,}")
    if words := state.user_words:
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
