"""The hypotheses of a beam search as tensors: live ones, finished ones, and the history to trace them back."""

import math
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.search.host import Hypothesis


class Live(NamedTuple):
    """The live hypotheses: scores, last tokens, and attention summed over the steps (S = 0 if there is no penalty)."""

    scores_BK: Tensor
    tokens_BK: Tensor
    coverage_BKS: Tensor

    @classmethod
    def first(cls, sentences: int, beam: int, bos: int, source: int, device: torch.device) -> Self:
        """Start each sentence with one hypothesis, BOS; the other K - 1 have score minus infinity until it branches."""
        scores_BK = torch.full((sentences, beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens_BK = torch.full((sentences, beam), bos, device=device)
        return cls(scores_BK, tokens_BK, torch.zeros((sentences, beam, source), device=device))


class Finished(NamedTuple):
    """The best K finished hypotheses of each sentence, best first.

    Attributes:
        ranks_BK, scores_BK: `score` and `log_probability` of `Hypothesis`; ranks of empty slots are minus infinity.
        ends_BK: K * (number of steps before EOS) + (index k of the hypothesis that EOS ended).
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
        """Add the hypotheses that ended in this step, those with a finite rank; keep the best K."""
        best_BK, choice_BK = torch.cat([self.ranks_BK, ranks_BK], dim=1).topk(ranks_BK.shape[1])
        return self.__class__(
            best_BK,
            torch.cat([self.scores_BK, scores_BK], dim=1).gather(1, choice_BK),
            torch.cat([self.ends_BK, ends_BK], dim=1).gather(1, choice_BK),
        )


class History(NamedTuple):
    """Tokens, parents and attention of T steps: back-pointers, from which `trace_back` builds hypotheses.

    Attributes:
        tokens_BTK: last token of each hypothesis after the step.
        parents_BTK: index of the hypothesis that it extends.
        attention_BTKS: weights of the hypotheses before the step; S = 0 unless requested.
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
        """Write one step, in place."""
        self.tokens_BTK.index_copy_(1, place_1, tokens_BK.unsqueeze(1))
        self.parents_BTK.index_copy_(1, place_1, parents_BK.unsqueeze(1))
        if self.attention_BTKS.shape[-1]:
            self.attention_BTKS.index_copy_(1, place_1, weights_BKS.unsqueeze(1).to(self.attention_BTKS.dtype))
        return self

    def with_room(self, capacity: int) -> Self:
        """Return a copy with room for `capacity` steps in all."""
        more = capacity - self.tokens_BTK.shape[1]
        return self.__class__(
            F.pad(self.tokens_BTK, (0, 0, 0, more)),
            F.pad(self.parents_BTK, (0, 0, 0, more)),
            F.pad(self.attention_BTKS, (0, 0, 0, 0, 0, more)),
        )


R = TypeVar("R", Live, Finished, History)


def select_rows(record: R, rows_B: Tensor) -> R:
    """Return the record of these sentences, in this order."""
    return record.__class__(*(values[rows_B] for values in record))


def trace_back(
    finished: Finished, history: History, source_mask_BS: Tensor, rows: list[int], *, eos: int, most: int
) -> list[list[Hypothesis]]:
    """Build the finished hypotheses of these rows from the history: best first, at most `most` for each row."""
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
