"""`nmt score`: compute BLEU, chrF2 and TER of translations against references.

For one text, stdout has one line for each metric: name, score and sacreBLEU's signature.

    BLEU    36.17  nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0
    chrF2   58.23  nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0
    TER     47.91  nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:2.6.0

For several texts, stdout has a table, a blank line and the signatures. Each text is compared with the first by paired
bootstrap; `*` marks p < 0.05.

    metric  system    score  mean ± 95 % CI  p against a.txt
    BLEU    a.txt     36.17    36.20 ± 1.05
    BLEU    b.txt     37.29    37.31 ± 1.03         0.0120 *

`--json` prints one object, in ASCII:

    lines         number of lines scored
    references    number of reference sets
    systems       one object for each text, in the order of the command line
      name          file name; "-" for stdin
      scores        by metric: "BLEU", "chrF2", "TER" (absent with --no-ter)
        score         from 0 to 100; for TER, 0 is best, and the score may exceed 100
        signature     sacreBLEU's signature
        detail        BLEU: precisions, brevity penalty and lengths, as sacreBLEU prints them; other metrics: ""
        mean, ci      bootstrap mean, and half the width of its 95 % confidence interval; null if there is only one text
        p_value       p-value of the difference from the first text; null for the first text
    warnings      the warnings about the text that were printed on stderr, one string each

With --model, stdout has the log-probability of each pair of --source and --ref lines, one per line [nats], and stderr
has the perplexity per target token, EOS counted. With --model and --json, stdout has one object: `log_probabilities`
(one per pair), their sum `log_probability` [nats], the number of target `tokens`, and `perplexity`.

Warnings about the text (that it looks tokenised, or that the tokenizer does not fit the language) go to stderr. With
-v, BLEU's detail goes to stderr too.
"""

import io
import json
import math
import sys

from nmtcli.config import ScoreConfig
from nmtcli.console import Console
from nmtcli.data.text import read_lines
from nmtcli.errors import DataError
from nmtcli.scoring import metrics
from nmtcli.scoring.metrics import Score

PATIENCE = 30  # announce TER if it may take longer than this [s]
MEMORY = 4e9  # warn if the bootstrap needs more memory than this [bytes]
BYTES_A_RESAMPLED_LINE = 80  # an index, and chrF's 18 counts in float32


def run(config: ScoreConfig, console: Console) -> None:
    """Score translations with metrics, or sentence pairs with a model; print the result on stdout."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # UTF-8 whatever the locale; file names may be undecodable
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if config.model:
        _score_by_model(config, console)
        return
    references = [_read(path) for path in config.ref]
    systems = {path: _read(path, console) for path in config.hypotheses or ("-",)}
    _check_line_counts(config, references, systems)
    warnings = _warn(config, references, systems, console)
    scores = _score(config, references, systems)
    for name, of_system in scores.items():
        console.detail(f"{_named(name)}: {of_system[0].line()}")
    if config.json:
        print(json.dumps(_as_json(references, scores, warnings), indent=2))
    elif len(scores) == 1:
        for score in scores.popitem()[1]:
            print(f"{score.name:6} {score.value:6.2f}  {score.signature}")
    else:
        print(_table(scores))


def _score_by_model(config: ScoreConfig, console: Console) -> None:
    """Score sentence pairs by forced decoding: print their log-probabilities, and the perplexity over all pairs."""
    from nmtcli.commands.machine import (
        PRECISION_TYPES,
        choose_device,
        choose_precision,
        keep_few_compiled,
        set_threads,
    )
    from nmtcli.scoring.forced import log_probabilities
    from nmtcli.store.reader import StoredModel

    (reference,) = config.ref
    lines = [_read(path) for path in (config.source, reference)]
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"{config.source} has {len(lines[0]):,} lines, {reference} {len(lines[1]):,}",
            "Scoring needs one reference for each source line",
        )
    device = choose_device(config.device)
    set_threads(config.threads)
    keep_few_compiled()
    directory = StoredModel.open(config.model)
    if directory.record.searches_by_logits:
        console.warn(f"{config.model} was trained with --loss beam: it ranks by logits, not by these probabilities")
    subwords = directory.subwords()
    model = directory.read_model().eval().to(device, PRECISION_TYPES[choose_precision(config.precision, device)])
    sources, targets = (subword.encode_many(side) for subword, side in zip(subwords, lines, strict=True))
    scores = log_probabilities(
        model, list(zip(sources, targets, strict=True)), batch_tokens=config.batch_tokens, device=device
    )
    tokens = sum(len(ids) for ids in targets)
    perplexity = math.exp(min(-sum(scores) / tokens, 700.0))
    if config.json:
        result = {
            "log_probabilities": scores,
            "log_probability": sum(scores),
            "tokens": tokens,
            "perplexity": perplexity,
        }
        print(json.dumps(result, indent=2))
        return
    for score in scores:
        print(f"{score:.4f}")
    console.info(f"perplexity {perplexity:.3f} over {tokens:,} tokens, log-probability {sum(scores):.2f}")


def _named(path: str) -> str:
    return "stdin" if path == "-" else path


def _read(path: str, console: Console | None = None) -> list[str]:
    if path == "-" and console is not None and sys.stdin.isatty():
        console.info("Reading translations from the terminal; Ctrl-D ends the input.")
    lines = list(read_lines(path))
    if not lines:
        raise DataError(f"{_named(path)} is empty", "It must have one line for each sentence")
    return lines


def _check_line_counts(config: ScoreConfig, references: list[list[str]], systems: dict[str, list[str]]) -> None:
    for name, hypotheses in systems.items():
        for path, reference in zip(config.ref, references, strict=True):
            if len(hypotheses) != len(reference):
                raise DataError(
                    f"{_named(name)} has {len(hypotheses):,} lines, {_named(path)} {len(reference):,}",
                    "Scoring needs one translation for each reference",
                )


def _warn(
    config: ScoreConfig, references: list[list[str]], systems: dict[str, list[str]], console: Console
) -> list[str]:
    """Warn about suspicious text, and about slow or large computations; return the warnings about the text."""
    found: dict[str, None] = {}  # without duplicates: all systems share the references
    for name, hypotheses in systems.items():
        called = "the translations" if len(systems) == 1 else _named(name)
        sentences = metrics.suspicions(hypotheses, references, config.target_lang, _tokenize(config), name=called)
        found.update(dict.fromkeys(sentences))
    for sentence in found:
        console.warn(sentence)
    memory = len(references[0]) * config.bootstrap_samples * BYTES_A_RESAMPLED_LINE
    if len(systems) > 1 and memory > MEMORY:
        console.warn(f"The bootstrap will need about {memory / 1e9:,.0f} GB: fewer --bootstrap-samples need less.")
    seconds = sum(metrics.ter_seconds(hypotheses) for hypotheses in systems.values()) * len(references)
    if config.ter and seconds > PATIENCE:
        console.info(f"TER may take {seconds:,.0f} seconds on lines of this length; --no-ter leaves it out.")
    return list(found)


def _score(config: ScoreConfig, references: list[list[str]], systems: dict[str, list[str]]) -> dict[str, list[Score]]:
    if len(systems) > 1:
        return metrics.compare(
            systems,
            references,
            target_lang=config.target_lang,
            tokenize=_tokenize(config),
            lowercase=config.lowercase,
            with_ter=config.ter,
            samples=config.bootstrap_samples,
        )
    ((name, hypotheses),) = systems.items()
    scores = metrics.corpus_scores(
        hypotheses,
        references,
        target_lang=config.target_lang,
        tokenize=_tokenize(config),
        lowercase=config.lowercase,
        with_ter=config.ter,
    )
    return {name: scores}


def _tokenize(config: ScoreConfig) -> str:
    return "" if config.tokenize == "auto" else config.tokenize


def _as_json(references: list[list[str]], scores: dict[str, list[Score]], warnings: list[str]) -> dict[str, object]:
    return {
        "lines": len(references[0]),
        "references": len(references),
        "systems": [
            {
                "name": name,
                "scores": {
                    score.name: {
                        "score": score.value,
                        "signature": score.signature,
                        "detail": score.detail,
                        "mean": score.mean,
                        "ci": score.ci,
                        "p_value": score.p_value,
                    }
                    for score in of_system
                },
            }
            for name, of_system in scores.items()
        ],
        "warnings": warnings,
    }


def _table(scores: dict[str, list[Score]]) -> str:
    """Format one row for each metric and system, then the signatures."""
    baseline, of_baseline = next(iter(scores.items()))
    width = max(len("system"), *(len(_named(name)) for name in scores))
    against = f"p against {_named(baseline)}"
    rows = [f"metric  {'system':{width}}  {'score':>6}  {'mean ± 95 % CI':>14}  {against}"]
    for index, metric in enumerate(of_baseline):
        for name, of_system in scores.items():
            score = of_system[index]
            mean = f"{score.mean:.2f} ± {score.ci:.2f}"
            p_value = ""
            if score.p_value is not None:
                p_value = f"{score.p_value:.4f} {'*' if score.p_value < 0.05 else ' '}"
            row = f"{metric.name:6}  {_named(name):{width}}  {score.value:6.2f}  {mean:>14}  {p_value:>{len(against)}}"
            rows.append(row.rstrip())
    return "\n".join([*rows, "", *(f"{metric.name:6}  {metric.signature}" for metric in of_baseline)])
