"""Beam search: one step as a batched function on tensors, independent of the model.

Every step expands all hypotheses of all sentences at once. Candidates that end in EOS and are among the K best become
finished hypotheses; the K best other candidates stay live. A sentence is finished when it has K finished hypotheses, or
when no live hypothesis can still become one of the n best requested. The result for a sentence does not depend on its
batch.

On a GPU, steps are replayed as CUDA graphs (search/graphs.py), so their shapes are fixed and they return no values to
the host. On a CPU, the host inspects the result of every step and skips work that would have no effect.
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
    """The state that a model carries from one step to the next."""

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        """Return the state for the selected sentences, in which each hypothesis continues its parent.

        The old state must not be used afterwards: its tensors may be overwritten.

        Args:
            sentences_B: indices of the sentences to keep, in their new order; None: all sentences.
            parents_BK: for each new hypothesis, the index in the old state of the hypothesis that it continues.
        """


S = TypeVar("S", bound=DecoderState)


class Choices(NamedTuple):
    """Candidates for the next token of each hypothesis.

    Attributes:
        log_probs_BKC: log-probabilities (or logits) of C tokens; minus infinity for disallowed tokens.
        ids_BKC: ids of the tokens.
        eos_BK: log-probability (or logit) of EOS, whether or not it is among the C tokens.
    """

    log_probs_BKC: Tensor
    ids_BKC: Tensor
    eos_BK: Tensor


class AutoregressiveModel(Protocol[S]):
    """A model or an ensemble that predicts one token at a time."""

    def start(self, source_BS: Tensor, mask_BS: Tensor, hypotheses: int) -> S:
        """Encode the sources; return the state before the first step, with `hypotheses` rows for each sentence."""

    def step(self, tokens_BK: Tensor, state: S, count: int | None) -> tuple[Choices, Tensor, S]:
        """Take one decoding step.

        Args:
            tokens_BK: last token of each hypothesis.
            state: state before the step.
            count: number of tokens to return for each hypothesis, the most probable first; if there are fewer tokens,
                all are returned. None: return all tokens, in the order of their ids.
        Returns:
            the choices, the attention weights_BKS, and the next state.
        """


def coverage_penalty(coverage_BKS: Tensor, mask_BS: Tensor, beta: float) -> Tensor:
    """Return cp(X, Y) = beta * the sum of log(min(attention received, 1)) over the source tokens.

    Args:
        coverage_BKS: attention weights summed over the steps.
        mask_BS: True on real source tokens.
    Returns:
        penalty_BK, at most 0.
    Source:
        Wu et al. 2016, eq. 14.
    """
    logs_BKS = coverage_BKS.clamp(min=1e-9, max=1.0).log().masked_fill(~mask_BS.unsqueeze(1), 0.0)
    return beta * logs_BKS.sum(dim=-1)


class BeamState(NamedTuple, Generic[S]):
    """State of a beam search over B sentences, between two steps.

    Attributes:
        live, finished: live and finished hypotheses.
        history: tokens, back-pointers and attention of the steps so far.
        model_state: the model's state after the last step.
        parents_BK: for each live hypothesis, the index in `model_state` of the hypothesis that it continues; None if
            every hypothesis continues the one at its own index.
        length_1: number of steps so far.
        done_B: True for finished sentences and padding rows.
        max_lengths_B: maximum length of hypotheses, EOS included [tokens].
        longest_penalty_B: length penalty of a hypothesis with the maximum length.
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
        """Return the state for the rows in `kept`, followed by padding rows, which count as finished.

        Args:
            kept: indices of the rows to keep, in their new order.
            rows: number of rows in the new state, padding rows included.
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
    """Return parents_BK where each hypothesis is its own parent: k for hypothesis k."""
    return torch.arange(beam, device=device).repeat(sentences, 1)


class Runner:
    """Runs one step at a time, without padding; `search.graphs.Graphs` runs several steps in a CUDA graph.

    Attributes:
        steps: number of steps in one call of `run`, after which the host checks for finished sentences.
        is_fixed: True if shapes must not depend on the values in tensors, even if this wastes some work.
    """

    steps = 1
    is_fixed = False

    def rows(self, sentences: int) -> int:
        """Return the number of rows, padding included, for `sentences` sentences."""
        return sentences

    def width(self, source: int) -> int:
        """Return the length to which sources are padded, given the longest source [tokens]."""
        return source

    def capacity(self, longest: int) -> int:
        """Return the initial capacity of the history, given the maximum length of hypotheses [steps]."""
        return min(longest, 16)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """Return the initial state, `start(source_BS, mask_BS)`."""
        return start(source_BS, mask_BS)

    def run(self, step: Callable[[BeamState[S]], BeamState[S]], state: BeamState[S]) -> BeamState[S]:
        """Take `steps` steps; return the state after them."""
        return step(state)


def encode_batch(
    model: AutoregressiveModel[S], batch: SearchBatch, hypotheses: int, *, runner: Runner, device: torch.device
) -> tuple[Tensor, S]:
    """Encode a batch; return source_mask_BS and the model's state before the first step."""
    source_BS, mask_BS = padded(batch.sources)
    padding = runner.width(source_BS.shape[1]) - source_BS.shape[1]
    source_BS, mask_BS = (F.pad(values, (0, padding)).to(device) for values in (source_BS, mask_BS))
    return mask_BS, runner.begin(lambda ids_BS, real_BS: model.start(ids_BS, real_BS, hypotheses), source_BS, mask_BS)


@dataclass(frozen=True)
class BeamStep(Generic[S]):
    """One step of a beam search.

    Attributes:
        model: predicts the next tokens.
        rules: settings of the search.
        is_fixed: see `Runner`.
        penalties_T: length penalty for each length, from 0.
        never: minus infinity as a tensor on the device; a Python number would need an extra kernel at each use.
        only_first_C: 0 for the first of the 2K choices, minus infinity for the others; added to the score
            of EOS to make EOS the only choice.
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
        """Make a step for hypotheses of at most `longest` tokens."""
        penalties = [length_penalty(length, rules.alpha) for length in range(longest + 1)]
        penalties_T = _without_waiting(torch.tensor(penalties), device)
        never = torch.full((), -torch.inf, device=device)
        only_first_C = torch.where(torch.arange(2 * rules.beam, device=device) == 0, 0.0, never)
        return cls(model, rules, is_fixed, penalties_T, never, only_first_C)

    def __call__(self, state: BeamState[S]) -> BeamState[S]:
        """Return the state after one more step."""
        K, beta, live = self.rules.beam, self.rules.beta, state.live
        model_state = state.model_state
        if state.parents_BK is not None:
            model_state = model_state.select(None, state.parents_BK)
        # At most K of the 2K candidates are EOS, so at least K others can stay live. In finished rows, the live
        # hypotheses have score minus infinity, and nothing below makes that score finite again.
        choices, weights_BKS, model_state = self.model.step(live.tokens_BK, model_state, 2 * K)
        place_1, length_1 = state.length_1, state.length_1 + 1
        last_B = state.max_lengths_B <= length_1
        if self.is_fixed or last_B.any():
            choices = self._only_eos(choices, last_B)
        scores_BC, flat_BC = self._candidates(live, choices)
        ids_BKC = choices.ids_BKC
        parents_BC, tokens_BC = flat_BC // ids_BKC.shape[-1], ids_BKC.flatten(1).gather(1, flat_BC)
        is_eos_BC = tokens_BC == self.rules.eos

        coverage_BKS = live.coverage_BKS + weights_BKS if beta else live.coverage_BKS  # in the parents' order
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
        """Return the choices, with EOS as the only choice in sentences that reach their maximum length."""
        last_B11 = last_B[:, None, None]
        only_eos_BKC = choices.eos_BK.unsqueeze(2) + self.only_first_C[: choices.ids_BKC.shape[2]]
        return choices._replace(
            log_probs_BKC=torch.where(last_B11, only_eos_BKC, choices.log_probs_BKC),
            ids_BKC=torch.where(last_B11, self.rules.eos, choices.ids_BKC),
        )

    def _candidates(self, live: Live, choices: Choices) -> tuple[Tensor, Tensor]:
        """Return scores_BC, the 2K best scores of each sentence, and flat_BC, their indices among its K * C choices."""
        before_BK1 = live.scores_BK.unsqueeze(-1)
        if self.rules.scoring is not Scoring.LOG_PROBABILITY:
            before_BK1 = torch.where(before_BK1.isfinite(), 0.0, before_BK1)  # minus infinity marks an empty slot
        totals_BN = (before_BK1 + choices.log_probs_BKC).flatten(1)
        return totals_BN.topk(min(2 * self.rules.beam, totals_BN.shape[1]))

    def _done(self, finished: Finished, scores_BK: Tensor, longest_penalty_B: Tensor) -> Tensor:
        """Return done_B: True if K hypotheses are finished, or no live one can still become one of the n best.

        n is `rules.best`.

        Log-probabilities can only fall, so the best live score divided by the largest length penalty is an upper bound
        for all live hypotheses. The caller also marks sentences at their maximum length as finished, so that a
        search ends even if scores are NaN.
        """
        reachable_B = scores_BK[:, 0] / longest_penalty_B
        if self.rules.scoring is not Scoring.LOG_PROBABILITY:
            reachable_B = torch.where(reachable_B.isfinite(), torch.inf, reachable_B)
        is_sure_B = finished.ranks_BK[:, self.rules.best - 1] >= reachable_B
        return finished.are_full() | is_sure_B


class BeamProgram(Generic[S]):
    """Beam search for one batch; implements `search.host.SearchProgram`.

    Args:
        model: predicts the next tokens.
        rules: settings of the search. A beam of 1 is greedy search; a beam as large as the number of prefixes is
            exhaustive search.
        device: device of the model.
        runner: takes the steps; it may be shared only by searches with the same model and rules. None: a plain
            `Runner`.
    """

    _step: BeamStep[S]
    _state: BeamState[S]
    _steps: int  # steps taken so far
    _capacity: int  # number of steps that the history has room for

    def __init__(
        self, model: AutoregressiveModel[S], rules: SearchRules, *, device: torch.device, runner: Runner | None = None
    ) -> None:
        self._model = model
        self._rules = rules
        self._device = device
        self._runner = runner or Runner()

    def start(self, batch: SearchBatch) -> None:
        """Encode the batch and set up the state before the first step."""
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
        """Take `Runner.steps` steps; first enlarge the history if it has no room for them."""
        if self._steps + self._runner.steps > self._capacity:
            self._capacity *= 2
            self._state = self._state._replace(history=self._state.history.with_room(self._capacity))
        self._state = self._runner.run(self._step, self._state)
        self._steps += self._runner.steps

    def done(self) -> list[bool]:
        """Return one boolean per row: True for finished sentences and for padding rows."""
        done: list[bool] = self._state.done_B.tolist()
        return done

    def rows_for(self, sentences: int) -> int:
        """Return the number of rows, padding included, that the runner uses for `sentences` sentences."""
        return self._runner.rows(sentences)

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order, and add padding rows."""
        self._state = self._state.with_rows(rows, self.rows_for(len(rows)), is_fixed=self._runner.is_fixed)

    def results(self, rows: list[int]) -> list[list[Hypothesis]]:
        """Return the finished hypotheses of each of these rows, best first."""
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
    """Reorder values along K: hypothesis k gets the values of its parent."""
    return values_BKS.gather(1, parents_BK.unsqueeze(-1).expand(-1, -1, values_BKS.shape[-1]))


def _without_waiting(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to the device without waiting for the kernels queued on the GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values
