"""Beam search over a step function: one batched tensor program, which knows nothing of the model.

Every step expands all hypotheses of all sentences at once. A hypothesis that says EOS among the best K candidates is
finished; the best K others go on. A sentence is done, and leaves the batch, when K hypotheses are finished, or when no
live one can still beat the finished ones that are asked for. What a sentence gets does not depend on its batch.

A step goes from tensors to tensors. What a GPU replays as one graph (search/graphs.py) is a step whose shapes never
change and that tells the host nothing; on a CPU the host looks after every step, and what is not needed is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F


class SearchState(Protocol):
    """Whatever a step function carries from step to step."""

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        """The state of these sentences (None: all), where hypothesis k goes on from hypothesis `parents_BK[b, k]`.

        This state must not be used again.
        """


S = TypeVar("S", bound=SearchState)


class Choices(NamedTuple):
    """What each hypothesis may say next.

    Attributes:
        log_probs_BKC: of C tokens, minus infinity where one must not be said; or other scores.
        ids_BKC: which they are.
        eos_BK: what EOS has, whether or not it is among them.
    """

    log_probs_BKC: Tensor
    ids_BKC: Tensor
    eos_BK: Tensor


class StepFunction(Protocol[S]):
    """One step of the model, or of several."""

    def __call__(self, tokens_BK: Tensor, state: S, count: int | None) -> tuple[Choices, Tensor, S]:
        """From the last tokens to the next ones.

        Args:
            tokens_BK: the last tokens.
            state: before the step.
            count: how many of the likeliest tokens, best first (as many as there are, if fewer); None: all, ids rising.
        Returns:
            the choices, attention weights_BKS, and the next state.
        """


class Hypothesis(NamedTuple):
    """A finished translation.

    Attributes:
        ids: EOS at the end.
        log_probability: of all ids, EOS included [nats]; where scores are no log-probabilities, the score.
        score: what hypotheses are ranked by.
        attention_TS: weights of each step over the source; None unless asked for.
    """

    ids: list[int]
    log_probability: float
    score: float
    attention_TS: Tensor | None


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = ((5 + |Y|) / 6) ** alpha, EOS counted.

    Source:
        Wu et al. 2016, eq. 14.

    >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
    (1.0, 2.0)
    """
    return float(((5 + length) / 6) ** alpha)


def coverage_penalty(coverage_BKS: Tensor, mask_BS: Tensor, beta: float) -> Tensor:
    """cp(X, Y) = beta * sum over the source of log(min(attention received, 1)).

    Args:
        coverage_BKS: sums of attention weights over the steps.
        mask_BS: True on real source tokens.
    Returns:
        penalty_BK, at most 0.
    Source:
        Wu et al. 2016, eq. 14.
    """
    logs_BKS = coverage_BKS.clamp(min=1e-9, max=1.0).log().masked_fill(~mask_BS.unsqueeze(1), 0.0)
    return beta * logs_BKS.sum(dim=-1)


class Progress(NamedTuple, Generic[S]):
    """A search of B sentences after some steps.

    Attributes:
        live, finished: hypotheses.
        history: what they have said.
        state: of the step function, after the last step.
        parents_BK: which of its hypotheses the live ones go on from; None: each from its own.
        length_1: steps so far.
        done_B: nothing changes any more.
        max_lengths_B, source_mask_BS: see `beam_search`.
        longest_penalty_B: length penalty of the longest hypothesis.
    """

    live: "Live"
    finished: "Finished"
    history: "History"
    state: S
    parents_BK: Tensor | None
    length_1: Tensor
    done_B: Tensor
    max_lengths_B: Tensor
    longest_penalty_B: Tensor
    source_mask_BS: Tensor


class Runner:
    """How a search goes on: step by step, sentences leave when they are done. `search.graphs.Graphs` is another way.

    Attributes:
        steps: how many are taken before the host looks which sentences are done.
        is_fixed: shapes must not depend on what is found, even if work is done in vain.
    """

    steps = 1
    is_fixed = False

    def rows(self, sentences: int) -> int:
        """How many rows there shall be for so many sentences; rising with them."""
        return sentences

    def full(self, sentences: int) -> int:
        """At most so many sentences, such that no row is of none."""
        return sentences

    def width(self, source: int) -> int:
        """How long sources shall be with their padding."""
        return source

    def capacity(self, longest: int) -> int:
        """For how many steps there shall be room at first."""
        return min(longest, 16)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """The state before the first step; what `start` makes of the source."""
        return start(source_BS, mask_BS)

    def run(self, step: Callable[[Progress[S]], Progress[S]], progress: Progress[S]) -> Progress[S]:
        """Takes `steps` steps."""
        return step(progress)


def beam_search(
    step: StepFunction[S],
    state: S,
    *,
    source_mask_BS: Tensor,
    max_lengths_B: Tensor,
    beam: int,
    bos: int,
    eos: int,
    alpha: float = 0.0,
    beta: float = 0.0,
    best: int = 1,
    most: int | None = None,
    accumulates: bool = True,
    with_attention: bool = False,
    runner: Runner | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each sentence.

    Args:
        step: one step of the model.
        state: of B sentences with K hypotheses each.
        source_mask_BS: True on real source tokens; for the coverage penalty and the attention.
        max_lengths_B: longest hypothesis, EOS counted; there EOS is the only choice [tokens]. On the host.
        beam: K.
        bos, eos: ids.
        alpha: of the length penalty.
        beta: of the coverage penalty.
        best: how many hypotheses a sentence must be sure of before it is done; at most K.
        most: how many hypotheses to give, if there are so many; None: K.
        accumulates: what `step` gives are log-probabilities, whose sum is the score of a hypothesis. False: they are
            scores of whole hypotheses, which may rise as these go on; then a sentence is done after K hypotheses.
        with_attention: keep the attention weights of every step.
        runner: how to go on; one is used again only for searches that differ in `state`, masks and lengths alone.
    Returns:
        for each sentence its hypotheses, best first, at least one. With a beam that holds every prefix this is
        exhaustive search; with K = 1 it is greedy search.
    """
    runner = runner or Runner()
    device = source_mask_BS.device
    count, longest = len(max_lengths_B), int(max_lengths_B.max())
    capacity = runner.capacity(longest)
    source = source_mask_BS.shape[1]
    penalties = [length_penalty(length, alpha) for length in range(max(longest, capacity) + runner.steps + 1)]
    penalties_T = _without_waiting(torch.tensor(penalties), device)
    max_lengths_B = _without_waiting(max_lengths_B, device)
    progress = Progress(
        Live.first(count, beam, bos, source if beta else 0, device),
        Finished.none(count, beam, device),
        History.none(count, beam, capacity, source if with_attention else 0, device),
        state,
        _own(count, beam, device) if runner.is_fixed else None,
        torch.zeros(1, dtype=torch.long, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
        max_lengths_B,
        penalties_T[max_lengths_B],
        source_mask_BS,
    )
    never = torch.full((), -torch.inf, device=device)
    only_first_C = torch.where(torch.arange(2 * beam, device=device) == 0, 0.0, never)
    rules = _Rules(step, beam, eos, penalties_T, never, only_first_C, beta, best, accumulates, runner.is_fixed)
    results: list[list[Hypothesis]] = [[] for _ in range(count)]
    sentences = list(range(count))  # of each row; -1: of none
    steps = 0
    while True:
        done = progress.done_B.tolist()
        going_on = not_done(done)
        rows = runner.rows(len(going_on)) if going_on else 0
        if rows != len(done):
            leaving = [row for row, sentence in enumerate(sentences) if done[row] and sentence >= 0]
            for row, hypotheses in zip(leaving, _hypotheses(progress, leaving, eos, most or beam), strict=True):
                results[sentences[row]] = hypotheses
            if not going_on:
                return results
            progress = _with_rows(progress, going_on, rows, runner.is_fixed)
            sentences = [*(sentences[row] for row in going_on), *[-1] * (rows - len(going_on))]
        if steps + runner.steps > capacity:
            capacity *= 2
            progress = progress._replace(history=progress.history.with_room(capacity))
        progress = runner.run(rules, progress)
        steps += runner.steps


@dataclass(frozen=True)
class _Rules(Generic[S]):
    """What a step of a search does; see `beam_search`.

    Attributes:
        penalties_T: length penalty of each length.
        never: minus infinity; a number of the host's would be a kernel more wherever it is used.
        only_first_C: 0 for the first of as many choices as there can be, and `never`.
        is_fixed: see `Runner`.
    """

    step: StepFunction[S]
    beam: int
    eos: int
    penalties_T: Tensor
    never: Tensor
    only_first_C: Tensor
    beta: float
    best: int
    accumulates: bool
    is_fixed: bool

    def __call__(self, progress: Progress[S]) -> Progress[S]:
        live, finished, history, state, parents_BK, length_1, _, max_lengths_B = progress[:8]
        K = self.beam
        if parents_BK is not None:
            state = state.select(None, parents_BK)
        # 2K candidates: at most K of them say EOS, so that K others are left to go on. Where a sentence is done, as on
        # rows of none, no live hypothesis has a finite score, and none of what follows makes it one again.
        (log_probs_BKC, ids_BKC, eos_BK), weights_BKS, state = self.step(live.tokens_BK, state, 2 * K)
        place_1, length_1 = length_1, length_1 + 1
        last_B = max_lengths_B <= length_1
        if self.is_fixed or last_B.any():
            last_B11 = last_B[:, None, None]
            only_eos_BKC = eos_BK.unsqueeze(2) + self.only_first_C[: ids_BKC.shape[2]]
            log_probs_BKC = torch.where(last_B11, only_eos_BKC, log_probs_BKC)
            ids_BKC = torch.where(last_B11, self.eos, ids_BKC)
        before_BK1 = live.scores_BK.unsqueeze(-1)
        if not self.accumulates:
            before_BK1 = torch.where(before_BK1.isfinite(), 0.0, before_BK1)  # minus infinity: there is no hypothesis
        totals_BN = (before_BK1 + log_probs_BKC).flatten(1)
        scores_BC, flat_BC = totals_BN.topk(min(2 * K, totals_BN.shape[1]))
        parents_BC, tokens_BC = flat_BC // ids_BKC.shape[-1], ids_BKC.flatten(1).gather(1, flat_BC)
        says_eos_BC = tokens_BC == self.eos

        if self.beta:
            coverage_BKS = live.coverage_BKS + weights_BKS  # of the parents
            penalty_BK = coverage_penalty(coverage_BKS, progress.source_mask_BS, self.beta)
        ended_BK = says_eos_BC[:, :K]
        if self.is_fixed or ended_BK.any():
            ranks_BK = scores_BC[:, :K] / self.penalties_T.index_select(0, length_1)
            if self.beta:
                ranks_BK = ranks_BK + penalty_BK.gather(1, parents_BC[:, :K])
            ranks_BK = torch.where(ended_BK, ranks_BK, self.never)
            ends_BK = torch.add(parents_BC[:, :K], place_1, alpha=K)
            finished = finished.merge(ranks_BK, scores_BC[:, :K], ends_BK)

        scores_BK, choice_BK = torch.where(says_eos_BC, self.never, scores_BC).topk(K)
        parents_BK, tokens_BK = parents_BC.gather(1, choice_BK), tokens_BC.gather(1, choice_BK)
        history = history.add(place_1, tokens_BK, parents_BK, weights_BKS)
        coverage_BKS = _of_parents(coverage_BKS, parents_BK) if self.beta else live.coverage_BKS

        # a live hypothesis can only lose probability; its score is at most what it has now over the longest penalty
        reachable_B = scores_BK[:, 0] / progress.longest_penalty_B
        if not self.accumulates:
            reachable_B = torch.where(reachable_B.isfinite(), torch.inf, reachable_B)
        is_sure_B = finished.ranks_BK[:, self.best - 1] >= reachable_B
        done_B = finished.are_all() | is_sure_B | last_B  # the last one also where scores are no numbers
        live = Live(torch.where(done_B.unsqueeze(1), self.never, scores_BK), tokens_BK, coverage_BKS)
        return Progress(live, finished, history, state, parents_BK, length_1, done_B, *progress[7:])


def _of_parents(values_BKS: Tensor, parents_BK: Tensor) -> Tensor:
    """What the parents have."""
    return values_BKS.gather(1, parents_BK.unsqueeze(-1).expand(-1, -1, values_BKS.shape[-1]))


def not_done(done: list[bool]) -> list[int]:
    """The rows that go on, each in its place unless that is beyond their number: few have to be moved.

    >>> not_done([False, True, False, False])
    [0, 3, 2]
    """
    rows = [row for row, is_done in enumerate(done) if not is_done]
    beyond = (row for row in rows if row >= len(rows))
    return [next(beyond) if done[row] else row for row in range(len(rows))]


def _without_waiting(values: Tensor, device: torch.device) -> Tensor:
    """The same there; a GPU goes on with what it was told before."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _own(sentences: int, beam: int, device: torch.device) -> Tensor:
    """parents_BK where each hypothesis goes on from its own."""
    return torch.arange(beam, device=device).repeat(sentences, 1)


def _with_rows(progress: Progress[S], kept: list[int], rows: int, is_fixed: bool) -> Progress[S]:
    """With these rows only, and others that are done, so that there are as many as shall be."""
    device = progress.done_B.device
    rows_B = torch.tensor([*kept, *[kept[0]] * (rows - len(kept))], device=device)
    own_BK = _own(rows, progress.live.tokens_BK.shape[1], device)
    parents_BK = own_BK if progress.parents_BK is None else progress.parents_BK[rows_B]
    is_none_B = torch.arange(rows, device=device) >= len(kept)
    live = _rows(progress.live, rows_B)
    return Progress(
        live._replace(scores_BK=live.scores_BK.masked_fill(is_none_B.unsqueeze(1), -torch.inf)),
        _rows(progress.finished, rows_B),
        _rows(progress.history, rows_B),
        progress.state.select(rows_B, parents_BK),
        own_BK if is_fixed else None,
        progress.length_1,
        is_none_B,
        progress.max_lengths_B[rows_B],
        progress.longest_penalty_B[rows_B],
        progress.source_mask_BS[rows_B],
    )


class Live(NamedTuple):
    """The hypotheses that go on: scores, last tokens, and sums of attention weights where these are asked for."""

    scores_BK: Tensor
    tokens_BK: Tensor
    coverage_BKS: Tensor

    @classmethod
    def first(cls, sentences: int, beam: int, bos: int, source: int, device: torch.device) -> Self:
        """One hypothesis a sentence that has said BOS; the others are impossible until it has branched."""
        scores_BK = torch.full((sentences, beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens_BK = torch.full((sentences, beam), bos, device=device)
        return cls(scores_BK, tokens_BK, torch.zeros((sentences, beam, source), device=device))


class Finished(NamedTuple):
    """The best K finished hypotheses of each sentence, best first.

    Attributes:
        ranks_BK, scores_BK: see `Hypothesis`; ranks of minus infinity where there is none.
        ends_BK: K times the steps before EOS, plus which of the K hypotheses it was that then said EOS.
    """

    ranks_BK: Tensor
    scores_BK: Tensor
    ends_BK: Tensor

    @classmethod
    def none(cls, sentences: int, beam: int, device: torch.device) -> Self:
        """No hypothesis yet."""
        nothing_BK = torch.full((sentences, beam), -torch.inf, device=device)
        zeros_BK = torch.zeros((sentences, beam), dtype=torch.long, device=device)
        return cls(nothing_BK, nothing_BK, zeros_BK)

    def are_all(self) -> Tensor:
        """are_all_B: True where there are K."""
        return self.ranks_BK[:, -1] > -torch.inf

    def merge(self, ranks_BK: Tensor, scores_BK: Tensor, ends_BK: Tensor) -> Self:
        """With the hypotheses that ended now, where their rank is finite."""
        best_BK, choice_BK = torch.cat([self.ranks_BK, ranks_BK], dim=1).topk(ranks_BK.shape[1])
        return self.__class__(
            best_BK,
            torch.cat([self.scores_BK, scores_BK], dim=1).gather(1, choice_BK),
            torch.cat([self.ends_BK, ends_BK], dim=1).gather(1, choice_BK),
        )


class History(NamedTuple):
    """What each of K hypotheses said at each of T steps, from which one before it that went on, and where it looked.

    Attributes:
        tokens_BTK, parents_BTK: of those after the step.
        attention_BTKS: of those before the step; S = 0 unless somebody asks for it.
    """

    tokens_BTK: Tensor
    parents_BTK: Tensor
    attention_BTKS: Tensor

    @classmethod
    def none(cls, sentences: int, beam: int, capacity: int, source: int, device: torch.device) -> Self:
        """Nothing yet."""
        zeros_BTK = torch.zeros((sentences, capacity, beam), dtype=torch.long, device=device)
        return cls(zeros_BTK, zeros_BTK.clone(), torch.zeros((sentences, capacity, beam, source), device=device))

    def add(self, place_1: Tensor, tokens_BK: Tensor, parents_BK: Tensor, weights_BKS: Tensor) -> Self:
        """With another step, in place."""
        self.tokens_BTK.index_copy_(1, place_1, tokens_BK.unsqueeze(1))
        self.parents_BTK.index_copy_(1, place_1, parents_BK.unsqueeze(1))
        if self.attention_BTKS.shape[-1]:
            self.attention_BTKS.index_copy_(1, place_1, weights_BKS.unsqueeze(1).to(self.attention_BTKS.dtype))
        return self

    def with_room(self, capacity: int) -> Self:
        """For so many steps."""
        more = capacity - self.tokens_BTK.shape[1]
        return self.__class__(
            F.pad(self.tokens_BTK, (0, 0, 0, more)),
            F.pad(self.parents_BTK, (0, 0, 0, more)),
            F.pad(self.attention_BTKS, (0, 0, 0, 0, 0, more)),
        )


def _hypotheses(progress: Progress[S], rows: list[int], eos: int, most: int) -> list[list[Hypothesis]]:
    """What these rows have found."""
    finished, history = progress.finished, progress.history
    rows_B = torch.tensor(rows, dtype=torch.long, device=progress.done_B.device)
    of_rows = zip(
        *(values_BK[rows_B, :most].tolist() for values_BK in (finished.ranks_BK, finished.scores_BK, finished.ends_BK)),
        *(values_BTK[rows_B].tolist() for values_BTK in (history.tokens_BTK, history.parents_BTK)),
        history.attention_BTKS[rows_B],
        progress.source_mask_BS[rows_B],
        strict=True,
    )
    beam = history.tokens_BTK.shape[2]
    found = []
    for ranks, scores, ends, tokens, parents, attention_TKS, source_mask_S in of_rows:
        hypotheses = []
        for rank, score, end in zip(ranks, scores, ends, strict=True):
            if not math.isfinite(rank):
                continue
            steps, number = divmod(end, beam)
            ids, numbers = [eos], [number]
            for step in reversed(range(steps)):
                ids.append(tokens[step][number])
                number = parents[step][number]
                numbers.append(number)
            attention_TS = None
            if attention_TKS.shape[-1]:
                attention_TS = attention_TKS[range(steps + 1), numbers[::-1]][:, source_mask_S]
            hypotheses.append(Hypothesis(ids[::-1], score, rank, attention_TS))
        found.append(hypotheses)
    return found


R = TypeVar("R", Live, Finished, History)


def _rows(record: R, rows_B: Tensor) -> R:
    return record.__class__(*(values[rows_B] for values in record))
