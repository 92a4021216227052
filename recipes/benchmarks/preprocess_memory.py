"""Measure the peak memory of `nmt preprocess`, process by process, on corpora of several sizes.

    python recipes/benchmarks/preprocess_memory.py [--pairs N ...] [--workers N] [--work DIR] [-- OPTIONS]

writes, for each size, the demo's sentences over and over, each with a number behind it so that no two pairs are alike,
runs `nmt preprocess` on them (with OPTIONS), and prints a row of the table in README.md: the highest resident memory
of the main process, of the one that learns the vocabulary, and of any worker [MB of 10^6 bytes], shared pages counted
in each.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import psutil

INTERVAL = 0.02  # seconds between two looks


class Peaks(NamedTuple):
    """Resident memory at its highest [bytes], and how long the command ran [seconds]."""

    main: int
    learner: int
    worker: int
    seconds: float


def demo_pairs() -> list[tuple[str, str]]:
    """The training text of the demo."""
    path = Path(__file__).parents[1] / "demo/make_corpus.py"
    spec = importlib.util.spec_from_file_location("make_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    examples = module.make_corpus({"train": 20_000, "valid": 0, "test": 0}, seed=1)["train"]
    return [(example.en, example.zh) for example in examples]


def write_corpus(prefix: Path, pairs: Sequence[tuple[str, str]], count: int) -> None:
    """PREFIX.en and PREFIX.zh with this many distinct pairs."""
    for column, language in enumerate(("en", "zh")):
        with Path(f"{prefix}.{language}").open("w", encoding="utf-8") as file:
            file.writelines(f"{pair[column]} {number}\n" for number, pair in enumerate(islice(cycle(pairs), count)))


def measure(command: list[str]) -> Peaks:
    """Runs `nmt preprocess` and looks at its processes while it runs."""
    began = time.monotonic()
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    main = 0
    children: dict[int, int] = {}
    while process.poll() is None:
        try:
            main = max(main, process.memory_info().rss)
            for child, memory in _children(process):
                children[child] = max(children.get(child, 0), memory)
        except psutil.NoSuchProcess:
            pass
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"Error: {' '.join(command)} ended with exit code {process.returncode}.")
    learner, *workers = children.values()  # in the order in which they were started
    return Peaks(main, learner, max(workers, default=0), time.monotonic() - began)


def _children(process: psutil.Process) -> Iterator[tuple[int, int]]:
    for child in process.children():
        if "spawn_main" in " ".join(child.cmdline()):  # not the resource tracker of multiprocessing
            yield child.pid, child.memory_info().rss


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of nmt preprocess.")
    parser.add_argument("--pairs", type=int, nargs="+", default=[200_000, 2_000_000], help="sizes of the corpora")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode (default: 2)")
    parser.add_argument("--work", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("options", nargs="*", help="more options of nmt preprocess, after --")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="preprocess-memory-", dir=options.work))
    try:
        pairs = demo_pairs()
        write_corpus(work / "valid", pairs, 100)
        print("| pairs | main process [MB] | learning the vocabulary [MB] | a worker [MB] | wall time [s] |")
        print("|---|---|---|---|---|")
        for count in options.pairs:
            write_corpus(work / "train", pairs, count)
            command = [sys.executable, "-m", "nmtcli", "preprocess", "-s", "en", "-t", "zh"]
            command += ["--train", str(work / "train"), "--valid", str(work / "valid"), "--data", str(work / "data")]
            command += ["--workers", str(options.workers), "--overwrite", *options.options]
            peaks = measure(command)
            memory = " | ".join(f"{peak / 1e6:,.0f}" for peak in peaks[:3])
            print(f"| {count:,} | {memory} | {peaks.seconds:,.0f} |", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
