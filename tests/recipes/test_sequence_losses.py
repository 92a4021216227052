"""The grid of losses: a small one gives its tables, and a stopped one resumes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtcli.config import LOSSES
from tests.recipes.scripts import RECIPES, load

FOLDER = RECIPES / "sequence-losses"
RUN = (FOLDER / "run.sh").read_text(encoding="utf-8")
LISTED = re.findall(r'^losses="(.*)"$', RUN, flags=re.MULTILINE)[0].split()
report: Any = load("sequence-losses/report.py")


def test_script_and_report_have_every_loss() -> None:
    assert set(report.LOSSES) == {*LOSSES, "greedy-passes"}
    assert tuple(dict.fromkeys(loss.partition("@")[0] for loss in LISTED)) == report.LOSSES
    assert set(re.findall(r"^ {8}([a-z-]+)\)", RUN, flags=re.MULTILINE)) == set(report.LOSSES)
    (searches,) = re.findall(r'^searches="(.*)" #', RUN, flags=re.MULTILINE)
    assert searches.split() == [search for searches in report.SEARCHES.values() for search in searches]


def test_the_validation_set_chooses_and_not_by_a_pilots_luck() -> None:
    def of(seeds: int, correct: int) -> Any:  # a sentence of 10 words, with `correct` matched n-grams of each order
        return np.tile(np.array([correct] * 4 + [10, 9, 8, 7, 10, 10], dtype=float), (seeds, 1, 1))

    corpus = object.__new__(report.Corpus)
    seeds = {"cross-entropy": 4, "cross-entropy@0.0003": 4, "risk": 2, "greedy": 1}
    corpus.runs = {loss: [Path()] * count for loss, count in seeds.items()}
    right = {"cross-entropy": 3, "cross-entropy@0.0003": 4, "risk": 5, "greedy": 6}
    corpus.statistics = {"valid": {(loss, "5-1.0"): of(seeds[loss], right[loss]) for loss in seeds}}
    systems = list(corpus.statistics["valid"])
    assert corpus.best(systems) == ("risk", "5-1.0")
    assert corpus.best([one for one in systems if corpus.is_control(one)]) == ("cross-entropy@0.0003", "5-1.0")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The work directory of one run with SMALL=1, and its environment."""
    work = tmp_path_factory.mktemp("grid")
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "SMALL": "1", "WORK": str(work), "PATH": f"{binaries}:{os.environ['PATH']}"}
    subprocess.run([FOLDER / "run.sh"], env=environment, check=True, capture_output=True, text=True)
    return work, environment


def test_a_small_grid_gives_a_table_of_each_loss_and_beam(small: tuple[Path, dict[str, str]]) -> None:
    parts = (small[0] / "report" / "demo-en-zh.md").read_text(encoding="utf-8").split("\n\n")
    for part, penalties in ((1, {"1.0"}), (4, {"1.0", "1.5", "2.0"})):
        head, _, *rows = parts[part].splitlines()
        systems = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        assert [tuple(row[:2]) for row in systems] == [(loss, beam) for loss in LISTED for beam in report.SEARCHES]
        assert all(row[2] in penalties if row[1] == "5" else row[2] == "" for row in systems)
        assert all(len(row) == head.count("|") - 1 for row in systems)
        for beam in report.SEARCHES:  # one of the two is the control
            assert [row[0].partition("@")[0] for row in systems if row[1] == beam and not row[-1]] == [report.CONTROL]
        assert re.match(r"The validation set chooses [a-z-]+(@0\.0003)? with beam and penalty [15]-", parts[part + 1])


def test_a_grid_that_goes_on_does_only_what_is_missing(small: tuple[Path, dict[str, str]]) -> None:
    work, environment = small
    cut = work / "demo-en-zh" / "greedy-passes-1"
    (cut / "done").unlink()
    output = (cut / "test.5-1.5.zh").read_bytes()
    (cut / "test.5-1.5.zh").unlink()
    done = subprocess.run([FOLDER / "run.sh"], env=environment, check=True, capture_output=True, text=True)
    assert re.findall(r"^demo.* is done\.$", done.stdout, flags=re.MULTILINE) == [
        "demo-en-zh, greedy-passes, seed 1 is done."
    ]
    assert (cut / "test.5-1.5.zh").read_bytes() == output
