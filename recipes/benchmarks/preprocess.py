"""Measure speed and memory of `nmt preprocess` on corpora of several sizes, and the cost of being killed.

    python recipes/benchmarks/preprocess.py [--pairs N ...] [--workers N ...] [--kills N] [--work DIR] [-- OPTIONS]

For each size, it repeats the demo's sentences, with a number appended to make pairs distinct, and runs `nmt preprocess`
on them (with OPTIONS) for each number of workers. Prints a table row for each run, with the peak resident memory of the
main process and of its largest child [MB of 10^6 bytes], shared pages counted in each. On stderr it prints a hash of
the data directory, to compare runs. With --kills, each run is repeated and killed N times on the way (SIGKILL to all of
its processes); all runs of a size must end in the same bytes.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import psutil

INTERVAL = 0.1  # between two samples of memory [s]


class Run(NamedTuple):
    """Peak resident memory of a command's main and other processes [bytes], its time [s], and whether it was killed."""

    main: int
    other: int
    seconds: float
    killed: bool


def demo_pairs() -> list[tuple[str, str]]:
    """Generate the training text of the demo."""
    path = Path(__file__).parents[1] / "demo/make_corpus.py"
    spec = importlib.util.spec_from_file_location("make_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    examples = module.make_corpus({"train": 20_000, "valid": 0, "test": 0}, seed=1)["train"]
    return [(example.en, example.zh) for example in examples]


def write_corpus(prefix: Path, pairs: Sequence[tuple[str, str]], count: int) -> None:
    """Write PREFIX.en and PREFIX.zh with `count` distinct pairs."""
    for column, language in enumerate(("en", "zh")):
        with Path(f"{prefix}.{language}").open("w", encoding="utf-8") as file:
            file.writelines(f"{pair[column]} {number}\n" for number, pair in enumerate(islice(cycle(pairs), count)))


def measure(command: list[str], limit: float = float("inf")) -> Run:
    """Run `nmt preprocess` and sample the memory of its processes; kill them all after `limit` seconds."""
    began = time.monotonic()
    process = psutil.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    main, other = 0, 0
    while process.poll() is None:
        try:
            main = max(main, process.memory_info().rss)
            other = max([other, *(child.memory_info().rss for child in process.children(recursive=True))])
        except psutil.NoSuchProcess:
            pass
        time.sleep(INTERVAL)
        if time.monotonic() - began > limit:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Run(main, other, time.monotonic() - began, True)
    if process.returncode:
        sys.exit(f"Error: {' '.join(command)} exited with code {process.returncode}.")
    return Run(main, other, time.monotonic() - began, False)


def bytes_of(data: Path) -> str:
    """Hash the contents of a data directory, without the names of the input files."""
    hashes = json.loads((data / "meta.json").read_text(encoding="utf-8"))["sha256"]
    return hashlib.sha256("".join(hashes.values()).encode()).hexdigest()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure speed and memory of nmt preprocess.")
    parser.add_argument("--pairs", type=int, nargs="+", default=[200_000, 2_000_000], help="sizes of the corpora")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="encoding processes (default: 2)")
    parser.add_argument("--kills", type=int, default=0, help="repeat each run, killed N times (default: 0)")
    parser.add_argument("--work", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("options", nargs="*", help="more options of nmt preprocess, after --")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="preprocess-", dir=options.work))
    try:
        pairs = demo_pairs()
        write_corpus(work / "valid", pairs, 100)
        print("| pairs | workers | pairs/s | main process [MB] | largest other one [MB] | wall time [s] |")
        print("|---|---|---|---|---|---|")
        for count in options.pairs:
            write_corpus(work / "train", pairs, count)
            found = set()
            for workers in options.workers:
                command = [sys.executable, "-m", "nmtcli", "preprocess", "-s", "en", "-t", "zh", "--overwrite"]
                command += ["--train", str(work / "train"), "--valid", str(work / "valid")]
                command += ["--workers", str(workers), *options.options, "--data"]
                run = measure([*command, str(work / "data")])
                found.add(bytes_of(work / "data"))
                memory = f"{run.main / 1e6:,.0f} | {run.other / 1e6:,.0f}"
                print(
                    f"| {count:,} | {workers} | {count / run.seconds:,.0f} | {memory} | {run.seconds:,.0f} |",
                    flush=True,
                )
                if options.kills:
                    parts = [measure([*command, str(work / "killed")], run.seconds / (options.kills + 1))]
                    while parts[-1].killed:
                        is_last = len(parts) >= options.kills
                        limit = float("inf") if is_last else run.seconds / (options.kills + 1)
                        parts.append(measure([*command, str(work / "killed")], limit))
                    found.add(bytes_of(work / "killed"))
                    memory = (
                        f"{max(one.main for one in parts) / 1e6:,.0f} | {max(one.other for one in parts) / 1e6:,.0f}"
                    )
                    seconds = sum(one.seconds for one in parts)
                    killed = f"{workers}, killed {len(parts) - 1} times"
                    print(f"| {count:,} | {killed} | {count / seconds:,.0f} | {memory} | {seconds:,.0f} |", flush=True)
            if len(found) > 1:
                sys.exit(f"Error: runs on the same {count:,} pairs gave {len(found)} different directories.")
            print(f"{count:,} pairs have the hash {found.pop()[:16]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
