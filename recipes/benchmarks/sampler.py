"""Measure time and memory of planning the batches of an epoch, for corpora of up to a billion pairs.

    python recipes/benchmarks/sampler.py [--pairs 1000000 1000000000]

Lengths are generated, so no corpus is needed; reading from disk is not measured. Each size runs in its own process.
Prints a table row for each size: time until the first batch is planned, time for each further block of a million pairs
[s], peak memory of the process, and its memory before planning [MB of 10^6 bytes].
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from nmtcli.data.batches import TrainingBatches

if TYPE_CHECKING:
    from nmtcli.data.corpus import Corpus
    from nmtcli.data.subword import Subword

BLOCKS = 4  # number of blocks to time


class Generated:
    """A corpus with lengths only, 5 to 60 tokens, computed from the index of a pair."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return self._pairs

    def lengths(self, pairs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return source and target lengths of these pairs, as `Corpus.lengths` does."""
        scrambled = (pairs * 2_654_435_761) % (1 << 32)
        source = 5 + scrambled % 56
        return source, np.maximum(2, source + (scrambled >> 8) % 9 - 4)


def measure(pairs: int) -> None:
    """Print the row of one size."""
    before = memory()
    began = time.perf_counter()
    batches = TrainingBatches(
        cast("Corpus", Generated(pairs)),
        cast("Subword", None),
        cast("Subword", None),
        batch_tokens=4096,
        seed=1,
        subword_alpha=0.0,
        workers=0,
        pin_memory=False,
    )
    first = len(batches.plan(0)[0])
    assert first
    start = time.perf_counter() - began
    began = time.perf_counter()
    blocks = range(1, min(1 + BLOCKS, batches.blocks))
    for block in blocks:
        batches.plan(0, block)
    each = f"{(time.perf_counter() - began) / len(blocks):.1f}" if blocks else ""
    print(f"| {pairs:,} | {start:.1f} | {each} | {memory():,.0f} | {before:,.0f} |")


def memory() -> float:
    """Return the peak resident memory so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 * 1.024


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10**6, 10**7, 10**8, 10**9])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print("| pairs | first batch [s] | each further block [s] | peak memory [MB] | before |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for pairs in options.pairs:
        subprocess.run([sys.executable, __file__, "--measure", str(pairs)], check=True)


if __name__ == "__main__":
    main()
