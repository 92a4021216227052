"""Tensors of a beam search: its live and finished hypotheses, and the history from which their tokens are read."""

import math
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.search.host import Hypothesis


class Live(NamedTuple):
    """The live hypotheses.

    Attributes:
        scores_BK: score of each hypothesis; minus infinity in empty slots.
        tokens_BK: last token of each hypothesis.
        coverage_BKS: attention weights summed over the steps; S = 0 without a coverage penalty.
    """

    scores_BK: Tensor
    tokens_BK: Tensor
    coverage_BKS: Tensor

    @classmethod
    def first(cls, sentences: int, beam: int, bos: int, source: int, device: torch.device) -> Self:
        """Start each sentence with one hypothesis, BOS; the other K - 1 slots are empty, with score minus infinity."""
        scores_BK = torch.full((sentences, beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens_BK = torch.full((sentences, beam), bos, device=device)
        return cls(scores_BK, tokens_BK, torch.zeros((sentences, beam, source), device=device))


class Finished(NamedTuple):
    """The K best finished hypotheses of each sentence, best first.

    Attributes:
        ranks_BK: `Hypothesis.score`; minus infinity in empty slots.
        scores_BK: `Hypothesis.log_probability`.
        ends_BK: K * (number of steps before EOS) + (index k of the hypothesis that EOS completed).
    """

    ranks_BK: Tensor
    scores_BK: Tensor
    ends_BK: Tensor

    @classmethod
    def empty(cls, sentences: int, beam: int, device: torch.device) -> Self:
        """Make K empty slots for each sentence."""
        nothing_BK = torch.full((sentences, beam), -torch.inf, device=device)
        zeros_BK = torch.zeros((sentences, beam), dtype=torch.long, device=device)
        return cls(nothing_BK, nothing_BK, zeros_BK)

    def are_full(self) -> Tensor:
        """Return are_full_B: True for sentences with K finished hypotheses."""
        return self.ranks_BK[:, -1] > -torch.inf

    def merge(self, ranks_BK: Tensor, scores_BK: Tensor, ends_BK: Tensor) -> Self:
        """Add the hypotheses that ended in this step (those whose rank is finite); keep the K best of each sentence."""
        best_BK, choice_BK = torch.cat([self.ranks_BK, ranks_BK], dim=1).topk(ranks_BK.shape[1])
        return self.__class__(
            best_BK,
            torch.cat([self.scores_BK, scores_BK], dim=1).gather(1, choice_BK),
            torch.cat([self.ends_BK, ends_BK], dim=1).gather(1, choice_BK),
        )


class History(NamedTuple):
    """Tokens, back-pointers and attention of T steps, from which `trace_back` builds hypotheses.

    Attributes:
        tokens_BTK: last token of each hypothesis after the step.
        parents_BTK: index k, before the step, of the hypothesis that each hypothesis extends.
        attention_BTKS: attention weights in the step, in the hypotheses' order before the step; S = 0 unless attention
            is requested.
    """

    tokens_BTK: Tensor
    parents_BTK: Tensor
    attention_BTKS: Tensor

    @classmethod
    def empty(cls, sentences: int, beam: int, capacity: int, source: int, device: torch.device) -> Self:
        """Make an empty history with room for `capacity` steps."""
        zeros_BTK = torch.zeros((sentences, capacity, beam), dtype=torch.long, device=device)
        return cls(zeros_BTK, zeros_BTK.clone(), torch.zeros((sentences, capacity, beam, source), device=device))

    def add(self, place_1: Tensor, tokens_BK: Tensor, parents_BK: Tensor, weights_BKS: Tensor) -> Self:
        """Write one step into the history at index `place_1`, in place; return the history."""
        self.tokens_BTK.index_copy_(1, place_1, tokens_BK.unsqueeze(1))
        self.parents_BTK.index_copy_(1, place_1, parents_BK.unsqueeze(1))
        if self.attention_BTKS.shape[-1]:
            self.attention_BTKS.index_copy_(1, place_1, weights_BKS.unsqueeze(1).to(self.attention_BTKS.dtype))
        return self

    def with_room(self, capacity: int) -> Self:
        """Return a copy with room for `capacity` steps in total."""
        more = capacity - self.tokens_BTK.shape[1]
        return self.__class__(
            F.pad(self.tokens_BTK, (0, 0, 0, more)),
            F.pad(self.parents_BTK, (0, 0, 0, more)),
            F.pad(self.attention_BTKS, (0, 0, 0, 0, 0, more)),
        )


R = TypeVar("R", Live, Finished, History)


def select_rows(record: R, rows_B: Tensor) -> R:
    """Return the record for the sentences in these rows, in this order."""
    return record.__class__(*(values[rows_B] for values in record))


def trace_back(
    finished: Finished, history: History, source_mask_BS: Tensor, rows: list[int], *, eos: int, most: int
) -> list[list[Hypothesis]]:
    """Build the finished hypotheses of these rows from the history: at most `most` per row, best first."""
    rows_B = torch.tensor(rows, dtype=torch.long, device=source_mask_BS.device)
    of_rows = zip(
        *(values_BK[rows_B, :most].tolist() for values_BK in finished),
        *(values_BTK[rows_B].tolist() for values_BTK in (history.tokens_BTK, history.parents_BTK)),
        history.attention_BTKS[rows_B].cpu().numpy(),
        source_mask_BS[rows_B].cpu().numpy(),
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
                attention_TS = attention_TKS[np.arange(steps + 1), numbers[::-1]][:, source_mask_S]
            hypotheses.append(Hypothesis(ids[::-1], score, rank, attention_TS))
        found.append(hypotheses)
    return found
