"""One step of a model, or of several whose probabilities are averaged: the likeliest next tokens of each hypothesis.

The output projection takes a few hypotheses at a time, so that their logits stay in a CPU's cache while the likeliest
are looked for: most of a step's bytes are there.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nmtcli.data.shortlist import Shortlist
from nmtcli.data.subword import EOS
from nmtcli.model.attention import Memory, kept_in_place
from nmtcli.model.decoder import State
from nmtcli.model.seq2seq import Projection, Seq2Seq
from nmtcli.search.beam import Choices

CHUNK_ELEMENTS = 1 << 20  # logits at a time on a CPU: 4 MiB in fp32
TOP_BLOCK = 64  # of `top`
UNIT = 512  # tokens that may be said, or none of a few, are a multiple of this
FEW_ROWS = 1024  # that have more to wait for kernels on a GPU than for bytes
LEAST = -80.0  # exp of what is less is 0 beside 1, and takes ten to a hundred times as long


class Allowed(NamedTuple):
    """What the sentences of a batch may say.

    Attributes:
        ids_U: what any of them may.
        others_B1U: True for what it may not: a sentence does not profit from its neighbours.
        eos: where EOS is among them.
        projections: of each model, to these.
    """

    ids_U: Tensor
    others_B1U: Tensor
    eos: int
    projections: tuple[Projection, ...]


class EnsembleState(NamedTuple):
    """What a search of B sentences with K hypotheses each carries from step to step.

    Attributes:
        memories, states: of each model.
        allowed: what may be said; None: everything that is not forbidden.
        rows_B1: which of the B * K rows is the first of each sentence.
    """

    memories: tuple[Memory, ...]
    states: tuple[State, ...]
    allowed: Allowed | None
    rows_B1: Tensor

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> "EnsembleState":
        """See `search.beam.SearchState`. What does not change from step to step is kept in place."""
        memories, states, allowed, rows_B1 = self
        if sentences_B is not None:
            memories = tuple(memory.keep(sentences_B) for memory in memories)
            allowed = allowed and allowed._replace(others_B1U=kept_in_place(allowed.others_B1U, sentences_B))
            rows_B1 = rows_B1[sentences_B]
        rows_N = (rows_B1 + parents_BK).flatten()
        if sentences_B is not None:
            rows_B1 = _first_rows(parents_BK)
        return EnsembleState(memories, tuple(state.select(rows_N) for state in states), allowed, rows_B1)


def _first_rows(like_BK: Tensor) -> Tensor:
    """rows_B1 of as many sentences and hypotheses."""
    sentences, hypotheses = like_BK.shape
    return torch.arange(0, sentences * hypotheses, hypotheses, device=like_BK.device).unsqueeze(1)


class Ensemble:
    """The step function of models; of several, a probability, or a logit, is the mean of theirs.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        forbidden: ids that are never said; their probability is not given to others.
        by_logits: scores are logits rather than log-probabilities.
        shortlist: each sentence chooses among the likely translations of its pieces; probabilities are among these.
    """

    def __init__(
        self, models: Sequence[Seq2Seq], forbidden: Tensor, *, by_logits: bool, shortlist: Shortlist | None = None
    ) -> None:
        self._models = models
        self._forbidden = forbidden
        self._by_logits = by_logits
        self._shortlist = shortlist and tuple(torch.from_numpy(ids).to(forbidden.device) for ids in shortlist)

    def start(self, source_BS: Tensor, mask_BS: Tensor, rows: int) -> EnsembleState:
        """Before the first step, with so many hypotheses for each sentence."""
        memories, states = zip(*(model.encode(source_BS, mask_BS) for model in self._models), strict=True)
        rows_N = torch.arange(len(source_BS), device=source_BS.device).repeat_interleave(rows)
        rows_B1 = _first_rows(rows_N.view(-1, rows))
        return EnsembleState(
            memories, tuple(state.select(rows_N) for state in states), self._allowed(source_BS), rows_B1
        )

    def _allowed(self, source_BS: Tensor) -> Allowed | None:
        if self._shortlist is None:
            return None
        of_piece_SC, frequent_F = self._shortlist
        likely_BN = of_piece_SC[source_BS].flatten(1)
        vocabulary = len(self._models[0].projection_VE)
        is_in_V = torch.zeros(vocabulary, dtype=torch.bool, device=source_BS.device)
        for ids in (likely_BN.flatten(), frequent_F, self._forbidden):
            is_in_V[ids] = True
        is_in_V[EOS] = True
        # and so many others, which nobody may say, that few sizes occur: oneDNN compiles a product for each
        is_in_V[(~is_in_V).nonzero().flatten()[: -int(is_in_V.sum()) % UNIT]] = True
        ids_U = is_in_V.nonzero().flatten()
        place_V = is_in_V.cumsum(0) - 1  # among them
        others_BU = torch.ones(len(source_BS), len(ids_U), dtype=torch.bool, device=source_BS.device)
        others_BU.scatter_(1, place_V[likely_BN], False)
        others_BU[:, place_V[frequent_F]] = False
        others_BU[:, place_V[self._forbidden]] = True
        others_BU[:, place_V[EOS]] = False
        projections = tuple(model.projection_to(ids_U) for model in self._models)
        return Allowed(ids_U, others_BU.unsqueeze(1), int(place_V[EOS]), projections)

    def step(self, tokens_BK: Tensor, state: EnsembleState, count: int | None) -> tuple[Choices, Tensor, EnsembleState]:
        """See `search.beam.StepFunction`."""
        steps = [
            model.advance(memory, one, tokens_BK)
            for model, memory, one in zip(self._models, state.memories, state.states, strict=True)
        ]
        state = state._replace(states=tuple(after for _, _, after in steps))
        weights_BKS = steps[0][1] if len(steps) == 1 else torch.stack([weights for _, weights, _ in steps]).mean(dim=0)
        choices = self._choices([readout_BKE.flatten(0, 1) for readout_BKE, _, _ in steps], state.allowed, count)
        return Choices(*(values.view(*tokens_BK.shape, *values.shape[1:]) for values in choices)), weights_BKS, state

    def _choices(self, readouts: list[Tensor], allowed: Allowed | None, count: int | None) -> Choices:
        """Of N hypotheses, by their readouts: log_probs_NC, ids_NC and eos_N."""
        device, hypotheses = readouts[0].device, len(readouts[0])
        vocabulary = len(self._models[0].projection_VE if allowed is None else allowed.ids_U)
        eos = EOS if allowed is None else allowed.eos
        looks_later = device.type == "cpu" and self._by_logits
        rows = hypotheses
        beam = 1 if allowed is None else hypotheses // len(allowed.others_B1U)
        if device.type == "cpu" and count is not None:
            rows = max(1, CHUNK_ELEMENTS // vocabulary // beam) * beam
        chunks = []
        for start in range(0, hypotheses, rows):
            chunk = slice(start, start + rows)
            logits = [
                _logits(model, readout_NE[chunk], projection)
                for model, readout_NE, projection in zip(
                    self._models,
                    readouts,
                    [None] * len(readouts) if allowed is None else allowed.projections,
                    strict=True,
                )
            ]
            others_B1U = None
            if allowed is not None:
                others_B1U = allowed.others_B1U[start // beam : (start + rows) // beam]
                if not (looks_later and count is not None):
                    for logits_NU in logits:
                        logits_NU.view(-1, beam, vocabulary).masked_fill_(others_B1U, -torch.inf)
            scores_NU, are_logits = self._scores(logits)
            eos_N1 = scores_NU[:, eos : eos + 1]
            if device.type == "cpu":
                eos_N1 = eos_N1.clone()  # the scores are written over, and need not stay in memory
            forbidden_NF = scores_NU[:, :0]
            if allowed is None:
                if are_logits:
                    forbidden_NF = scores_NU[:, self._forbidden]
                scores_NU.index_fill_(1, self._forbidden, -torch.inf)
            if count is None:
                places_NC = torch.arange(vocabulary, device=device).expand_as(scores_NU)
                best_NC = scores_NU.clone()
            elif looks_later and others_B1U is not None:
                best_NC, places_NC = top_without(others_B1U, scores_NU, min(count, vocabulary))
            else:
                best_NC, places_NC = top(scores_NU, min(count, vocabulary))
            ids_NC = places_NC if allowed is None else allowed.ids_U[places_NC]
            if are_logits:
                normaliser_N1 = _log_sum_exp(scores_NU, forbidden_NF, best_NC.amax(dim=1, keepdim=True))
                best_NC, eos_N1 = best_NC - normaliser_N1, eos_N1 - normaliser_N1
            chunks.append((best_NC, ids_NC, eos_N1.squeeze(1)))
        return Choices(*(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*chunks, strict=True)))

    def _scores(self, logits: list[Tensor]) -> tuple[Tensor, bool]:
        """scores_NU of every token, to write in, and whether they are logits that are to become log-probabilities."""
        full = torch.promote_types(logits[0].dtype, torch.float32)
        if self._by_logits:
            mean_NU = logits[0].to(full) if len(logits) == 1 else torch.stack(logits).mean(dim=0, dtype=full)
            return mean_NU, False
        if len(logits) == 1 and logits[0].is_cuda:  # one kernel there
            return logits[0].log_softmax(dim=-1, dtype=full), False
        if len(logits) == 1:
            return logits[0], True
        log_probs_MNU = torch.stack([logits_NU.log_softmax(dim=-1, dtype=full) for logits_NU in logits])
        mean_NU = log_probs_MNU.logsumexp(dim=0) - math.log(len(logits))
        return mean_NU, False


def _log_sum_exp(values_NU: Tensor, others_NF: Tensor, largest_N1: Tensor) -> Tensor:
    """log of the sum of exp over both, in half the time of torch's, which looks for the largest and writes copies.

    Args:
        values_NU: is written over.
        others_NF: few.
        largest_N1: of `values_NU`.
    """
    largest_N1 = torch.cat([largest_N1, others_NF], dim=1).amax(dim=1, keepdim=True)
    sums_N1 = values_NU.sub_(largest_N1).clamp_(min=LEAST).exp_().sum(dim=1, keepdim=True)
    return largest_N1 + (sums_N1 + (others_NF - largest_N1).exp().sum(dim=1, keepdim=True)).log()


def _logits(model: Seq2Seq, readout_NE: Tensor, projection: Projection | None) -> Tensor:
    """`model.logits`; on a GPU in bf16 as the product comes, since what reads it there computes in fp32."""
    if readout_NE.is_cuda and readout_NE.dtype == torch.bfloat16:
        return F.linear(readout_NE, *(projection or (model.projection_VE, model.projection_bias_V)))
    return model.logits(readout_NE, projection)


def top(values_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`values_NV.topk(count)`: the largest values of each row, descending, and where they stand.

    The largest values stand in the blocks with the largest maxima, of which one pass tells; that takes less than half
    the time of looking through everything.
    """
    blocks = values_NV.shape[1] // TOP_BLOCK
    if blocks < 4 * count:
        return values_NV.topk(count)
    whole = blocks * TOP_BLOCK
    blocks_NBL = values_NV[:, :whole].view(len(values_NV), blocks, TOP_BLOCK)
    chosen_NC = blocks_NBL.amax(dim=-1).topk(count, sorted=False).indices
    if values_NV.is_cuda and whole == values_NV.shape[1] and len(values_NV) <= FEW_ROWS:  # fewer kernels, more bytes
        ids_NL = torch.add(_inside(values_NV.device), chosen_NC.unsqueeze(-1), alpha=TOP_BLOCK).flatten(1)
        best_NC, place_NC = values_NV.gather(1, ids_NL).topk(count)
        return best_NC, ids_NL.gather(1, place_NC)
    inside_NCL = blocks_NBL.gather(1, chosen_NC.unsqueeze(-1).expand(-1, -1, TOP_BLOCK))
    if whole == values_NV.shape[1]:
        best_NC, place_NC = inside_NCL.flatten(1).topk(count)
        block_NC = place_NC // TOP_BLOCK
        return best_NC, place_NC.add(chosen_NC.gather(1, block_NC) - block_NC, alpha=TOP_BLOCK)
    best_NC, place_NC = torch.cat([inside_NCL.flatten(1), values_NV[:, whole:]], dim=1).topk(count)
    inside_NC = place_NC.clamp(max=count * TOP_BLOCK - 1)
    ids_NC = chosen_NC.gather(1, inside_NC // TOP_BLOCK) * TOP_BLOCK + inside_NC % TOP_BLOCK
    return best_NC, torch.where(place_NC < count * TOP_BLOCK, ids_NC, place_NC - count * TOP_BLOCK + whole)


@cache
def _inside(device: torch.device) -> Tensor:
    return torch.arange(TOP_BLOCK, device=device)


def top_without(others_B1V: Tensor, values_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`top` where others are minus infinity, each sentence's in its N / B rows.

    Only rows in which one of the others comes out are filled and looked through again: they are few, and filling takes
    as long as looking.
    """
    best_NC, ids_NC = top(values_NV, count)
    sentence_N = torch.arange(len(values_NV)) // (len(values_NV) // len(others_B1V))
    is_other_NC = others_B1V[sentence_N.unsqueeze(1), 0, ids_NC]
    rows_N = is_other_NC.any(dim=1).nonzero().flatten()
    if len(rows_N):
        left_NV = values_NV[rows_N].masked_fill_(others_B1V[sentence_N[rows_N], 0], -torch.inf)
        best_NC[rows_N], ids_NC[rows_N] = top(left_NV, count)
    return best_NC, ids_NC
