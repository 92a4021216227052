"""Measure speed and memory of training and translation, against a reference implementation and the machine's limit.

    python recipes/benchmarks/bench.py [--data data-bin --model model --input test.de] [--rounds N] [--only PART ...]

Without --data, it first generates the demo's corpus and trains a model of the default shape on it for some minutes, in
work/bench. Each figure is the median of N rounds in which the systems take turns, each in its own process. Prints
Markdown tables under a heading with hardware, versions and commit; --out FILE writes them to a file, too.

    training     target tokens per second; for the default model also as a share of the machine's matrix product rate
    translation  sentences per second over the input
    sizes        sentences and tokens per second over batch sizes
    start        time of `nmt --help`, and of translating one sentence, from process start to exit
    loss         peak memory of the loss with a large vocabulary
    loader       share of training time spent waiting for batches; share of padding
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import copy_rate, print_tables, product_seconds, synchronize
from operations import forward_parts, training_flops, training_limit
from reference import ClassicTranslator, InputFeedingModel
from torch.nn import functional as F

import nmtcli.data.batches
from nmtcli.commands.machine import FreedMemory, machine_of
from nmtcli.config import ModelConfig, SearchConfig, TrainConfig
from nmtcli.data.batches import Batch
from nmtcli.data.corpus import DataDirectory
from nmtcli.losses.cross_entropy import chunked_cross_entropy
from nmtcli.search.host import SearchBatch, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.store.reader import StoredModel
from nmtcli.training.assembly import Parts, assembled, begun
from nmtcli.training.distributed import World
from nmtcli.training.updater import Updater

ROOT = Path(__file__).parents[2]
RATE = 1e-3  # learning rate
PARTS = ("training", "translation", "sizes", "start", "loss", "loader")
BATCH_SIZES = (1, 8, 64, 256)
SAMPLING = 0.5  # subword_alpha, as in the recipe multi30k-de-en
VOCABULARY = 8000  # vocabulary size of shape S and of the default model, unless the data's is larger
# the usual batches of other toolkits: any number of sentences, each batch as full as possible
FULL_BATCHES = "reference with full batches"
# Shape S: one layer in encoder and decoder, embeddings of 256, general attention, no tied embeddings. The reference
# feeds its attentional vector of 512 back and projects it; our model has a readout of 256 and is wider, so that both
# have about the same number of parameters.
REFERENCE: dict[str, Any] = {"embedding": 256, "hidden": 512, "dropout": 0.2}
OURS = ModelConfig(
    encoder_layers=1, decoder_layers=1, embedding_size=256, hidden_size=704, dropout=0.2, tie_embeddings="none"
)


# measurements, each in its own process, which prints one JSON object


def measure_training(options: argparse.Namespace, system: str) -> dict[str, float]:
    """Measure the time of the updates, their tokens, and peak memory."""
    name, precision = system.rsplit(" ", 1)
    data = DataDirectory.open(options.data)
    device = torch.device(options.device)
    torch.manual_seed(1)
    if name == FULL_BATCHES:
        nmtcli.data.batches.SENTENCES = 1
    parts = our_parts("shape S" if name == "shape S" else "default", data, options, precision)
    batches = [batch.to(device) for batch in islice(parts.batches.stream(0, 0), options.updates + 3)]
    update: Callable[[Batch], object]
    if name in ("reference", FULL_BATCHES):
        model: torch.nn.Module = InputFeedingModel(vocabulary_of(data), **REFERENCE).train().to(device)
        update = update_of_reference(model)
    else:
        model = parts.state.model
        update = update_of_ours(parts)
    memory = FreedMemory()
    for batch in batches[:3]:
        update(batch)
        memory.after_batch()
    synchronize(device)
    began = time.perf_counter()
    for batch in batches[3:]:
        update(batch)
        memory.after_batch()
    synchronize(device)
    return {
        "seconds": time.perf_counter() - began,
        "target_tokens": sum(batch.target_tokens for batch in batches[3:]),
        "source_tokens": sum(batch.source_tokens for batch in batches[3:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak": peak_memory(device),
    }


def update_of_reference(model: torch.nn.Module) -> Callable[[Batch], object]:
    """Return an update function for a model whose forward pass returns its mean loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)

    def update(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def update_of_ours(parts: Parts) -> Callable[[Batch], object]:
    """Return the update function of `nmt train`."""
    updater = Updater(
        parts.state.model, parts.loss, parts.state.optimizer, parts.config, machine=parts.machine, world=parts.world
    )
    numbers = itertools.count(1)
    return lambda batch: updater.update([batch], next(numbers), RATE)


def our_parts(
    name: str, data: DataDirectory, options: argparse.Namespace, precision: str, *, alpha: float = 0.0, workers: int = 0
) -> Parts:
    """Assemble a training run of our model in shape S or in the default shape."""
    config = TrainConfig(batch_tokens=options.batch_tokens, subword_alpha=alpha, loader_workers=workers)
    start = begun(OURS if name == "shape S" else ModelConfig(), config, data, precision)
    size = vocabulary_of(data)
    record = replace(start.stored.record, source_size=size, target_size=size, joint=True)
    start = replace(start, stored=replace(start.stored, record=record))
    return assembled(start, machine_of(torch.device(options.device), precision), World())


def vocabulary_of(data: DataDirectory) -> int:
    """Return the vocabulary size of each side."""
    return max(VOCABULARY, data.source_subword.size, data.target_subword.size)


def measure_limit(options: argparse.Namespace, system: str) -> dict[str, Any]:
    """Measure the matrix products of one update of the default model: operations, time in isolation, and a list."""
    device = torch.device(options.device)
    data = DataDirectory.open(options.data)
    run = our_parts("default", data, options, "fp32")
    model, batch = run.state.model, next(run.batches.stream(0, 0))
    parts = []
    for part, count in Counter(forward_parts(model, batch)).items():
        is_attention = part.product.rows == 1  # not measured: taken to run at the mean rate of the others
        rate = 0.0 if is_attention else part.step.flops / product_seconds(part.step, system, device)
        parts.append((part.name, count, *part.step, part.steps, count * part.product.flops, rate))
    return {
        "flops": training_flops(model, batch),
        "target_tokens": batch.target_tokens,
        "seconds": training_limit(model, batch, system, device),
        "seconds at once": training_limit(model, batch, system, device, step_by_step=False),
        "copy": copy_rate(device),
        "parts": parts,
    }


def measure_translation(options: argparse.Namespace, system: str) -> dict[str, Any]:
    """Measure the time for the input after a warm-up, and return the translations."""
    name, precision, beam = system.split(" ")
    lines = input_lines(options)
    if name == "reference":
        directory = StoredModel.open(options.model)
        source, target = directory.subwords()
        search = SearchConfig()
        translator = ClassicTranslator(
            directory.read_model().eval(),
            target.forbidden_ids,
            beam=int(beam),
            batch_sentences=64,
            max_length=search.max_length,
            alpha=search.length_penalty,
        )
        sources = source.encode_many(lines)
        translator.translate(sources[:64])
        began = time.perf_counter()
        found = translator.translate(sources)
        return {"seconds": time.perf_counter() - began, "lines": [target.decode(ids) for ids in found]}
    # Run the command itself, through a pipe. The first pass over the lines includes start-up and compilation.
    command = [sys.executable, "-m", "nmtcli", "translate", "--model", options.model, "--precision", precision]
    command += ["--beam", beam, "--buffer-lines", str(len(lines)), "--device", options.device]
    command += ["--workers", name.removeprefix("workers=")] if "=" in name else []
    command += ["--shortlist"] * (name == "shortlist")
    text = "".join(f"{line}\n" for line in lines)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        times = []
        for _ in range(4):
            began = time.perf_counter()
            process.stdin.write(text)
            process.stdin.flush()
            found_lines = [line.removesuffix("\n") for line in islice(process.stdout, len(lines))]
            times.append(time.perf_counter() - began)
        process.stdin.close()
    if process.returncode:
        sys.exit(f"Error: nmt translate exited with code {process.returncode}.")
    return {"seconds": median(times[1:]), "lines": found_lines}


def measure_sizes(options: argparse.Namespace, system: str) -> dict[str, float]:
    """Measure sentences and output tokens per second for one batch size."""
    precision, beam, size = system.split(" ")
    device = torch.device(options.device)
    directory = StoredModel.open(options.model)
    model = directory.read_model().eval().to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    if precision == "int8":
        model.quantise()
    source, target = directory.subwords()
    config = SearchConfig(beam=int(beam))
    searcher = ModelSearcher([model], SearchRules.from_config(config), target.forbidden_ids, device=device)
    sources = sorted(source.encode_many(input_lines(options)), key=len)
    middle = sources[max(0, len(sources) - int(size)) // 2 :][: int(size)]
    batch = SearchBatch.of(middle, [0] * len(middle), config.max_length)
    searcher.search(batch)
    times: list[float] = []
    while len(times) < 3 or sum(times) < 1:
        synchronize(device)
        began = time.perf_counter()
        found = searcher.search(batch)
        times.append(time.perf_counter() - began)
    tokens = sum(len(hypotheses[0].ids) for hypotheses in found)
    return {"sentences": len(middle) / median(times), "tokens": tokens / median(times), "seconds": median(times)}


def measure_loss(options: argparse.Namespace, system: str) -> dict[str, float]:
    """Measure peak memory beyond inputs and gradients: 4,096 target tokens, vocabulary 32,000, width 1,024."""
    tokens, vocabulary, width = 4096, 32_000, 1024
    device = torch.device(options.device)
    readout_NE = torch.randn(tokens, width, device=device, requires_grad=True)
    matrix_VE = torch.randn(vocabulary, width, device=device, requires_grad=True)
    bias_V = torch.zeros(vocabulary, device=device, requires_grad=True)
    targets_N = torch.randint(vocabulary, (tokens,), device=device)
    before = peak_memory(device)
    if system == "all at once":
        logits_NV = F.linear(readout_NE, matrix_VE, bias_V)
        loss = F.cross_entropy(logits_NV, targets_N, reduction="sum", label_smoothing=0.1)
    else:
        mask_N = torch.ones_like(targets_N, dtype=torch.bool)
        loss, _ = chunked_cross_entropy(readout_NE, matrix_VE, bias_V, targets_N, mask_N, label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = 4 * (readout_NE.numel() + matrix_VE.numel() + bias_V.numel())
    return {"peak": peak_memory(device) - before - gradients, "full": 2 * 4 * tokens * vocabulary}


def measure_loader(options: argparse.Namespace, _: str) -> dict[str, float]:
    """Measure the share of training time spent waiting for batches, with subword sampling, and the share of padding."""
    data = DataDirectory.open(options.data)
    parts = our_parts("shape S", data, options, "fp32", alpha=SAMPLING, workers=1)
    update, memory = update_of_ours(parts), FreedMemory()
    stream = parts.batches.stream(0, 0)
    waited = 0.0
    for number in range(options.updates + 3):
        if number == 3:
            waited, began = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        update(batch)
        memory.after_batch()
    synchronize(parts.machine.device)
    seconds = time.perf_counter() - began
    padding = {f"padding {alpha}": padding_of(data, options, alpha) for alpha in (0.0, SAMPLING)}
    return {"waiting": waited / seconds, **padding}


def padding_of(data: DataDirectory, options: argparse.Namespace, alpha: float) -> float:
    """Return the share of padding in the first batches of an epoch."""
    places = tokens = 0
    for batch in islice(our_parts("default", data, options, "fp32", alpha=alpha).batches.stream(0, 0), 200):
        places += batch.source_BS.numel() + batch.target_output_BT.numel()
        tokens += batch.source_tokens + batch.target_tokens
    return 1 - tokens / places


MEASURES: dict[str, Callable[[argparse.Namespace, str], dict[str, Any]]] = {
    "training": measure_training,
    "limit": measure_limit,
    "translation": measure_translation,
    "sizes": measure_sizes,
    "loss": measure_loss,
    "loader": measure_loader,
}


def input_lines(options: argparse.Namespace) -> list[str]:
    """Read the text to translate."""
    text = Path(options.input).read_bytes().decode()
    return text.removesuffix("\n").split("\n")[: options.lines or None]


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process so far [bytes]."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# tables


def rounds(options: argparse.Namespace, measure: str, systems: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Run a measurement for each system in turn, in several rounds; return the results by system."""
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for number in range(options.rounds):
        for system, results in found.items():
            print(f"{measure}: {system}, round {number + 1}", file=sys.stderr)
            command = [sys.executable, *sys.argv, "--measure", measure, "--system", system]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
    return found


def middle(results: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """Return the median over the rounds."""
    return median(value(one) for one in results)


def training_table(options: argparse.Namespace) -> Iterator[str]:
    """Compare tokens per second of the reference, our model in its shape, and the default model with its limit."""
    precisions = options.precisions.split(",")
    references = ["reference fp32", f"{FULL_BATCHES} fp32"]
    systems = list(references)
    systems += [f"{name} {precision}" for name in ("shape S", "default") for precision in precisions]
    found = rounds(options, "training", systems)
    base = max(middle(found[name], lambda one: one["target_tokens"] / one["seconds"]) for name in references)
    yield "| system | parameters | target tokens/s | source + target | vs. the faster reference | peak memory [MB] |"
    yield "|---|---|---|---|---|---|"
    for system, results in found.items():
        target = middle(results, lambda one: one["target_tokens"] / one["seconds"])
        both = middle(results, lambda one: (one["source_tokens"] + one["target_tokens"]) / one["seconds"])
        peak = max(one["peak"] for one in results) / 1e6
        ratio = f"{target / base:.2f}" if not system.startswith("default") else ""
        yield f"| {system} | {results[0]['parameters']:,} | {target:,.0f} | {both:,.0f} | {ratio} | {peak:,.0f} |"
    yield ""
    limits = rounds(argparse.Namespace(**{**vars(options), "rounds": 1}), "limit", precisions)
    yield "| default model, forward | rows | inputs | outputs | times | MFLOP per target token | GFLOP/s |"
    yield "|---|---|---|---|---|---|---|"
    listed = [limits[precision][0] for precision in precisions]
    for rows in zip(*(limit["parts"] for limit in listed), strict=True):
        name, layers, *shape, steps, flops, _ = rows[0]
        rates = ", ".join(f"{precision} {row[-1] / 1e9:,.0f}" for precision, row in zip(precisions, rows, strict=True))
        rates = rates if rows[0][-1] else ""
        cells = [name, *(f"{size:,}" for size in shape), f"{layers} x {steps:.1f}"]
        yield f"| {' | '.join(cells)} | {flops / listed[0]['target_tokens'] / 1e6:.2f} | {rates} |"
    yield ""
    for precision, limit in zip(precisions, listed, strict=True):
        per_token = limit["flops"] / limit["target_tokens"]
        reached = per_token * middle(found[f"default {precision}"], lambda one: one["target_tokens"] / one["seconds"])
        rate, rate_at_once = (limit["flops"] / limit[key] for key in ("seconds", "seconds at once"))
        yield (
            f"- default, {precision}: {per_token / 1e6:.0f} MFLOP per target token, forward and backward; "
            f"{reached / 1e9:,.0f} GFLOP/s, {reached / rate:.0%} of the {rate / 1e9:,.0f} that its products reach in "
            f"isolation ({reached / rate_at_once:.0%} of {rate_at_once / 1e9:,.0f} if a recurrent layer multiplied "
            f"all its states at once); copies: {limit['copy'] / 1e9:.0f} GB/s"
        )


def translation_table(options: argparse.Namespace) -> Iterator[str]:
    """Compare sentences per second over the whole input."""
    precisions = precisions_of(options)
    for beam in ("5", "1"):
        systems = [f"ours {precision} {beam}" for precision in precisions]
        if options.device == "cpu":
            systems = [f"reference fp32 {beam}", *systems, f"workers=1 {precisions[0]} {beam}"]
            systems += [f"shortlist {precision} {beam}" for precision in (precisions[0], precisions[-1])]
        found = rounds(options, "translation", systems)
        base = middle(found[systems[0]], lambda one: len(one["lines"]) / one["seconds"])
        expected = found[systems[0]][0]["lines"]
        yield f"| beam {beam} | sentences/s | relative to the first row | lines that differ from the first row |"
        yield "|---|---|---|---|"
        for system, results in found.items():
            speed = middle(results, lambda one: len(one["lines"]) / one["seconds"])
            differ = sum(one != other for one, other in zip(results[0]["lines"], expected, strict=True))
            yield f"| {system.rsplit(' ', 1)[0]} | {speed:.1f} | {speed / base:.2f} | {differ} of {len(expected)} |"
        yield ""


def precisions_of(options: argparse.Namespace) -> list[str]:
    """Return the precisions for translation."""
    return [*options.precisions.split(","), *(["int8"] if options.device == "cpu" else [])]


def sizes_table(options: argparse.Namespace) -> Iterator[str]:
    """Compare sentences and tokens per second over batch sizes."""
    precisions = precisions_of(options)
    yield (
        "| sentences in a batch | "
        + " | ".join(f"beam {beam}, {precision}" for beam in (1, 5) for precision in precisions)
        + " |"
    )
    yield "|" + "---|" * (1 + 2 * len(precisions))
    for size in (size for size in BATCH_SIZES if size <= len(input_lines(options))):
        systems = [f"{precision} {beam} {size}" for beam in (1, 5) for precision in precisions]
        found = rounds(options, "sizes", systems)
        cells = [
            f"{middle(found[one], lambda r: r['sentences']):.0f} ({middle(found[one], lambda r: r['tokens']):,.0f})"
            for one in systems
        ]
        yield f"| {size} | " + " | ".join(cells) + " |"
    yield ""
    yield "Sentences per second; in brackets, tokens of the best translation per second. One process, all threads."


def start_table(options: argparse.Namespace) -> Iterator[str]:
    """Time whole commands."""
    line = input_lines(options)[0].encode() + b"\n"
    nmt = [sys.executable, "-m", "nmtcli"]
    commands: dict[str, tuple[list[str], bytes]] = {
        "import click": ([sys.executable, "-c", "import click"], b""),
        "nmt --help": ([*nmt, "--help"], b""),
        "import torch": ([sys.executable, "-c", "import torch"], b""),
        "one sentence": ([*nmt, "translate", "--model", options.model, "--device", options.device], line),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.rounds + 1):
        for name, (command, stdin) in commands.items():
            began = time.perf_counter()
            subprocess.run(command, input=stdin, check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    seconds = {name: median(taken[1:]) for name, taken in times.items()}
    yield "| | seconds | |"
    yield "|---|---|---|"
    yield f"| `python -c 'import click'` | {seconds['import click']:.2f} | |"
    yield f"| `nmt --help` | {seconds['nmt --help']:.2f} | {seconds['nmt --help'] - seconds['import click']:+.2f} |"
    yield f"| `python -c 'import torch'` | {seconds['import torch']:.2f} | |"
    ratio = seconds["one sentence"] / seconds["import torch"]
    yield f"| `nmt translate` of one sentence | {seconds['one sentence']:.2f} | {ratio:.2f} times |"


def loss_table(options: argparse.Namespace) -> Iterator[str]:
    """Compare the peak memory of losses."""
    found = rounds(options, "loss", ["all at once", "in chunks"])
    yield "| logits | peak memory [MB] | share of the full logits and their gradient |"
    yield "|---|---|---|"
    for system, results in found.items():
        peak = middle(results, lambda one: one["peak"])
        yield f"| {system} | {peak / 1e6:,.0f} | {peak / results[0]['full']:.2f} |"


def loader_table(options: argparse.Namespace) -> Iterator[str]:
    """Report waiting and padding."""
    (results,) = rounds(options, "loader", ["shape S"]).values()
    waiting = middle(results, lambda one: one["waiting"])
    yield f"- waiting for batches: {waiting:.1%} of training time, with subword sampling"
    plain, sampled = (results[0][f"padding {alpha}"] for alpha in (0.0, SAMPLING))
    yield f"- padding: {plain:.1%} of tokens; {sampled:.1%} with subword sampling, which changes the lengths"


TABLES: dict[str, Callable[[argparse.Namespace], Iterator[str]]] = {
    "training": training_table,
    "translation": translation_table,
    "sizes": sizes_table,
    "start": start_table,
    "loss": loss_table,
    "loader": loader_table,
}


def make_input(work: Path) -> dict[str, str]:
    """Generate the demo's corpus and train a model of the default shape on it for a while."""
    work.mkdir(parents=True, exist_ok=True)
    files = {"data": work / "data-bin", "model": work / "model", "input": work / "corpus/test.en"}
    nmt = [sys.executable, "-m", "nmtcli"]
    if not files["input"].exists():
        maker = ROOT / "recipes/demo/make_corpus.py"
        subprocess.run([sys.executable, maker, work / "corpus", "--train", "20000", "--test", "1000"], check=True)
    if not files["data"].exists():
        texts = ["--train", str(work / "corpus/train"), "--valid", str(work / "corpus/valid")]
        subprocess.run([*nmt, "preprocess", "-s", "en", "-t", "zh", *texts, "--data", files["data"]], check=True)
    folders = ["--data", str(files["data"]), "--model", str(files["model"])]
    options = [*folders, "--max-updates", "150", "--show", "0", "--resume"]
    subprocess.run([*nmt, "train", *options], check=True)
    return {name: str(path) for name, path in files.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="data directory")
    parser.add_argument("--model", default="", help="model directory, with the default architecture")
    parser.add_argument("--input", default="", help="source text")
    parser.add_argument("--lines", type=int, default=0, help="number of input lines; 0: all")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement (default: 3)")
    parser.add_argument("--updates", type=int, default=20, help="training updates in each round (default: 20)")
    parser.add_argument("--batch-tokens", type=int, default=1792, help="tokens of a training batch (default: 1792)")
    parser.add_argument("--precisions", default="fp32,bf16", help="translation on a CPU adds int8 (default: fp32,bf16)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=ROOT / "work/bench")
    parser.add_argument("--out", type=Path, help="file for the tables")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--system", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data:
        options.data, options.model, options.input = (
            str(options.work / name) for name in ("data-bin", "model", "corpus/test.en")
        )
        if not options.measure:
            make_input(options.work)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if options.measure:
        print(json.dumps(MEASURES[options.measure](options, options.system)))
        return
    print_tables({part: TABLES[part](options) for part in options.only}, torch.device(options.device), options.out)


if __name__ == "__main__":
    main()
