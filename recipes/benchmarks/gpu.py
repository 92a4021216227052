"""Measure a large model on one GPU against a reference implementation in the same run, and against the GPU's limit.

    python recipes/benchmarks/gpu.py [--rounds N] [--only training|translation] [--out FILE]

"Shape G" is the shape of NVIDIA's GNMT v2: four layers in encoder and decoder, width 1,024, two vocabularies of 32,000.
Text and weights are random. They influence speed only through the sentence lengths, which are as in news (27 tokens on
average), and the output lengths: each output reaches its limit, 1.0 times the source plus 10 tokens. All is in bf16.

    training      tokens per second over batches of 65,536 tokens on each side, padding included; with loss, clipping
                  and Adam; also as a process group of one rank, which shows the cost of DistributedDataParallel apart
                  from communication
    translation   beam 5; batches of 128 and 512 sentences, and one sentence of 27 tokens

The reference (reference.py) has packed `nn.LSTM` layers, computes the loss over all logits at once, decodes step by
step with `nn.LSTM`, and takes a full log-softmax and top-k at each step. Figures are medians of rounds in which the two
systems take turns.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import copy_rate, print_tables
from operations import forward_parts, training_flops, training_limit
from reference import GNMT

from nmtcli.commands.machine import choose_device, machine_of
from nmtcli.config import ModelConfig, SearchConfig, TrainConfig
from nmtcli.data.batches import Batch
from nmtcli.data.subword import BOS, EOS, PAD
from nmtcli.losses.cross_entropy import CrossEntropy
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.host import EXTRA_LENGTH, SearchBatch, SearchRules
from nmtcli.search.model_searcher import ModelSearcher
from nmtcli.training.distributed import Ranks, World
from nmtcli.training.updater import Updater

SHAPE_G = ModelConfig(encoder_layers=4, decoder_layers=4, embedding_size=1024, hidden_size=1024, residual=True)
VOCABULARY = 32_000
MEAN_LENGTH = 27
BATCH_TOKENS = 65_536
BEAM = 5
RATE = 1e-4  # learning rate


def random_ids(generator: random.Random, length: int) -> list[int]:
    """Draw a random sentence of `length` tokens, EOS included."""
    return [*(generator.randrange(4, VOCABULARY) for _ in range(length - 1)), EOS]


def training_batches(count: int) -> Iterator[Batch]:
    """Yield batches of sentences of similar length, as from a length-sorted corpus."""
    generator = random.Random(1)
    for _ in range(count):
        length = max(4, round(generator.lognormvariate(3.15, 0.55)))
        pairs = []
        for _ in range(BATCH_TOKENS // (length + 2)):
            source, target = (max(2, length + generator.randint(-2, 1)) for _ in range(2))
            pairs.append((random_ids(generator, source), random_ids(generator, target)))
        yield Batch.of(pairs)


def training_systems(device: torch.device) -> tuple[dict[str, Callable[[Batch], object]], Seq2Seq]:
    """Return the update functions of our model, alone and as one rank, and of the reference; and our model."""
    torch.manual_seed(1)
    ours, shared = (
        Seq2Seq(SHAPE_G, source_size=VOCABULARY, target_size=VOCABULARY, joint=False).train().to(device) for _ in "ab"
    )
    stores: Any = torch.distributed  # does not export them as type checkers want it
    torch.distributed.init_process_group("nccl", store=stores.HashStore(), rank=0, world_size=1)
    ranks = Ranks(torch.distributed.new_group(backend="gloo"))
    reference = GNMT(VOCABULARY, 1024, layers=4, dropout=0.2).train().to(device)
    machine = machine_of(device, "bf16")

    def update_of(model: Seq2Seq, world: World) -> Callable[[Batch], object]:
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
        loss = CrossEntropy(label_smoothing=0.1)
        updater = Updater(model, loss, optimizer, TrainConfig(), machine=machine, world=world)
        numbers = itertools.count(1)
        return lambda batch: updater.update([batch], next(numbers), RATE)

    optimizer = torch.optim.Adam(reference.parameters(), lr=RATE, fused=True)

    def update_reference(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast():
            value = reference(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()

    return {
        "ours": update_of(ours, World()),
        "ours, one rank": update_of(shared, ranks),
        "reference": update_reference,
    }, ours


def training_table(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Compare tokens per second and memory; report the share of the limit."""
    batches = [batch.to(device) for batch in training_batches(options.updates)]
    systems, model = training_systems(device)
    tokens = sum(batch.source_tokens + batch.target_tokens for batch in batches)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    peaks = dict.fromkeys(systems, 0.0)
    for number in range(options.rounds + 1):
        for name, update in systems.items():
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            for batch in batches:
                update(batch)
            torch.cuda.synchronize(device)
            if number:  # the first round is a warm-up
                seconds[name].append(time.perf_counter() - began)
            peaks[name] = torch.cuda.max_memory_allocated(device)
    torch.distributed.destroy_process_group()
    yield "| | source + target tokens/s | over the reference | peak memory [GB] |"
    yield "|---|---|---|---|"
    base = statistics.median(seconds["reference"])
    for name, times in seconds.items():
        took = statistics.median(times)
        yield f"| {name} | {tokens / took:,.0f} | {base / took:.2f} | {peaks[name] / 1e9:.1f} |"
    flops = sum(training_flops(model, batch) for batch in batches)
    limit = sum(training_limit(model, batch, "bf16", device, step_by_step=False) for batch in batches)
    took = statistics.median(seconds["ours"])
    yield ""
    yield (
        f"{flops / tokens / 1e6:.0f} MFLOP per token; {flops / took / 1e12:.0f} TFLOP/s, {limit / took:.0%} of the "
        f"{flops / limit / 1e12:.0f} that the model's products reach in isolation; copies: "
        f"{copy_rate(device) / 1e12:.2f} TB/s"
    )


def translation_table(options: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Compare tokens per second over batch sizes."""
    torch.manual_seed(1)
    model = Seq2Seq(SHAPE_G, source_size=VOCABULARY, target_size=VOCABULARY, joint=False)
    model = model.eval().to(device, torch.bfloat16)
    model.join_layers()
    reference = GNMT(VOCABULARY, 1024, layers=4, dropout=0.2).eval().to(device, torch.bfloat16)
    config = SearchConfig(beam=BEAM, max_length=1.0)
    searcher = ModelSearcher([model], SearchRules.from_config(config), (PAD, BOS), device=device)
    generator = random.Random(2)
    yield "| sentences | | source + target tokens/s | target tokens/s | ms a batch | over the reference |"
    yield "|---|---|---|---|---|---|"
    for size in (1, 128, 512):
        lengths = [MEAN_LENGTH] * size if size == 1 else sorted(generator.randint(20, 34) for _ in range(size))
        sources = [random_ids(generator, length) for length in lengths]
        limits = [length + EXTRA_LENGTH for length in lengths]
        batch = SearchBatch.of(sources, [0] * size, config.max_length)
        systems: dict[str, Callable[[], list[int]]] = {
            "ours": lambda batch=batch: [len(some[0].ids) for some in searcher.search(batch)],  # type: ignore[misc]
            "reference": lambda sources=sources, limits=limits: [  # type: ignore[misc]
                len(ids) for ids in reference.translate(sources, limits, beam=BEAM)
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        emitted = dict.fromkeys(systems, 0)
        for number in range(options.rounds + 2):
            for name, translate in systems.items():
                torch.cuda.synchronize(device)
                began = time.perf_counter()
                emitted[name] = sum(translate())
                torch.cuda.synchronize(device)
                if number > 1:  # two warm-up rounds: the second search with a shape captures its graph
                    seconds[name].append(time.perf_counter() - began)
        base = statistics.median(seconds["reference"])
        for name, times in seconds.items():
            took = statistics.median(times)
            both = emitted[name] + sum(lengths)
            yield (
                f"| {size} | {name} | {both / took:,.0f} | {emitted[name] / took:,.0f} | {1e3 * took:.1f} | "
                f"{base / took:.2f} |"
            )
    one = Batch.of([(random_ids(generator, MEAN_LENGTH), [EOS])])
    products = (part.product for part in forward_parts(model, one))
    weights = sum(2 * product.inputs * product.outputs for product in products if product.rows == 1)
    yield ""
    yield f"A step of one sentence must read {weights / 1e6:.0f} MB of weights."


TABLES = {"training": training_table, "translation": translation_table}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement (default: 5)")
    parser.add_argument("--updates", type=int, default=8, help="training updates in each round (default: 8)")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "Error: this benchmark needs a GPU.\n")
    device = choose_device("cuda")
    print_tables({part: TABLES[part](options, device) for part in options.only}, device, options.out)


if __name__ == "__main__":
    main()
