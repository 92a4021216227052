"""Beam search over a step function: one batched tensor program, which knows nothing of the model.

Every step expands all hypotheses of all sentences at once. A hypothesis that says EOS among the best K candidates is
finished; the best K others go on. A sentence is done, and leaves the batch, when K hypotheses are finished, or when no
live one can still beat the finished ones that are asked for. What a sentence gets does not depend on its batch.
"""

import math
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F


class SearchState(Protocol):
    """Whatever a step function carries from step to step."""

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        """The state of these sentences (None: all), where hypothesis k goes on from hypothesis `parents_BK[b, k]`."""


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
    accumulates: bool = True,
    with_attention: bool = False,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each sentence.

    Args:
        step: one step of the model.
        state: of B sentences with K hypotheses each.
        source_mask_BS: True on real source tokens; for the coverage penalty and the attention.
        max_lengths_B: longest hypothesis, EOS counted; there EOS is the only choice [tokens].
        beam: K.
        bos, eos: ids.
        alpha: of the length penalty.
        beta: of the coverage penalty.
        best: how many hypotheses a sentence must be sure of before it is done; at most K.
        accumulates: what `step` gives are log-probabilities, whose sum is the score of a hypothesis. False: they are
            scores of whole hypotheses, which may rise as these go on; then a sentence is done after K hypotheses.
        with_attention: keep the attention weights of every step.
    Returns:
        for each sentence at most K hypotheses, best first, at least one. With a beam that holds every prefix this is
        exhaustive search; with K = 1 it is greedy search.
    """
    device = source_mask_BS.device
    B, K = len(max_lengths_B), beam
    results: list[list[Hypothesis]] = [[] for _ in range(B)]
    sentence_B = torch.arange(B, device=device)  # where each row's result goes
    attended = source_mask_BS.shape[1] if with_attention or beta else 0
    live = _Live.first(B, K, bos, attended, device)
    finished = _Finished.none(B, K, attended, device)
    longest_penalty_B = ((5 + max_lengths_B) / 6) ** alpha
    length = 0
    while len(sentence_B):
        length += 1
        # 2K candidates: at most K of them say EOS, so that K others are left to go on
        (log_probs_BKC, ids_BKC, eos_BK), weights_BKS, state = step(live.tokens_BK, state, 2 * K)
        last_B = max_lengths_B == length
        if last_B.any():
            only_eos_BKC = torch.full_like(log_probs_BKC, -torch.inf)
            only_eos_BKC[..., 0] = eos_BK
            log_probs_BKC = torch.where(last_B[:, None, None], only_eos_BKC, log_probs_BKC)
            ids_BKC = ids_BKC.masked_fill(last_B[:, None, None], eos)
        before_BK1 = live.scores_BK.unsqueeze(-1)
        if not accumulates:
            before_BK1 = torch.where(before_BK1.isfinite(), 0.0, before_BK1)  # minus infinity: there is no hypothesis
        totals_BN = (before_BK1 + log_probs_BKC).flatten(1)
        scores_BC, flat_BC = totals_BN.topk(min(2 * K, totals_BN.shape[1]))
        parents_BC, tokens_BC = flat_BC // ids_BKC.shape[-1], ids_BKC.flatten(1).gather(1, flat_BC)
        says_eos_BC = tokens_BC == eos

        ended_BK = says_eos_BC[:, :K] & scores_BC[:, :K].isfinite()
        if ended_BK.any():
            ended = live.advance(scores_BC[:, :K], parents_BC[:, :K], tokens_BC[:, :K], weights_BKS)
            ranks_BK = ended.scores_BK / length_penalty(length, alpha)
            if beta:
                ranks_BK = ranks_BK + coverage_penalty(ended.coverage_BKS, source_mask_BS, beta)
            finished = finished.merge(ended, ranks_BK.masked_fill(~ended_BK, -torch.inf), length)

        going_on_BC = scores_BC.masked_fill(says_eos_BC, -torch.inf)
        scores_BK, choice_BK = going_on_BC.topk(K)
        parents_BK = parents_BC.gather(1, choice_BK)
        live = live.advance(scores_BK, parents_BK, tokens_BC.gather(1, choice_BK), weights_BKS)

        # a live hypothesis can only lose probability; its score is at most what it has now over the longest penalty
        reachable_B = scores_BK[:, 0] / longest_penalty_B
        if not accumulates:
            reachable_B = torch.where(reachable_B.isfinite(), torch.inf, reachable_B)
        done_B = last_B | (finished.count_B >= K) | (finished.ranks_BK[:, best - 1] >= reachable_B)
        if not done_B.any():
            state = state.select(None, parents_BK)
            continue
        for row in done_B.nonzero().flatten().tolist():
            results[int(sentence_B[row])] = finished.hypotheses(row, source_mask_BS[row], with_attention)
        rows_B = (~done_B).nonzero().flatten()
        state = state.select(rows_B, parents_BK[rows_B])
        live, finished = _rows(live, rows_B), _rows(finished, rows_B)
        sentence_B, max_lengths_B = sentence_B[rows_B], max_lengths_B[rows_B]
        longest_penalty_B, source_mask_BS = longest_penalty_B[rows_B], source_mask_BS[rows_B]
    return results


class _Live(NamedTuple):
    """The hypotheses that go on. Coverage and attention have S = 0 unless somebody asks for them."""

    scores_BK: Tensor
    tokens_BK: Tensor
    said_BKT: Tensor
    coverage_BKS: Tensor
    attention_BKTS: Tensor

    @classmethod
    def first(cls, sentences: int, beam: int, bos: int, source: int, device: torch.device) -> Self:
        """One hypothesis a sentence that has said BOS; the others are impossible until it has branched."""
        scores_BK = torch.full((sentences, beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        return cls(
            scores_BK=scores_BK,
            tokens_BK=torch.full((sentences, beam), bos, device=device),
            said_BKT=torch.empty((sentences, beam, 0), dtype=torch.long, device=device),
            coverage_BKS=torch.zeros((sentences, beam, source), device=device),
            attention_BKTS=torch.empty((sentences, beam, 0, source), device=device),
        )

    def advance(self, scores_BK: Tensor, parents_BK: Tensor, tokens_BK: Tensor, weights_BKS: Tensor) -> Self:
        """Hypotheses that go on from these parents with these tokens; weights are the parents'."""
        row_B1 = torch.arange(len(parents_BK), device=parents_BK.device).unsqueeze(1)
        said_BKT = torch.cat([self.said_BKT[row_B1, parents_BK], tokens_BK.unsqueeze(-1)], dim=2)
        chosen_BKS = weights_BKS[row_B1, parents_BK, : self.coverage_BKS.shape[-1]]
        coverage_BKS = self.coverage_BKS[row_B1, parents_BK] + chosen_BKS
        attention_BKTS = torch.cat([self.attention_BKTS[row_B1, parents_BK], chosen_BKS.unsqueeze(2)], dim=2)
        return self.__class__(scores_BK, tokens_BK, said_BKT, coverage_BKS, attention_BKTS)


class _Finished(NamedTuple):
    """The best K finished hypotheses of each sentence, best first, and how many there were."""

    ranks_BK: Tensor
    scores_BK: Tensor
    lengths_BK: Tensor
    said_BKT: Tensor
    attention_BKTS: Tensor
    count_B: Tensor

    @classmethod
    def none(cls, sentences: int, beam: int, source: int, device: torch.device) -> Self:
        """No hypothesis yet: ranks of minus infinity."""
        nothing_BK = torch.full((sentences, beam), -torch.inf, device=device)
        return cls(
            ranks_BK=nothing_BK,
            scores_BK=nothing_BK,
            lengths_BK=torch.zeros((sentences, beam), dtype=torch.long, device=device),
            said_BKT=torch.empty((sentences, beam, 0), dtype=torch.long, device=device),
            attention_BKTS=torch.empty((sentences, beam, 0, source), device=device),
            count_B=torch.zeros(sentences, dtype=torch.long, device=device),
        )

    def merge(self, ended: _Live, ranks_BK: Tensor, length: int) -> Self:
        """With the hypotheses that ended now, where their rank is finite."""
        beam = ranks_BK.shape[1]
        best_BK, choice_BK = torch.cat([self.ranks_BK, ranks_BK], dim=1).topk(beam)
        row_B1 = torch.arange(len(choice_BK), device=choice_BK.device).unsqueeze(1)
        older = length - self.said_BKT.shape[2]
        said_BKT = F.pad(self.said_BKT, (0, older))
        attention_BKTS = F.pad(self.attention_BKTS, (0, 0, 0, older))
        return self.__class__(
            ranks_BK=best_BK,
            scores_BK=torch.cat([self.scores_BK, ended.scores_BK], dim=1)[row_B1, choice_BK],
            lengths_BK=torch.cat([self.lengths_BK, torch.full_like(self.lengths_BK, length)], dim=1)[row_B1, choice_BK],
            said_BKT=torch.cat([said_BKT, ended.said_BKT], dim=1)[row_B1, choice_BK],
            attention_BKTS=torch.cat([attention_BKTS, ended.attention_BKTS], dim=1)[row_B1, choice_BK],
            count_B=self.count_B + ranks_BK.isfinite().sum(dim=1),
        )

    def hypotheses(self, row: int, source_mask_S: Tensor, with_attention: bool) -> list[Hypothesis]:
        """What one sentence ends with."""
        found = []
        rows = zip(
            self.said_BKT[row].tolist(),
            self.scores_BK[row].tolist(),
            self.ranks_BK[row].tolist(),
            self.lengths_BK[row].tolist(),
            self.attention_BKTS[row],
            strict=True,
        )
        for said, log_probability, rank, length, attention_TS in rows:
            if math.isfinite(rank):
                weights_TS = attention_TS[:length, source_mask_S] if with_attention else None
                found.append(Hypothesis(said[:length], log_probability, rank, weights_TS))
        return found


R = TypeVar("R", _Live, _Finished)


def _rows(record: R, rows_B: Tensor) -> R:
    return record.__class__(*(values[rows_B] for values in record))
