"""The loop over steps drives a program made of lists; its module and imports do without torch."""

import subprocess
import sys

import pytest

from nmtcli.search.host import (
    Hypothesis,
    Sampling,
    Scoring,
    SearchBatch,
    SearchRules,
    rounded_up,
    run_search,
    unfinished,
)
from nmtcli.search.searchers import BatchSizes


class Counting:
    """A program without tensors: sentence n takes as many steps as its source is long, and its result is its ids.

    Args:
        rounds: rows are padded to `rounded_up`, and two steps are taken at once.
    """

    def __init__(self, *, rounds: bool) -> None:
        self.rounds = rounds
        self.sources: list[list[int]] = []  # sources of the rows, without padding rows
        self.padding = 0
        self.steps = 0
        self.rows: list[int] = []  # number of rows before each step

    def start(self, batch: SearchBatch) -> None:
        self.sources = batch.sources
        self.padding = self.rows_for(len(batch.sources)) - len(batch.sources)

    def advance(self) -> None:
        self.rows.append(len(self.sources) + self.padding)
        self.steps += 2 if self.rounds else 1

    def done(self) -> list[bool]:
        return [len(ids) <= self.steps for ids in self.sources] + [True] * self.padding

    def rows_for(self, sentences: int) -> int:
        return rounded_up(sentences) if self.rounds else sentences

    def keep(self, rows: list[int]) -> None:
        assert rows
        self.sources = [self.sources[row] for row in rows]
        self.padding = self.rows_for(len(rows)) - len(rows)

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        return [[Hypothesis(self.sources[row], 0.0, 0.0, None)] for row in rows]


LENGTHS = [5, 1, 9, 2, 2, 7, 1]


@pytest.mark.parametrize("rounds", [False, True])
def test_every_sentence_gets_its_own_result_whenever_it_leaves(rounds: bool) -> None:
    sources = [[number] * length for number, length in enumerate(LENGTHS)]
    program = Counting(rounds=rounds)
    found = run_search(program, SearchBatch(sources, [0] * len(sources), LENGTHS))
    assert [[one.ids for one in some] for some in found] == [[ids] for ids in sources]


def test_sentences_leave_when_there_can_be_fewer_rows() -> None:
    sources = [[0] * length for length in LENGTHS]
    single, double = Counting(rounds=False), Counting(rounds=True)
    for program in (single, double):
        run_search(program, SearchBatch(sources, [0] * len(sources), LENGTHS))
    assert single.rows == [7, 5, 3, 3, 3, 2, 2, 1, 1]
    assert double.rows == [8, 3, 3, 2, 1]


def test_a_batch_without_sentences_takes_no_step() -> None:
    program = Counting(rounds=False)
    assert run_search(program, SearchBatch([], [], [])) == []
    assert program.rows == []


def test_few_rows_move() -> None:
    assert unfinished([True, False, False, True, False]) == [4, 1, 2]
    assert unfinished([True, True]) == []


def test_only_greedy_search_goes_without_scores() -> None:
    assert SearchRules(beam=1, scoring=Scoring.UNSCORED).scoring is Scoring.UNSCORED
    with pytest.raises(ValueError, match="greedy"):
        SearchRules(beam=2, scoring=Scoring.UNSCORED)
    with pytest.raises(ValueError, match="greedy"):
        SearchRules(beam=1, scoring=Scoring.UNSCORED, sampling=Sampling())


@pytest.mark.parametrize("sentences", range(1, 40))
def test_a_full_batch_needs_no_padding_rows_and_one_more_would(sentences: int) -> None:
    sizes = BatchSizes(hypotheses=5, tokens=100, pads_rows=True)
    full = sizes.full(sentences)
    assert full <= sentences
    assert rounded_up(full) == full
    assert all(rounded_up(more) != more for more in range(full + 1, sentences + 1))
    assert BatchSizes(hypotheses=5, tokens=100).full(sentences) == sentences


@pytest.mark.parametrize("module", ["host", "searchers", "translator"])
def test_text_order_batches_and_the_loop_import_no_torch(module: str) -> None:
    script = f"import sys, nmtcli.search.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
