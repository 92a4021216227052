"""Measure time per update and peak memory of every loss, relative to cross-entropy, on the same batches.

    python recipes/benchmarks/losses.py --data data-bin --model model [--updates N] [--rounds N] [--batch-tokens N]

Each loss trains a trained model for --updates updates in its own process; the losses take turns in --rounds rounds.
Prints a row of the table in ../sequence-losses/README.md for each loss: time per update, predicted and measured (median
of the rounds), relative to cross-entropy, and the peak resident memory of its process [MB of 10^6 bytes].

The prediction counts multiplications: one for each encoder parameter and source token, and one for each parameter of
the decoder and the output projection and target token; a gradient costs twice as much as the value. It ignores steps
that cannot be fused over time, the bookkeeping of search, and rewards.
"""

import argparse
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nmtcli.commands.machine import machine_of
from nmtcli.config import TrainConfig
from nmtcli.data.corpus import DataDirectory
from nmtcli.store.reader import StoredModel
from nmtcli.store.weights import load_weights, unique_state
from nmtcli.training.assembly import Parts, assembled, begun
from nmtcli.training.distributed import World
from nmtcli.training.updater import Updater

CANDIDATES = 6
RATE = 1e-5  # learning rate
WAYS: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "greedy": {"loss": "greedy"},
    "greedy, 2 passes": {"loss": "greedy", "greedy_passes": 2},
    "beam": {"loss": "beam", "candidates": CANDIDATES},
    "risk": {"loss": "risk", "candidates": CANDIDATES},
    "risk, samples": {"loss": "risk", "candidates": CANDIDATES, "candidates_by": "samples"},
    "max-margin": {"loss": "max-margin", "candidates": CANDIDATES},
    "sequence-nll": {"loss": "sequence-nll", "candidates": CANDIDATES},
}


def measure(way: str, options: argparse.Namespace) -> None:
    """Print seconds per update and peak memory [bytes] of one loss."""
    torch.set_num_threads(options.threads)
    parts = parts_of(way, options)
    state, machine = parts.state, parts.machine
    updater = Updater(state.model, parts.loss, state.optimizer, parts.config, machine=machine, world=parts.world)
    batches = list(islice(parts.batches.stream(0, 0), options.updates + 1))
    updater.update(batches[:1], 1, RATE)  # warm-up
    began = time.perf_counter()
    for number, batch in enumerate(batches[1:], start=2):
        updater.update([batch], number, RATE)
    seconds = (time.perf_counter() - began) / options.updates
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def parts_of(way: str, options: argparse.Namespace) -> Parts:
    """Assemble a run that continues from the trained model with this loss."""
    stored = StoredModel.open(options.model)
    config = TrainConfig(batch_tokens=options.batch_tokens, loader_workers=0, **WAYS[way])
    start = begun(stored.record.model, config, DataDirectory.open(options.data), "fp32")
    weights = unique_state(stored.read_model())
    return assembled(
        start,
        machine_of(torch.device("cpu"), "fp32"),
        World(),
        initialise=lambda model: load_weights(model, weights, stored.path),
    )


def predicted(way: str, options: argparse.Namespace) -> float:
    """Predict the time relative to cross-entropy, by the number of multiplications."""
    parts = parts_of(way, options)
    model = parts.state.model
    batches = list(islice(parts.batches.stream(0, 0), 1, options.updates + 1))
    encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder))
    e = encoder * sum(batch.source_tokens for batch in batches)
    d, p = (size * sum(batch.target_tokens for batch in batches) for size in (decoder, model.projection_VE.numel()))
    cross_entropy = 3 * (e + d + p)
    if way == "cross-entropy":
        return 1.0
    if way == "greedy":  # and the projection once more, for the argmax of each step
        return (cross_entropy + p) / cross_entropy
    if way.startswith("greedy"):  # and one more forward pass of the decoder
        return (cross_entropy + d + p) / cross_entropy
    search = CANDIDATES * (d + p)
    if way == "beam":  # after search, reference and rival with one logit per step each
        return (3 * e + search + 2 * 3 * d) / cross_entropy
    return (e + search + 3 * e + CANDIDATES * 3 * (d + p)) / cross_entropy


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure time and memory of every loss.")
    parser.add_argument("--data", type=Path, default=Path("data-bin"))
    parser.add_argument("--model", type=Path, default=Path("model"))
    parser.add_argument("--updates", type=int, default=20, help="updates of each loss in each round (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="tokens of a batch (default: 1024)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options.way, options)
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, *sys.argv, "--way", way]
            taken, peak = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
            seconds[way].append(taken)
            memory[way] = max(memory[way], peak)
    print("| loss | time per update, predicted | measured | seconds | peak memory [MB] |")
    print("|---|---|---|---|---|")
    base = median(seconds["cross-entropy"])
    for way, times in seconds.items():
        ratio, expected = median(times) / base, predicted(way, options)
        print(f"| {way} | {expected:.2f} | {ratio:.2f} | {median(times):.3f} | {memory[way] / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
