"""Pipe a million lines through `nmt translate`; check that as many come out and that memory does not grow.

    python recipes/benchmarks/soak.py --model model [--lines N] [-- OPTIONS]

It writes lines of random words and invalid bytes to `nmt translate --model model OPTIONS`, and prints a table row:
lines in and out, peak resident memory in the first 50,000 lines and after them [MB of 10^6 bytes], and lines per
second.
"""

import argparse
import random
import subprocess
import sys
import threading
import time
from typing import IO

import psutil

SETTLED = 50_000  # lines after which memory should not grow
WORDS = ["1", "2", "3", "7", "a", "the", "Haus", "猫", "🙂", "\u2028", "\x85", "▁", "<s>", "\x00", "\r"]


def write(lines: int, pipe: IO[bytes]) -> None:
    """Write `lines` random lines."""
    rng = random.Random(1)
    for _ in range(lines):
        words = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(8))).encode()
        pipe.write(words + (rng.randbytes(2).replace(b"\n", b"") if rng.random() < 0.01 else b"") + b"\n")
    pipe.close()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Pipe many lines through nmt translate.")
    parser.add_argument("--model", default="model")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("options", nargs="*", help="more options of nmt translate, after --")
    options = parser.parse_args()
    command = [sys.executable, "-m", "nmtcli", "translate", "--model", options.model, *options.options]
    began = time.monotonic()
    process = psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    threading.Thread(target=write, args=(options.lines, process.stdin), daemon=True).start()
    settled = highest = out = 0
    for line in process.stdout:
        out += line.endswith(b"\n")
        if out % 1000 == 0:
            memory = process.memory_info().rss
            if out <= SETTLED:
                settled = max(settled, memory)
            else:
                highest = max(highest, memory)
    if process.wait():
        sys.exit(f"Error: {' '.join(command)} exited with code {process.returncode}.")
    seconds = time.monotonic() - began
    print("| lines in | lines out | memory after 50,000 [MB] | highest after that [MB] | lines/s |")
    print("|---|---|---|---|---|")
    memory = f"{settled / 1e6:,.0f} | {highest / 1e6:,.0f}"
    print(f"| {options.lines:,} | {out:,} | {memory} | {options.lines / seconds:,.0f} |")
    if out != options.lines:
        sys.exit(1)


if __name__ == "__main__":
    main()
