"""`nmt translate`: translate text as it comes in, with one output line for each input line, in order.

Output, by option:

    (none)       for each line, one line with the best translation; a blank line stays empty
    --nbest N    for each line, up to N lines in Moses' format, `index ||| text ||| log-probability ||| score`, best
                 first; `index` is the line number, from 0, and the log-probability is in nats. A blank line gives
                 one line with empty text. For models trained with --loss beam, both numbers are the score, which is
                 a logit
    --alignments FILE
        pharaoh  for each line, one line of pairs `s-t`: s is the index of the source subword to which target
                 subword t attends most; both indices start at 0, and EOS is left out
        json     for each line, one object: `source` and `target` (subwords, EOS last), `weights` (one row for each
                 target subword: attention over the source subwords; rows sum to 1)
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO, TextIO

import torch

from nmtcli.commands.machine import (
    PRECISION_TYPES,
    FreedMemory,
    choose_device,
    choose_precision,
    keep_few_compiled,
    set_threads,
)
from nmtcli.config import SearchConfig, TranslateConfig
from nmtcli.console import Console
from nmtcli.data.parallel import cores
from nmtcli.data.shortlist import Shortlist
from nmtcli.data.subword import EOS
from nmtcli.data.text import decode_stream
from nmtcli.errors import ConfigError, DataError, DirectoryError, WorldError
from nmtcli.knobs import option_name
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.host import SearchRules
from nmtcli.search.model_searcher import ModelSearcher, batch_sizes, choose_scoring
from nmtcli.search.searchers import Searcher, worker_searcher
from nmtcli.search.translator import LineTranslator, SubwordPair, Translation
from nmtcli.store.reader import StoredModel

# Minimum number of lines in the buffer for starting workers: one process translates hundreds of lines in the time that
# workers take to start.
LINES_FOR_WORKERS = 1000
LINES_OF_A_WORKER = 250  # minimum number of lines in the buffer per worker, so that no worker is idle


def run(search_config: SearchConfig, config: TranslateConfig, console: Console) -> None:
    """Translate files or stdin to stdout."""
    if config.nbest > search_config.beam and not search_config.sample:
        raise ConfigError(
            f"--nbest {config.nbest} needs a beam of at least {config.nbest}", f"Use --beam {config.nbest}"
        )
    device = choose_device(config.device)
    set_threads(config.threads)
    keep_few_compiled()
    if config.workers > 1 and device.type != "cpu":
        raise ConfigError(f"--workers {config.workers} works on a CPU only", "Use --gpus, or --device cpu")
    if config.gpus > 1:
        _check_gpus(config.gpus, device)
    directories = [StoredModel.open(path) for path in config.model]
    text = _same_subwords(directories)
    _check_attention(directories, search_config, config)
    maker = SearcherMaker(
        config,
        device=device,
        precision=choose_precision(config.precision, device),
        threads=config.threads,
        rules=_rules(directories, search_config, config, device),
        forbidden_ids=text.target.forbidden_ids,
    )
    replaced: list[int] = []
    number = 0
    with ExitStack() as stack:
        lines = (line for name in config.files or ("-",) for line in _lines(name, replaced.append))
        chunk = list(islice(lines, config.buffer_lines))
        searcher = stack.enter_context(_searcher(maker, first_lines=len(chunk)))
        translator = LineTranslator(searcher, text, search_config)
        alignments = stack.enter_context(_alignment_file(config.alignments))
        while chunk:
            for translation in translator.translate(chunk, first_line=number):
                if translation.was_cut:
                    limit = search_config.max_source_length
                    console.warn(f"line {number + 1:,} is longer than {limit:,} tokens: its end was cut off")
                sys.stdout.buffer.write(_output(translation, number, config.nbest).encode())
                if alignments is not None:
                    alignments.write(_alignment(translation, text, config.alignment_format) + "\n")
                number += 1
            sys.stdout.buffer.flush()
            chunk = list(islice(lines, config.buffer_lines))
    if replaced:
        lines_were = "1 line was" if len(replaced) == 1 else f"{len(replaced):,} lines were"
        console.warn(f"{lines_were} not UTF-8, line {replaced[0]:,} first: invalid bytes were replaced")


@dataclass(frozen=True)
class SearcherMaker:
    """Callable that loads the models and makes a searcher; picklable, so that a worker process can call it."""

    config: TranslateConfig
    device: torch.device
    precision: str
    threads: int
    rules: SearchRules
    forbidden_ids: Sequence[int]

    def __call__(self) -> Searcher:
        """Set the device and the number of threads of this process, and make a searcher in it."""
        set_threads(self.threads)
        choose_device(str(self.device))
        models, shortlist = self.read()
        return ModelSearcher(
            models,
            self.rules,
            self.forbidden_ids,
            device=self.device,
            shortlist=shortlist,
            after_batch=FreedMemory().after_batch,
        )

    @torch.inference_mode()
    def read(self) -> tuple[list[Seq2Seq], Shortlist | None]:
        """Load the models onto the device, and the shortlist; return None in its place unless it is requested."""
        models = [self._read_model(path) for path in self.config.model]
        shortlist = StoredModel.open(self.config.model[0]).read_shortlist() if self.config.shortlist else None
        return models, shortlist

    def _read_model(self, path: str) -> Seq2Seq:
        model = StoredModel.open(path).read_model(self.config.checkpoint, verify=self.config.verify).eval()
        model.to(self.device, PRECISION_TYPES[self.precision])
        if self.precision == "int8":
            model.quantise()
        if self.device.type == "cuda":
            model.join_layers()
        return model


@contextmanager
def _searcher(maker: SearcherMaker, first_lines: int) -> Iterator[Searcher]:
    """Yield a searcher that runs in this process or in workers: one worker for each GPU, or several on a CPU.

    On a CPU, several processes with few threads each are faster than one process with many threads, because the
    operations are too small to gain much from threads. This process always loads the models, so that a damaged
    model is reported only once, and also if there is no input.
    """
    config = maker.config
    count = config.workers
    if maker.device.type == "cuda":
        count = config.gpus
    elif not count:
        worthwhile = not config.threads and first_lines >= LINES_FOR_WORKERS
        count = min(cores(), first_lines // LINES_OF_A_WORKER) if worthwhile else 1
    if count == 1:
        yield maker()
        return
    replace(maker, device=torch.device("cpu")).read()
    devices = [maker.device] * count
    if maker.device.type == "cuda":
        devices = [torch.device("cuda", number) for number in range(count)]
    threads = config.threads or max(1, cores() // count)
    makers = [replace(maker, device=device, threads=threads) for device in devices]
    with worker_searcher(makers, batch_sizes(maker.rules, maker.device)) as searcher:
        yield searcher


def _check_gpus(count: int, device: torch.device) -> None:
    """Check that the machine has `count` GPUs, and that --device does not name a single GPU."""
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"--gpus {count} needs --device cuda, but the device is {device}", "Leave one of them out")
    if (available := torch.cuda.device_count()) < count:
        gpus = "1 GPU" if available == 1 else f"{available} GPUs"
        raise ConfigError(f"--gpus {count}: this machine has {gpus}", "Use fewer")


def _same_subwords(directories: list[StoredModel]) -> SubwordPair:
    first = directories[0].subwords()
    for directory in directories[1:]:
        if directory.record.direction != directories[0].record.direction:
            raise DirectoryError(
                f"{directory.path} translates {directory.record.direction}, "
                f"{directories[0].path} {directories[0].record.direction}",
                "An ensemble needs models trained on the same data directory",
            )
        for side, ours, theirs in zip(("source", "target"), first, directory.subwords(), strict=True):
            if ours.sha256 != theirs.sha256:
                raise DirectoryError(
                    f"{directory.path} and {directories[0].path} have different {side} subword models "
                    f"({theirs.sha256[:12]} and {ours.sha256[:12]})",
                    "An ensemble needs models trained on the same data directory",
                )
    return SubwordPair(*first)


def _check_attention(directories: list[StoredModel], search_config: SearchConfig, config: TranslateConfig) -> None:
    """Reject options that need attention if one of the models has no attention."""
    for directory in directories:
        if directory.record.model.attention == "none" and (config.alignments or search_config.coverage_penalty):
            option = "--alignments" if config.alignments else "--coverage-penalty"
            raise ConfigError(
                f"{option} needs attention, but the model {directory.path} has none", "Leave the option out"
            )


def _rules(
    directories: list[StoredModel], search_config: SearchConfig, config: TranslateConfig, device: torch.device
) -> SearchRules:
    scoring = choose_scoring(
        search_config,
        device,
        models=len(directories),
        by_logits=_by_logits(directories, search_config),
        with_scores=bool(config.nbest),
    )
    return SearchRules.from_config(
        search_config, wanted=max(config.nbest, 1), scoring=scoring, with_attention=bool(config.alignments)
    )


def _by_logits(directories: list[StoredModel], config: SearchConfig) -> bool:
    """Return True if the models score by logits (losses/beam.py); reject mixed ensembles, and penalties on logits."""
    (by_logits, *others) = dict.fromkeys(directory.record.searches_by_logits for directory in directories)
    if others:
        raise ConfigError(
            "models trained with --loss beam score by logits, others by log-probabilities: they form no ensemble",
            "Use models of one kind",
        )
    for name, neutral in (("length_penalty", (0.0, SearchConfig().length_penalty)), ("coverage_penalty", (0.0,))):
        if by_logits and getattr(config, name) not in neutral:
            raise ConfigError(
                f"{option_name(name)} does not apply to {directories[0].path}, whose scores are logits (--loss beam)",
                "Leave the option out",
            )
    return by_logits


def _lines(name: str, on_replacement: Callable[[int], None]) -> Iterator[str]:
    if name == "-":
        yield from decode_stream(sys.stdin.buffer, on_replacement)
        return
    try:
        file: BinaryIO = open(name, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror})", "Name a text file") from error
    with file:
        yield from decode_stream(file, on_replacement)


@contextmanager
def _alignment_file(name: str) -> Iterator[TextIO | None]:
    if not name:
        yield None
        return
    try:
        file = open(name, "w", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise WorldError(f"{name} cannot be written ({error.strerror})", "Name another file") from error
    with file:
        yield file


def _output(translation: Translation, number: int, nbest: int) -> str:
    if not nbest:
        return translation.text + "\n"
    if not translation.candidates:
        return f"{number} |||  ||| 0.0000 ||| 0.0000\n"
    return "".join(
        f"{number} ||| {one.text} ||| {one.hypothesis.log_probability:.4f} ||| {one.hypothesis.score:.4f}\n"
        for one in translation.candidates
    )


def _alignment(translation: Translation, text: SubwordPair, form: str) -> str:
    if not translation.candidates:
        return "" if form == "pharaoh" else json.dumps({"source": [], "target": [], "weights": []})
    best = translation.candidates[0].hypothesis
    assert best.attention_TS is not None
    if form == "json":
        return json.dumps(
            {
                "source": text.source.pieces(translation.source_ids),
                "target": text.target.pieces(best.ids),
                "weights": [[round(weight, 4) for weight in row] for row in best.attention_TS.tolist()],
            },
            ensure_ascii=False,
        )
    strongest = best.attention_TS[:, :-1].argmax(axis=1).tolist()
    return " ".join(f"{s}-{t}" for t, s in enumerate(strongest) if best.ids[t] != EOS)
