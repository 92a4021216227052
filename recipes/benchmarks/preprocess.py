"""Measure speed and memory of `nmt preprocess` on corpora of several sizes, and what being killed costs it.

    python recipes/benchmarks/preprocess.py [--pairs N ...] [--workers N ...] [--kills N] [--work DIR] [-- OPTIONS]

writes, for each size, the demo's sentences over and over, each with a number behind it so that no two pairs are alike,
runs `nmt preprocess` on them (with OPTIONS) for each number of workers, and prints a row of the table in README.md: the
highest resident memory of the main process and of any other that it starts [MB of 10^6 bytes], shared pages counted in
each; and on stderr a hash of what is in the directory, by which runs can be compared. With --kills every run is done
again and killed so often (SIGKILL to all of its processes) on its way; all runs of a size must end in the same bytes.
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

INTERVAL = 0.1  # seconds between two looks


class Run(NamedTuple):
    """Resident memory at its highest [bytes], and how long the command ran [seconds]; whether it was killed."""

    main: int
    other: int
    seconds: float
    killed: bool


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


def measure(command: list[str], limit: float = float("inf")) -> Run:
    """Runs `nmt preprocess`, looks at its processes while it runs, and kills them all when the time is over."""
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
        sys.exit(f"Error: {' '.join(command)} ended with exit code {process.returncode}.")
    return Run(main, other, time.monotonic() - began, False)


def bytes_of(data: Path) -> str:
    """A hash of what is in a data directory, but for the names of the texts."""
    hashes = json.loads((data / "meta.json").read_text(encoding="utf-8"))["sha256"]
    return hashlib.sha256("".join(hashes.values()).encode()).hexdigest()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure speed and memory of nmt preprocess.")
    parser.add_argument("--pairs", type=int, nargs="+", default=[200_000, 2_000_000], help="sizes of the corpora")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes that encode (default: 2)")
    parser.add_argument("--kills", type=int, default=0, help="do each run again, killed so often (default: 0)")
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
                sys.exit(f"Error: {len(found)} different directories came out of {count:,} pairs.")
            print(f"{count:,} pairs are {found.pop()[:16]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
