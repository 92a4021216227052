"""The hypotheses of a beam search as tensors: those that go on, those that are finished, and how each came about."""

import math
from typing import NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.search.host import Hypothesis


class Live(NamedTuple):
    """The hypotheses that go on: scores, last tokens, and sums of attention weights where these are asked for."""

    scores_BK: Tensor
    tokens_BK: Tensor
    coverage_BKS: Tensor

    @classmethod
    def first(cls, sentences: int, beam: int, bos: int, source: int, device: torch.device) -> Self:
        """One hypothesis a sentence, which is BOS; the others are impossible until it has branched."""
        scores_BK = torch.full((sentences, beam), -torch.inf, device=device)
        scores_BK[:, 0] = 0.0
        tokens_BK = torch.full((sentences, beam), bos, device=device)
        return cls(scores_BK, tokens_BK, torch.zeros((sentences, beam, source), device=device))


class Finished(NamedTuple):
    """The best K finished hypotheses of each sentence, best first.

    Attributes:
        ranks_BK, scores_BK: `score` and `log_probability` of `Hypothesis`; ranks of empty places are minus infinity.
        ends_BK: K times the number of steps before EOS, plus the number of the hypothesis that EOS then ended.
    """

    ranks_BK: Tensor
    scores_BK: Tensor
    ends_BK: Tensor

    @classmethod
    def empty(cls, sentences: int, beam: int, device: torch.device) -> Self:
        """No hypothesis yet."""
        nothing_BK = torch.full((sentences, beam), -torch.inf, device=device)
        zeros_BK = torch.zeros((sentences, beam), dtype=torch.long, device=device)
        return cls(nothing_BK, nothing_BK, zeros_BK)

    def are_full(self) -> Tensor:
        """are_full_B: True for sentences with K hypotheses."""
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
    """For T steps, the token that each of K hypotheses got, the hypothesis that it extended, and the attention.

    Attributes:
        tokens_BTK, parents_BTK: of the hypotheses after the step.
        attention_BTKS: of the hypotheses before the step; S = 0 unless asked for.
    """

    tokens_BTK: Tensor
    parents_BTK: Tensor
    attention_BTKS: Tensor

    @classmethod
    def empty(cls, sentences: int, beam: int, capacity: int, source: int, device: torch.device) -> Self:
        """No step yet, and room for `capacity` steps."""
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
        """The same steps, and room for `capacity` in all."""
        more = capacity - self.tokens_BTK.shape[1]
        return self.__class__(
            F.pad(self.tokens_BTK, (0, 0, 0, more)),
            F.pad(self.parents_BTK, (0, 0, 0, more)),
            F.pad(self.attention_BTKS, (0, 0, 0, 0, 0, more)),
        )


R = TypeVar("R", Live, Finished, History)


def select_rows(record: R, rows_B: Tensor) -> R:
    """The record of these sentences, in this order."""
    return record.__class__(*(values[rows_B] for values in record))


def trace_back(
    finished: Finished, history: History, source_mask_BS: Tensor, rows: list[int], *, eos: int, most: int
) -> list[list[Hypothesis]]:
    """The finished hypotheses of these rows, at most `most` each, best first, put together from the history."""
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
