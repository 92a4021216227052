"""One step of a model, or of several whose probabilities are averaged: the likeliest next tokens of each hypothesis.

The output projection takes a few hypotheses at a time, so that their logits stay in a CPU's cache while the likeliest
are looked for: most of a step's bytes are there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from nmtcli.data.subword import EOS
from nmtcli.model.attention import Memory
from nmtcli.model.decoder import State
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.search.beam import Choices

CHUNK_ELEMENTS = 1 << 19  # logits at a time on a CPU: 2 MiB in fp32
BLOCK = 64  # of `top`


class EnsembleState(NamedTuple):
    """Memory and state of each model."""

    memories: tuple[Memory, ...]
    states: tuple[State, ...]

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> Self:
        """See `search.beam.SearchState`."""
        memories = self.memories
        offset_B = torch.arange(len(parents_BK), device=parents_BK.device)
        if sentences_B is not None:
            memories = tuple(memory.select(sentences_B) for memory in memories)
            offset_B = sentences_B
        rows_N = (offset_B.unsqueeze(1) * parents_BK.shape[1] + parents_BK).flatten()
        return self._replace(memories=memories, states=tuple(state.select(rows_N) for state in self.states))


class Ensemble:
    """The step function of models; of several, a probability, or a logit, is the mean of theirs.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        forbidden: ids that are never said; their probability is not given to others.
        by_logits: scores are logits rather than log-probabilities.
    """

    def __init__(self, models: Sequence[Seq2Seq], forbidden: Tensor, *, by_logits: bool) -> None:
        self._models = models
        self._forbidden = forbidden
        self._by_logits = by_logits

    def start(self, source_BS: Tensor, mask_BS: Tensor, rows: int) -> EnsembleState:
        """Before the first step, with so many hypotheses for each sentence."""
        memories, states = zip(*(model.encode(source_BS, mask_BS) for model in self._models), strict=True)
        rows_N = torch.arange(len(source_BS), device=source_BS.device).repeat_interleave(rows)
        return EnsembleState(memories, tuple(state.select(rows_N) for state in states))

    def step(self, tokens_BK: Tensor, state: EnsembleState, count: int | None) -> tuple[Choices, Tensor, EnsembleState]:
        """See `search.beam.StepFunction`."""
        steps = [
            model.advance(memory, one, tokens_BK)
            for model, memory, one in zip(self._models, state.memories, state.states, strict=True)
        ]
        state = state._replace(states=tuple(after for _, _, after in steps))
        weights_BKS = steps[0][1] if len(steps) == 1 else torch.stack([weights for _, weights, _ in steps]).mean(dim=0)
        choices = self._choices([readout_BKE.flatten(0, 1) for readout_BKE, _, _ in steps], count)
        return Choices(*(values.view(*tokens_BK.shape, *values.shape[1:]) for values in choices)), weights_BKS, state

    def _choices(self, readouts: list[Tensor], count: int | None) -> Choices:
        """Of N hypotheses, by their readouts: log_probs_NC, ids_NC and eos_N."""
        vocabulary = len(self._models[0].projection_VE)
        hypotheses = len(readouts[0])
        on_cpu = readouts[0].device.type == "cpu"
        rows = max(1, CHUNK_ELEMENTS // vocabulary) if on_cpu and count is not None else hypotheses
        chunks = []
        for start in range(0, hypotheses, rows):
            scores_NV, normaliser_N1 = self._scores([readout_NE[start : start + rows] for readout_NE in readouts])
            eos_N = scores_NV[:, EOS] - normaliser_N1.squeeze(1)
            scores_NV[:, self._forbidden] = -torch.inf
            if count is None:
                ids_NC = torch.arange(vocabulary, device=scores_NV.device).expand_as(scores_NV)
                chunks.append((scores_NV - normaliser_N1, ids_NC, eos_N))
            else:
                best_NC, ids_NC = top(scores_NV, min(count, vocabulary))
                chunks.append((best_NC - normaliser_N1, ids_NC, eos_N))
        return Choices(*(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*chunks, strict=True)))

    def _scores(self, readouts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """scores_NV of every token, to write in, and what to subtract from each row for log-probabilities."""
        logits = [model.logits(readout_NE) for model, readout_NE in zip(self._models, readouts, strict=True)]
        if self._by_logits:
            mean_NV = logits[0] if len(logits) == 1 else torch.stack(logits).mean(dim=0)
            return mean_NV, mean_NV.new_zeros(len(mean_NV), 1)
        if len(logits) == 1:
            return logits[0], logits[0].logsumexp(dim=-1, keepdim=True)
        log_probs_MNV = torch.stack([logits_NV.log_softmax(dim=-1) for logits_NV in logits])
        mean_NV = log_probs_MNV.logsumexp(dim=0) - math.log(len(logits))
        return mean_NV, mean_NV.new_zeros(len(mean_NV), 1)


def top(values_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`values_NV.topk(count)`: the largest values of each row, descending, and where they stand.

    The largest values stand in the blocks with the largest maxima, of which one pass tells; on a CPU that takes less
    than half the time of looking through everything.
    """
    blocks = values_NV.shape[1] // BLOCK
    if values_NV.device.type != "cpu" or blocks < 4 * count:
        return values_NV.topk(count)
    whole = blocks * BLOCK
    blocks_NBL = values_NV[:, :whole].view(len(values_NV), blocks, BLOCK)
    chosen_NC = blocks_NBL.amax(dim=-1).topk(count, sorted=False).indices
    inside_NCL = blocks_NBL.gather(1, chosen_NC.unsqueeze(-1).expand(-1, -1, BLOCK))
    best_NC, place_NC = torch.cat([inside_NCL.flatten(1), values_NV[:, whole:]], dim=1).topk(count)
    inside_NC = place_NC.clamp(max=count * BLOCK - 1)
    ids_NC = chosen_NC.gather(1, inside_NC // BLOCK) * BLOCK + inside_NC % BLOCK
    return best_NC, torch.where(place_NC < count * BLOCK, ids_NC, place_NC - count * BLOCK + whole)
