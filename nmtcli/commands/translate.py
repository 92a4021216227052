"""`nmt translate`: lines in, as many lines out, in order, as it goes.

Output, by option:

    (none)       one line a line: the best translation; a blank line comes out empty
    --nbest N    Moses' format, `index ||| text ||| log-probability ||| score`, index from 0 [lines], log-probability
                 in nats, best first; one line with empty text for a blank line. Of a model trained with --loss beam
                 both numbers are the score, a logit
    --alignments FILE
        pharaoh  one line a line: `s-t` for each target piece t, s the source piece it attends to most, both from 0,
                 EOS left out
        json     one object a line: `source`, `target` (pieces, EOS last), `weights` (target by source, rows sum to 1)
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, BinaryIO, TextIO

import torch
from torch import Tensor

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
from nmtcli.data.parallel import cores, workers
from nmtcli.data.subword import EOS, Subword
from nmtcli.data.text import decode_stream
from nmtcli.errors import ConfigError, DataError, DirectoryError, WorldError
from nmtcli.knobs import option_name
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.beam import Hypothesis
from nmtcli.search.translator import SearchBatch, SearchBatches, Translation, Translator
from nmtcli.training.checkpoint import ModelDirectory

LINES_FOR_WORKERS = 1000  # in the buffer: workers take seconds to start, in which one process translates some hundred
LINES_OF_A_WORKER = 250  # in the buffer, so that no worker has nothing to do


def run(search_config: SearchConfig, config: TranslateConfig, console: Console) -> None:
    """Translates files or stdin to stdout."""
    if config.nbest > search_config.beam and not search_config.sample:
        raise ConfigError(f"--nbest {config.nbest} needs as large a beam", f"Use --beam {config.nbest}")
    device = choose_device(config.device)
    set_threads(config.threads)
    keep_few_compiled()
    if config.workers > 1 and device.type != "cpu":
        raise ConfigError(f"--workers {config.workers} is for a CPU", "Use --gpus, or --device cpu")
    if config.gpus > 1:
        _check_gpus(config.gpus, device)
    directories = [ModelDirectory.open(path) for path in config.model]
    source, target = _same_subwords(directories)
    _check_attention(directories, search_config, config)
    search = _Search(
        search_config,
        config,
        device=device,
        precision=choose_precision(config.precision, device),
        by_logits=_by_logits(directories, search_config),
        threads=config.threads,
        subwords=(source, target),
    )
    replaced: list[int] = []
    number = 0
    with ExitStack() as stack, torch.inference_mode():
        lines = (line for name in config.files or ("-",) for line in _lines(name, replaced.append))
        chunk = list(islice(lines, config.buffer_lines))
        translator = stack.enter_context(_translator(search, first_lines=len(chunk)))
        alignments = stack.enter_context(_alignment_file(config.alignments))
        while chunk:
            for translation in translator.translate(chunk, first_line=number):
                if translation.was_cut:
                    limit = search_config.max_source_length
                    console.warn(f"line {number + 1:,} is longer than {limit:,} tokens: its end was cut")
                sys.stdout.buffer.write(_output(translation, number, config.nbest).encode())
                if alignments is not None:
                    alignments.write(_alignment(translation, source, target, config.alignment_format) + "\n")
                number += 1
            sys.stdout.buffer.flush()
            chunk = list(islice(lines, config.buffer_lines))
    if replaced:
        console.warn(f"{len(replaced):,} lines were not UTF-8, line {replaced[0]:,} first: bad bytes were replaced")


@dataclass(frozen=True)
class _Search:
    """Searches batches, with models that it reads when the first one comes: so it can be sent to another process."""

    search_config: SearchConfig
    config: TranslateConfig
    device: torch.device
    precision: str
    by_logits: bool
    threads: int
    subwords: tuple[Subword, Subword]

    def __call__(self, batch: SearchBatch) -> list[list[Hypothesis]]:
        """The hypotheses of each sentence."""
        found = self.translator.search_batch(batch)
        self._memory.after_batch()
        return found

    def read(self) -> None:
        """Reads the models now."""
        _ = self.translator

    @cached_property
    def translator(self) -> Translator:
        """What searches in this process."""
        set_threads(self.threads)
        choose_device(str(self.device))  # a worker's own GPU
        return self.translator_with([self._read_model(path) for path in self.config.model])

    def translator_with(
        self, models: list[Seq2Seq], search: SearchBatches | None = None, searchers: int = 1
    ) -> Translator:
        """Of these models; or of none, where `search` has them."""
        return Translator(
            models,
            *self.subwords,
            self.search_config,
            device=self.device,
            wanted=max(self.config.nbest, 1),
            by_logits=self.by_logits,
            with_attention=bool(self.config.alignments),
            with_scores=bool(self.config.nbest),
            shortlist=ModelDirectory.open(self.config.model[0]).read_shortlist()
            if models and self.config.shortlist
            else None,
            search=search,
            searchers=searchers,
        )

    @cached_property
    def _memory(self) -> FreedMemory:
        return FreedMemory()

    def _read_model(self, path: str) -> Seq2Seq:
        model = ModelDirectory.open(path).read_model(self.config.checkpoint, verify=self.config.verify).eval()
        model.to(self.device, PRECISION_TYPES[self.precision])
        if self.precision == "int8":
            model.quantise()
        if self.device.type == "cuda":
            model.join_layers()
        return model


@dataclass(frozen=True)
class _SearchElsewhere:
    """What a worker does. Attention travels as an array: tensors would travel as open files."""

    search: _Search

    def __call__(self, batch: SearchBatch) -> list[list[Hypothesis]]:
        """The hypotheses of each sentence."""
        return _with_attention(self.search(batch), Tensor.numpy)


@contextmanager
def _translator(search: _Search, first_lines: int) -> Iterator[Translator]:
    """With models here; or in workers, one for each GPU, or of few threads where that is faster: many small operations
    share badly.

    The models are read here in any case, so that what is wrong with them is said whatever the lines are.
    """
    config = search.config
    count = config.workers
    if search.device.type == "cuda":
        count = config.gpus
    elif not count:
        worthwhile = not config.threads and first_lines >= LINES_FOR_WORKERS
        count = min(cores(), first_lines // LINES_OF_A_WORKER) if worthwhile else 1
    (search if count == 1 else replace(search, device=torch.device("cpu"))).read()
    if count == 1:
        yield search.translator_with([], lambda batches: map(search, batches))
        return
    devices = [search.device] * count
    if search.device.type == "cuda":
        devices = [torch.device("cuda", number) for number in range(count)]
    threads = config.threads or max(1, cores() // count)
    elsewhere = [_SearchElsewhere(replace(search, device=device, threads=threads)) for device in devices]  # no models
    with workers(elsewhere) as answers:
        yield search.translator_with(
            [],
            lambda batches: (_with_attention(found, torch.from_numpy) for found in answers(batches)),
            searchers=count,
        )


def _check_gpus(count: int, device: torch.device) -> None:
    """Sees to it that there are so many GPUs, and that none was named."""
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(f"--gpus {count} is for --device cuda, but that is {device}", "Leave one out")
    if count > torch.cuda.device_count():
        raise ConfigError(f"--gpus {count}: this machine has {torch.cuda.device_count()} GPUs", "Use fewer")


def _with_attention(found: list[list[Hypothesis]], convert: Callable[[Any], Any]) -> list[list[Hypothesis]]:
    return [
        [one if one.attention_TS is None else one._replace(attention_TS=convert(one.attention_TS)) for one in some]
        for some in found
    ]


def _same_subwords(directories: list[ModelDirectory]) -> tuple[Subword, Subword]:
    first = directories[0].subwords()
    for directory in directories[1:]:
        if directory.direction != directories[0].direction:
            raise DirectoryError(
                f"{directory.path} translates {directory.direction}, {directories[0].path} {directories[0].direction}",
                "An ensemble needs models trained on the same data directory",
            )
        for side, ours, theirs in zip(("source", "target"), first, directory.subwords(), strict=True):
            if ours.sha256 != theirs.sha256:
                raise DirectoryError(
                    f"{directory.path} has another {side} subword model ({theirs.sha256[:12]}) than "
                    f"{directories[0].path} ({ours.sha256[:12]})",
                    "An ensemble needs models trained on the same data directory",
                )
    return first


def _check_attention(directories: list[ModelDirectory], search_config: SearchConfig, config: TranslateConfig) -> None:
    """What needs attention is refused for models that have none."""
    for directory in directories:
        if directory.model_config.attention == "none" and (config.alignments or search_config.coverage_penalty):
            option = "--alignments" if config.alignments else "--coverage-penalty"
            raise ConfigError(
                f"{option} needs attention, but {directory.path} reads the source as one vector", "Leave it out"
            )


def _by_logits(directories: list[ModelDirectory], config: SearchConfig) -> bool:
    """Whether the models' scores are logits (see losses/beam.py), which no penalty goes with."""
    (by_logits, *others) = dict.fromkeys(directory.searches_by_logits for directory in directories)
    if others:
        raise ConfigError(
            "models trained with --loss beam score by logits, the others by log-probabilities: they make no ensemble",
            "Name models of one kind",
        )
    for name, neutral in (("length_penalty", (0.0, SearchConfig().length_penalty)), ("coverage_penalty", (0.0,))):
        if by_logits and getattr(config, name) not in neutral:
            raise ConfigError(
                f"{option_name(name)} has no use for {directories[0].path}, whose scores are logits (--loss beam)",
                "Leave it out",
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


def _alignment(translation: Translation, source: Subword, target: Subword, form: str) -> str:
    if not translation.candidates:
        return "" if form == "pharaoh" else json.dumps({"source": [], "target": [], "weights": []})
    best = translation.candidates[0].hypothesis
    assert best.attention_TS is not None
    if form == "json":
        return json.dumps(
            {
                "source": source.pieces(translation.source_ids),
                "target": target.pieces(best.ids),
                "weights": [[round(weight, 4) for weight in row] for row in best.attention_TS.float().tolist()],
            },
            ensure_ascii=False,
        )
    strongest = best.attention_TS[:, :-1].argmax(dim=1).tolist()
    return " ".join(f"{s}-{t}" for t, s in enumerate(strongest) if best.ids[t] != EOS)
