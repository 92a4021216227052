"""Time per update and peak memory of every loss, relative to cross-entropy, on the same batches of a trained model.

    python recipes/benchmarks/losses.py --data data-bin --model model [--updates N] [--rounds N] [--batch-tokens N]

Each loss trains for N updates in a process of its own; the losses take turns, N rounds of them, and the median of the
rounds counts. Prints a row of the table in README.md for each: predicted and measured time per update over that of
cross-entropy, and the highest resident memory of its process [MB of 10^6 bytes].

The prediction counts multiplications: a parameter of the encoder is one for each source token, one of the decoder one
for each target token, the output projection likewise; a gradient costs twice what the value did. It knows nothing of
steps that cannot be fused over time, of search's bookkeeping or of rewards.
"""

import argparse
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from nmtcli.config import TrainConfig
from nmtcli.data.batches import Batch, TrainingBatches
from nmtcli.data.corpus import DataDirectory
from nmtcli.losses.build import build_loss
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.checkpoint import ModelDirectory

CANDIDATES = 6
WAYS: dict[str, dict[str, object]] = {
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
    """Prints seconds per update and peak memory [bytes] of one loss."""
    torch.set_num_threads(options.threads)
    data = DataDirectory.open(options.data)
    directory = ModelDirectory.open(str(options.model))
    model = directory.read_model().train()
    config = TrainConfig(batch_tokens=options.batch_tokens, **WAYS[way])  # type: ignore[arg-type]
    loss = build_loss(
        config,
        directory.model_config,
        source=data.source_subword,
        target=data.target_subword,
        target_lang=data.target_lang,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
    warm_up, *batches = first_batches(data, options.batch_tokens, options.updates + 1)
    update(model, loss, optimizer, warm_up)
    began = time.perf_counter()
    for batch in batches:
        update(model, loss, optimizer, batch)
    seconds = (time.perf_counter() - began) / len(batches)
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def first_batches(data: DataDirectory, batch_tokens: int, count: int) -> list[Batch]:
    """The batches that training begins with."""
    batches = TrainingBatches(
        data.train,
        data.source_subword,
        data.target_subword,
        batch_tokens=batch_tokens,
        seed=1,
        subword_alpha=0.0,
        workers=0,
        pin_memory=False,
    )
    return list(islice(batches.stream(0, 0), count))


def update(model: Seq2Seq, loss: object, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """One update."""
    optimizer.zero_grad(set_to_none=True)
    sums = loss(model, batch, 0)  # type: ignore[operator]
    (sums.loss / loss.count(batch)).backward()  # type: ignore[attr-defined]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def predicted(way: str, options: argparse.Namespace) -> float:
    """Multiplications over those of cross-entropy."""
    directory = ModelDirectory.open(str(options.model))
    model = directory.read_model()
    batches = first_batches(DataDirectory.open(options.data), options.batch_tokens, options.updates + 1)[1:]
    encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder))
    e = encoder * sum(batch.source_tokens for batch in batches)
    d, p = (size * sum(batch.target_tokens for batch in batches) for size in (decoder, model.projection_VE.numel()))
    cross_entropy = 3 * (e + d + p)
    if way == "cross-entropy":
        return 1.0
    if way == "greedy":  # the argmax of each step
        return (cross_entropy + p) / cross_entropy
    if way.startswith("greedy"):  # one more pass
        return (cross_entropy + d + p) / cross_entropy
    search = CANDIDATES * (d + p)
    if way == "beam":  # then reference and rival, of each one logit a step
        return (3 * e + search + 2 * 3 * d) / cross_entropy
    return (e + search + 3 * e + CANDIDATES * 3 * (d + p)) / cross_entropy


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time and memory of every loss.")
    parser.add_argument("--data", type=Path, default=Path("data-bin"))
    parser.add_argument("--model", type=Path, default=Path("model"))
    parser.add_argument("--updates", type=int, default=20, help="of each loss in each round (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--batch-tokens", type=int, default=1024, help="(default: 1024)")
    parser.add_argument("--threads", type=int, default=2, help="(default: 2)")
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
    for way, taken in seconds.items():
        ratio, expected = median(taken) / base, predicted(way, options)
        print(f"| {way} | {expected:.2f} | {ratio:.2f} | {median(taken):.3f} | {memory[way] / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
