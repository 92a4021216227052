"""Beam search, one step of it as one batched tensor program, which knows nothing of the model.

Every step expands all hypotheses of all sentences at once. A hypothesis that gets EOS among the best K candidates is
finished; the best K others go on. A sentence is finished when K hypotheses are, or when no live one can still beat the
finished ones that are asked for. What a sentence gets does not depend on its batch.

A step goes from tensors to tensors. What a GPU replays as one graph (search/graphs.py) is a step whose shapes never
change and that tells the host nothing; on a CPU the host looks after every step, and work without effect is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.data.batches import padded
from nmtcli.search.host import Hypothesis, Scoring, SearchBatch, SearchRules, length_penalty
from nmtcli.search.hypotheses import Finished, History, Live, select_rows, trace_back


class DecoderState(Protocol):
    """Whatever a model carries from step to step."""

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        """The state of these sentences (None: all), where hypothesis k goes on from hypothesis `parents_BK[b, k]`.

        This state must not be used again.
        """


S = TypeVar("S", bound=DecoderState)


class Choices(NamedTuple):
    """The tokens that may come next in each hypothesis.

    Attributes:
        log_probs_BKC: of C tokens, minus infinity for disallowed ones; or other scores.
        ids_BKC: of the tokens.
        eos_BK: the log-probability of EOS, whether or not it is among them.
    """

    log_probs_BKC: Tensor
    ids_BKC: Tensor
    eos_BK: Tensor


class AutoregressiveModel(Protocol[S]):
    """A model, or several, one token at a time."""

    def start(self, source_BS: Tensor, mask_BS: Tensor, hypotheses: int) -> S:
        """The state before the first step, with as many hypotheses of each sentence."""

    def step(self, tokens_BK: Tensor, state: S, count: int | None) -> tuple[Choices, Tensor, S]:
        """One step.

        Args:
            tokens_BK: the last tokens.
            state: before the step.
            count: return the `count` likeliest tokens, best first (or all, if fewer); None: all tokens by rising id.
        Returns:
            the choices, attention weights_BKS, and the next state.
        """


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


class BeamState(NamedTuple, Generic[S]):
    """A beam search of B sentences after some steps.

    Attributes:
        live, finished: hypotheses.
        history: their tokens.
        model_state: of the model, after the last step.
        parents_BK: the hypotheses in `model_state` that the live ones go on from; None: each from its own.
        length_1: number of steps so far.
        done_B: True where nothing changes any more.
        max_lengths_B: see `SearchBatch`.
        longest_penalty_B: length penalty of the longest hypothesis.
        source_mask_BS: True on real source tokens.
    """

    live: Live
    finished: Finished
    history: History
    model_state: S
    parents_BK: Tensor | None
    length_1: Tensor
    done_B: Tensor
    max_lengths_B: Tensor
    longest_penalty_B: Tensor
    source_mask_BS: Tensor

    def with_rows(self, kept: list[int], rows: int, *, is_fixed: bool) -> "BeamState[S]":
        """With these rows, and padding rows, which are done, up to the number of rows.

        Args:
            kept: the rows that stay, in their new order.
            rows: how many there must be.
            is_fixed: see `Runner`.
        """
        device = self.done_B.device
        rows_B = torch.tensor([*kept, *[kept[0]] * (rows - len(kept))], device=device)
        own_BK = own_parents(rows, self.live.tokens_BK.shape[1], device)
        parents_BK = own_BK if self.parents_BK is None else self.parents_BK[rows_B]
        is_padding_B = torch.arange(rows, device=device) >= len(kept)
        live = select_rows(self.live, rows_B)
        return BeamState(
            live=live._replace(scores_BK=live.scores_BK.masked_fill(is_padding_B.unsqueeze(1), -torch.inf)),
            finished=select_rows(self.finished, rows_B),
            history=select_rows(self.history, rows_B),
            model_state=self.model_state.select(rows_B, parents_BK),
            parents_BK=own_BK if is_fixed else None,
            length_1=self.length_1,
            done_B=is_padding_B,
            max_lengths_B=self.max_lengths_B[rows_B],
            longest_penalty_B=self.longest_penalty_B[rows_B],
            source_mask_BS=self.source_mask_BS[rows_B],
        )


def own_parents(sentences: int, beam: int, device: torch.device) -> Tensor:
    """parents_BK where each hypothesis goes on from itself."""
    return torch.arange(beam, device=device).repeat(sentences, 1)


class Runner:
    """Runs one step at a time; finished sentences leave at once. `search.graphs.Graphs` is another way.

    Attributes:
        steps: number of steps before the host looks which sentences are finished.
        is_fixed: shapes must not depend on what is found, even if work is done in vain.
    """

    steps = 1
    is_fixed = False

    def rows(self, sentences: int) -> int:
        """Number of rows to hold this many sentences; it rises with them."""
        return sentences

    def width(self, source: int) -> int:
        """Length of sources with their padding."""
        return source

    def capacity(self, longest: int) -> int:
        """Number of steps to make room for at first."""
        return min(longest, 16)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """The state before the first step: `start` of the source."""
        return start(source_BS, mask_BS)

    def run(self, step: Callable[[BeamState[S]], BeamState[S]], state: BeamState[S]) -> BeamState[S]:
        """Take `steps` steps."""
        return step(state)


def encode_batch(
    model: AutoregressiveModel[S], batch: SearchBatch, hypotheses: int, *, runner: Runner, device: torch.device
) -> tuple[Tensor, S]:
    """source_mask_BS of a batch, and the model's state before the first step."""
    source_BS, mask_BS = padded(batch.sources)
    padding = runner.width(source_BS.shape[1]) - source_BS.shape[1]
    source_BS, mask_BS = (F.pad(values, (0, padding)).to(device) for values in (source_BS, mask_BS))
    return mask_BS, runner.begin(lambda ids_BS, real_BS: model.start(ids_BS, real_BS, hypotheses), source_BS, mask_BS)


@dataclass(frozen=True)
class BeamStep(Generic[S]):
    """One step of a beam search.

    Attributes:
        model: what proposes tokens.
        rules: of the search.
        is_fixed: see `Runner`.
        penalties_T: length penalty of each length.
        never: minus infinity; a number of the host's would be a kernel more wherever it is used.
        only_first_C: 0 for the first of the 2K choices and `never` for the others.
    """

    model: AutoregressiveModel[S]
    rules: SearchRules
    is_fixed: bool
    penalties_T: Tensor
    never: Tensor
    only_first_C: Tensor

    @classmethod
    def of(
        cls, model: AutoregressiveModel[S], rules: SearchRules, *, longest: int, is_fixed: bool, device: torch.device
    ) -> Self:
        """With room for hypotheses of `longest` tokens."""
        penalties = [length_penalty(length, rules.alpha) for length in range(longest + 1)]
        penalties_T = _without_waiting(torch.tensor(penalties), device)
        never = torch.full((), -torch.inf, device=device)
        only_first_C = torch.where(torch.arange(2 * rules.beam, device=device) == 0, 0.0, never)
        return cls(model, rules, is_fixed, penalties_T, never, only_first_C)

    def __call__(self, state: BeamState[S]) -> BeamState[S]:
        """The state after one more step."""
        K, beta, live = self.rules.beam, self.rules.beta, state.live
        model_state = state.model_state
        if state.parents_BK is not None:
            model_state = model_state.select(None, state.parents_BK)
        # 2K candidates: at most K of them are EOS, so that K others are left to go on. Where a sentence is done, as on
        # padding rows, no live hypothesis has a finite score, and none of what follows makes it one again.
        choices, weights_BKS, model_state = self.model.step(live.tokens_BK, model_state, 2 * K)
        place_1, length_1 = state.length_1, state.length_1 + 1
        last_B = state.max_lengths_B <= length_1
        if self.is_fixed or last_B.any():
            choices = self._only_eos(choices, last_B)
        scores_BC, flat_BC = self._candidates(live, choices)
        ids_BKC = choices.ids_BKC
        parents_BC, tokens_BC = flat_BC // ids_BKC.shape[-1], ids_BKC.flatten(1).gather(1, flat_BC)
        is_eos_BC = tokens_BC == self.rules.eos

        coverage_BKS = live.coverage_BKS + weights_BKS if beta else live.coverage_BKS  # of the parents
        finished, ended_BK = state.finished, is_eos_BC[:, :K]
        if self.is_fixed or ended_BK.any():
            ranks_BK = scores_BC[:, :K] / self.penalties_T.index_select(0, length_1)
            if beta:
                penalty_BK = coverage_penalty(coverage_BKS, state.source_mask_BS, beta)
                ranks_BK = ranks_BK + penalty_BK.gather(1, parents_BC[:, :K])
            ranks_BK = torch.where(ended_BK, ranks_BK, self.never)
            ends_BK = torch.add(parents_BC[:, :K], place_1, alpha=K)
            finished = finished.merge(ranks_BK, scores_BC[:, :K], ends_BK)

        scores_BK, choice_BK = torch.where(is_eos_BC, self.never, scores_BC).topk(K)
        parents_BK, tokens_BK = parents_BC.gather(1, choice_BK), tokens_BC.gather(1, choice_BK)
        history = state.history.add(place_1, tokens_BK, parents_BK, weights_BKS)
        done_B = self._done(finished, scores_BK, state.longest_penalty_B) | last_B
        return state._replace(
            live=Live(
                torch.where(done_B.unsqueeze(1), self.never, scores_BK),
                tokens_BK,
                _of_parents(coverage_BKS, parents_BK) if beta else coverage_BKS,
            ),
            finished=finished,
            history=history,
            model_state=model_state,
            parents_BK=parents_BK,
            length_1=length_1,
            done_B=done_B,
        )

    def _only_eos(self, choices: Choices, last_B: Tensor) -> Choices:
        """The choices, but EOS alone in the sentences whose last token this is."""
        last_B11 = last_B[:, None, None]
        only_eos_BKC = choices.eos_BK.unsqueeze(2) + self.only_first_C[: choices.ids_BKC.shape[2]]
        return choices._replace(
            log_probs_BKC=torch.where(last_B11, only_eos_BKC, choices.log_probs_BKC),
            ids_BKC=torch.where(last_B11, self.rules.eos, choices.ids_BKC),
        )

    def _candidates(self, live: Live, choices: Choices) -> tuple[Tensor, Tensor]:
        """scores_BC of the best 2K extensions of all hypotheses of a sentence, and their places among all, flat_BC."""
        before_BK1 = live.scores_BK.unsqueeze(-1)
        if self.rules.scoring is not Scoring.LOG_PROBABILITY:
            before_BK1 = torch.where(before_BK1.isfinite(), 0.0, before_BK1)  # minus infinity: there is no hypothesis
        totals_BN = (before_BK1 + choices.log_probs_BKC).flatten(1)
        return totals_BN.topk(min(2 * self.rules.beam, totals_BN.shape[1]))

    def _done(self, finished: Finished, scores_BK: Tensor, longest_penalty_B: Tensor) -> Tensor:
        """done_B: True where K hypotheses are finished, or no live one can still become one of the best.

        Log-probabilities can only fall: a hypothesis reaches at most its score now over the longest penalty. A sentence
        at its longest is done in any case, even if scores are NaN; that is for the caller to add.
        """
        reachable_B = scores_BK[:, 0] / longest_penalty_B
        if self.rules.scoring is not Scoring.LOG_PROBABILITY:
            reachable_B = torch.where(reachable_B.isfinite(), torch.inf, reachable_B)
        is_sure_B = finished.ranks_BK[:, self.rules.best - 1] >= reachable_B
        return finished.are_full() | is_sure_B


class BeamProgram(Generic[S]):
    """Beam search as a `search.host.SearchProgram`, for one search.

    Args:
        model: what proposes tokens.
        rules: of the search. A beam that holds every prefix makes it exhaustive search, a beam of 1 greedy search.
        device: where the model is.
        runner: how to take steps; it may serve another search only if model and rules are the same.
    """

    _step: BeamStep[S]
    _state: BeamState[S]
    _steps: int  # taken so far
    _capacity: int  # of the history [steps]

    def __init__(
        self, model: AutoregressiveModel[S], rules: SearchRules, *, device: torch.device, runner: Runner | None = None
    ) -> None:
        self._model = model
        self._rules = rules
        self._device = device
        self._runner = runner or Runner()

    def start(self, batch: SearchBatch) -> None:
        """See `search.host.SearchProgram`."""
        rules, runner, device = self._rules, self._runner, self._device
        mask_BS, model_state = encode_batch(self._model, batch, rules.beam, runner=runner, device=device)
        count, source = mask_BS.shape
        longest = max(batch.max_lengths)
        self._steps, self._capacity = 0, runner.capacity(longest)
        self._step = BeamStep.of(
            self._model,
            rules,
            longest=max(longest, self._capacity) + runner.steps,
            is_fixed=runner.is_fixed,
            device=device,
        )
        max_lengths_B = _without_waiting(torch.tensor(batch.max_lengths), device)
        self._state = BeamState(
            live=Live.first(count, rules.beam, rules.bos, source if rules.beta else 0, device),
            finished=Finished.empty(count, rules.beam, device),
            history=History.empty(count, rules.beam, self._capacity, source if rules.with_attention else 0, device),
            model_state=model_state,
            parents_BK=own_parents(count, rules.beam, device) if runner.is_fixed else None,
            length_1=torch.zeros(1, dtype=torch.long, device=device),
            done_B=torch.zeros(count, dtype=torch.bool, device=device),
            max_lengths_B=max_lengths_B,
            longest_penalty_B=self._step.penalties_T[max_lengths_B],
            source_mask_BS=mask_BS,
        )
        if self.rows_for(count) != count:
            self.keep(list(range(count)))

    def advance(self) -> None:
        """See `search.host.SearchProgram`."""
        if self._steps + self._runner.steps > self._capacity:
            self._capacity *= 2
            self._state = self._state._replace(history=self._state.history.with_room(self._capacity))
        self._state = self._runner.run(self._step, self._state)
        self._steps += self._runner.steps

    def done(self) -> list[bool]:
        """See `search.host.SearchProgram`."""
        done: list[bool] = self._state.done_B.tolist()
        return done

    def rows_for(self, sentences: int) -> int:
        """See `search.host.SearchProgram`."""
        return self._runner.rows(sentences)

    def keep(self, rows: list[int]) -> None:
        """See `search.host.SearchProgram`."""
        self._state = self._state.with_rows(rows, self.rows_for(len(rows)), is_fixed=self._runner.is_fixed)

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """See `search.host.SearchProgram`."""
        state, rules = self._state, self._rules
        return trace_back(
            state.finished,
            state.history,
            state.source_mask_BS,
            rows,
            eos=rules.eos,
            most=rules.most or rules.beam,
        )


def _of_parents(values_BKS: Tensor, parents_BK: Tensor) -> Tensor:
    """The values of the parents."""
    return values_BKS.gather(1, parents_BK.unsqueeze(-1).expand(-1, -1, values_BKS.shape[-1]))


def _without_waiting(values: Tensor, device: torch.device) -> Tensor:
    """The same on the device; a GPU need not finish its work first."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values
