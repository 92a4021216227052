"""nmt preprocess: make a data directory from raw parallel text, in two passes that do not hold the corpus in memory.

The first pass counts user words, hashes the pairs and draws a sample; then duplicates are found and the vocabulary is
learnt from the sample. The first pass is skipped if none of this is needed. The second pass encodes the pairs, drops
some by the rules of clean.py, and writes the rest. Progress is saved regularly: a killed run resumes from its last save
when it is started again.
"""

import hashlib
import itertools
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from nmtcli import __version__
from nmtcli.commands import passes
from nmtcli.commands.append import added, check_same_options, influential
from nmtcli.commands.passes import PassState, first_pass, second_pass
from nmtcli.config import PreprocessConfig
from nmtcli.console import Console
from nmtcli.data.corpus import META, SIDES, DataDirectory
from nmtcli.data.files import copy_whole, sha256_of
from nmtcli.data.parallel import apart
from nmtcli.data.subword import UNK, Subword, learn
from nmtcli.data.text import STDIN, paths_of, read_pairs, read_written_lines, write_lines
from nmtcli.data.user_words import Chosen, choose
from nmtcli.data.writing import new_data_directory, write_meta
from nmtcli.errors import ConfigError, DataError, Stopped


def run(config: PreprocessConfig, console: Console) -> None:
    """Make a data directory from parallel text, or append to an existing one.

    Raises:
        ConfigError: the options are invalid.
        DataError: the text is invalid, or no pair is left after cleaning.
        DirectoryError: `--data` exists and may not be replaced, or a given SentencePiece model is invalid.
        WorldError: a worker died, or another run is writing the same directory.
        Stopped: Ctrl-C or SIGTERM.
    """
    if STDIN in (*config.train, config.valid, *config.test):
        raise ConfigError("the text cannot come from stdin, because it is read twice", "Name files")
    old = DataDirectory.open(config.data) if config.append else None
    if old:
        check_same_options(config, old)
    replaces = config.overwrite or config.append
    with (
        _stops(console),
        new_data_directory(config.data, overwrite=replaces, run=_identity(config, old)) as unfinished,
    ):
        directory = unfinished.directory
        state = PassState(**unfinished.state)
        if unfinished.state:
            console.info(
                f"Resuming in {directory}, at pair {state.read:,} of the {('first', 'second')[state.encodes]} pass"
            )
        valid, tests = (old.meta["valid"], old.meta["test"]) if old else _texts(config, directory)
        if not state.encodes:
            if config.dedup or not (old or config.source_model):
                first_pass(config, console, unfinished, state, old)
            unfinished.begin_stage()
            if old:
                for name in old.meta["sha256"]:
                    unfinished.take_over(old.path / name)
            state.encodes, state.read, state.kept = True, 0, [0] * len(config.train)
            if not old:
                _vocabularies(config, console, directory, unfinished.work, _chosen_words(config, state))
        subwords = [Subword.load(directory / f"{side}.model") for side in SIDES]
        tokens = second_pass(config, console, unfinished, state, old, subwords)
        facts = _facts(config, state, subwords) | {"tokens": tokens, "valid": valid, "test": tests}
        if old:
            facts = added(old, facts)
        write_meta(directory, facts)
        shares = [
            _unknown_share(directory / f"valid.{side}.txt", subwords[column]) for column, side in enumerate(SIDES)
        ]
    _tell(config, console, state, facts, shares)


def _facts(config: PreprocessConfig, state: PassState, subwords: Sequence[Subword]) -> dict[str, Any]:
    """Return the entries of meta.json for this run, except `tokens`, `valid` and `test`; see corpus.py."""
    return {
        "source_lang": config.source_lang,
        "target_lang": config.target_lang,
        "subword": _subword_option(subwords[0]) if config.source_model else config.subword,
        "joint": subwords[0].sha256 == subwords[1].sha256 if config.source_model else config.joint,
        "vocabulary_sizes": {side: subword.size for side, subword in zip(SIDES, subwords, strict=True)},
        "pairs": sum(state.kept),
        "corpora": [{"name": prefix, "pairs": kept} for prefix, kept in zip(config.train, state.kept, strict=True)],
        "user_words": state.user_words,
        "cleaning": state.report,
        "config": influential(config),
        "appended": [],
    }


def _identity(config: PreprocessConfig, old: DataDirectory | None) -> str:
    """Fingerprint of a run. Runs with equal fingerprints write identical bytes, so one may resume another."""
    texts = [path for prefix in (*config.train, *config.test) for path in paths_of(prefix, *_langs(config))]
    texts += paths_of(config.valid, *_langs(config)) if config.valid else ()
    texts += [path for path in (config.source_model, config.target_model, config.user_words) if path]
    files = [(path, status.st_size, status.st_mtime_ns) for path in texts if (status := _status(path))]
    before = sha256_of(old.path / META) if old else ""
    known = [__version__, passes.PAIRS_AT_ONCE, influential(config), files, before]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _status(path: str) -> os.stat_result | None:
    return os.stat(path) if os.path.exists(path) else None


def _langs(config: PreprocessConfig) -> tuple[str, str]:
    return config.source_lang, config.target_lang


def _subword_option(subword: Subword) -> str:
    """Return the value of --subword that corresponds to a model."""
    return "none" if subword.kind == "word" and not subword.joins else subword.kind


def _texts(config: PreprocessConfig, directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Copy the validation and test texts unchanged; return their entries for meta.json."""
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
        raise DataError(f"{prefix} has no lines", "Name a text that is not empty")
    return {"name": prefix, "pairs": pairs}


def _chosen_words(config: PreprocessConfig, state: PassState) -> list[Chosen]:
    """Choose the words of --user-words that become pieces on each side; record how many do and do not in `state`."""
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
    """Write source.model and target.model: copy the given models, or learn new ones from the sample."""
    paths = [directory / f"{side}.model" for side in SIDES]
    samples = [work / f"sample.{side}.txt" for side in SIDES]
    langs = _langs(config)
    if config.source_model:
        for given, path in zip((config.source_model, config.target_model), paths, strict=True):
            Subword.load(given)  # reports an invalid model under the name that the user gave
            copy_whole(Path(given), path)
    elif config.joint:
        console.info(f"Learning a vocabulary of {' and '.join(langs)}")
        _learn_apart(samples, paths[0], config, chosen[0].words)
        copy_whole(paths[0], paths[1])
    else:
        for lang, sample, path, words in zip(langs, samples, paths, chosen, strict=True):
            console.info(f"Learning a vocabulary of {lang}")
            _learn_apart([sample], path, config, words.words)
    if not config.source_model:
        for lang, path in zip((" and ".join(langs),) if config.joint else langs, paths, strict=False):
            if (size := Subword.load(path).size) < config.vocab_size:
                sizes = f"{size:,} pieces instead of {config.vocab_size:,}"
                console.info(f"Note: the vocabulary of {lang} has {sizes}: the text has no more")


def _learn_apart(samples: list[Path], path: Path, config: PreprocessConfig, words: list[str]) -> None:
    """Learn a vocabulary in a separate process, so that the memory it used is freed."""
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


@contextmanager
def _stops(console: Console) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a one-line error; after any failure, report whether progress was kept.

    Raises:
        Stopped: Ctrl-C or SIGTERM.
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
            console.info(note)
        if isinstance(error, (KeyboardInterrupt, Stopped)):
            number = signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT
            word = "Terminated" if isinstance(error, Stopped) else "Interrupted"
            raise Stopped(number, word if kept else f"{word}; nothing was written") from None
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous)


def _unknown_share(path: Path, subword: Subword) -> float:
    """Return the share of <unk> among the tokens of a text, EOS not counted; 0 if `subword` is not a word model."""
    if subword.kind != "word":
        return 0.0
    unknown = tokens = 0
    for line in read_written_lines(path):
        ids = subword.encode(line)
        unknown += ids.count(UNK)
        tokens += len(ids) - 1
    return unknown / max(tokens, 1)


def _tell(
    config: PreprocessConfig, console: Console, state: PassState, facts: dict[str, Any], unknown_shares: list[float]
) -> None:
    """Print a summary: pairs read, dropped and kept, user words, tokens, vocabulary sizes and unknown words."""
    names = {"read": "pairs read", "too_long": "too long"}
    for name, count in state.report.items():
        console.info(f"{names.get(name, name):<12}{count:>14,}")
    if words := state.user_words:
        console.info(f"user words: {words['read']:,} read, {words['unusable']:,} of them cannot be pieces")
        for side, lang in zip(SIDES, (config.source_lang, config.target_lang), strict=True):
            counts = words[side]
            console.info(
                f"    {lang}: {counts['pieces']:,} became pieces; left out: {counts['rare']:,} that occur fewer than "
                f"{config.user_words_min:,} times, {counts['beyond']:,} beyond half the vocabulary size"
            )
    console.info(f"{'':<12}{'tokens':>14}{'mean length':>14}{'vocabulary':>14}")
    for side, lang in zip(SIDES, (config.source_lang, config.target_lang), strict=True):
        tokens, vocabulary = facts["tokens"][side], facts["vocabulary_sizes"][side]
        console.info(f"{lang:<12}{tokens:>14,}{tokens / facts['pairs']:>14.1f}{vocabulary:>14,}")
    for share, lang in zip(unknown_shares, (config.source_lang, config.target_lang), strict=True):
        if share:
            console.info(f"Note: {share:.1%} of the words of {config.valid}.{lang} are not in the vocabulary")
    console.info(f"Wrote {config.data}; continue with nmt train")
