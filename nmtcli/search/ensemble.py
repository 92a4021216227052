"""One decoding step of a model or an ensemble: the most probable next tokens for each hypothesis.

On a CPU, logits are computed for a few hypotheses at a time, so that the logits are still in the cache when the top
tokens are selected: most of the memory traffic in a step is logits.
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
from nmtcli.search.host import Scoring
from nmtcli.search.rules import Choices

CHUNK_ELEMENTS = 1 << 20  # target number of logits computed at a time on a CPU; 4 MiB in fp32
TOP_BLOCK = 64  # block size in `top` [values]
UNIT = 512  # shortlists are padded to a multiple of this, to keep the number of matrix sizes small [tokens]
FEW_ROWS = 1024  # up to this number of rows, a GPU spends more time on kernel launches than on memory traffic
LEAST = -80.0  # exp(x) for smaller x is negligible next to 1, but 10 to 100 times slower to compute


class Allowed(NamedTuple):
    """The shortlist for a batch: the tokens that may occur in translations of its sentences.

    Attributes:
        ids_U: ids of the tokens: the union of the sentences' shortlists, plus padding tokens, which are disallowed in
            every sentence.
        disallowed_B1U: True for tokens outside the sentence's own shortlist, so that the result for a sentence does not
            depend on its batch.
        eos: index of EOS in `ids_U`.
        projections: output projection of each model, restricted to `ids_U`.
    """

    ids_U: Tensor
    disallowed_B1U: Tensor
    eos: int
    projections: tuple[Projection, ...]


class EnsembleState(NamedTuple):
    """Decoder state in a search over B sentences with K hypotheses each.

    Attributes:
        memories, states: encoded source and decoder state of each model.
        allowed: the shortlist; None if the whole vocabulary is allowed.
        rows_B1: index of each sentence's first hypothesis among the B * K rows.
    """

    memories: tuple[Memory, ...]
    states: tuple[State, ...]
    allowed: Allowed | None
    rows_B1: Tensor

    def select(self, sentences_B: Tensor | None, parents_BK: Tensor) -> "EnsembleState":
        """Implement `DecoderState.select`; on a CPU, encoded sources and shortlist mask are updated in place."""
        memories, states, allowed, rows_B1 = self
        if sentences_B is not None:
            memories = tuple(memory.keep(sentences_B) for memory in memories)
            allowed = allowed and allowed._replace(disallowed_B1U=kept_in_place(allowed.disallowed_B1U, sentences_B))
            rows_B1 = rows_B1[sentences_B]
        rows_N = (rows_B1 + parents_BK).flatten()
        if sentences_B is not None:
            rows_B1 = _first_rows(parents_BK)
        return EnsembleState(memories, tuple(state.select(rows_N) for state in states), allowed, rows_B1)


def _first_rows(like_BK: Tensor) -> Tensor:
    """Return `EnsembleState.rows_B1` for a tensor of shape (B, K)."""
    sentences, hypotheses = like_BK.shape
    return torch.arange(0, sentences * hypotheses, hypotheses, device=like_BK.device).unsqueeze(1)


class Ensemble:
    """One model, or several models whose probabilities (or logits) are averaged.

    Args:
        models: in eval mode, all on one device, with the same vocabularies.
        forbidden: ids of tokens that are never emitted; without a shortlist, their probability is not redistributed to
            other tokens.
        scoring: with LOG_PROBABILITY, scores are log-probabilities; otherwise they are logits, which need no sum over
            the vocabulary.
        shortlist: restricts translations to frequent tokens and likely translations of the sentence's own subwords;
            probabilities are normalised over these tokens. None: use the whole vocabulary.
    """

    def __init__(
        self, models: Sequence[Seq2Seq], forbidden: Tensor, *, scoring: Scoring, shortlist: Shortlist | None = None
    ) -> None:
        self._models = models
        self._forbidden = forbidden
        self._by_logits = scoring is not Scoring.LOG_PROBABILITY
        self._shortlist = shortlist and tuple(torch.from_numpy(ids).to(forbidden.device) for ids in shortlist)

    def start(self, source_BS: Tensor, mask_BS: Tensor, hypotheses: int) -> EnsembleState:
        """Implement `AutoregressiveModel.start`: encode the sources; return the state before the first step."""
        memories, states = zip(*(model.encode(source_BS, mask_BS) for model in self._models), strict=True)
        rows_N = torch.arange(len(source_BS), device=source_BS.device).repeat_interleave(hypotheses)
        rows_B1 = _first_rows(rows_N.view(-1, hypotheses))
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
        # Pad with disallowed tokens up to a multiple of UNIT: oneDNN compiles a kernel for each matrix size.
        is_in_V[(~is_in_V).nonzero().flatten()[: -int(is_in_V.sum()) % UNIT]] = True
        ids_U = is_in_V.nonzero().flatten()
        place_V = is_in_V.cumsum(0) - 1  # index of each token in ids_U
        disallowed_BU = torch.ones(len(source_BS), len(ids_U), dtype=torch.bool, device=source_BS.device)
        disallowed_BU.scatter_(1, place_V[likely_BN], False)
        disallowed_BU[:, place_V[frequent_F]] = False
        disallowed_BU[:, place_V[self._forbidden]] = True
        disallowed_BU[:, place_V[EOS]] = False
        projections = tuple(model.projection_to(ids_U) for model in self._models)
        return Allowed(ids_U, disallowed_BU.unsqueeze(1), int(place_V[EOS]), projections)

    def step(self, tokens_BK: Tensor, state: EnsembleState, count: int | None) -> tuple[Choices, Tensor, EnsembleState]:
        """Implement `AutoregressiveModel.step`: take one decoding step."""
        steps = [
            model.advance(memory, one, tokens_BK)
            for model, memory, one in zip(self._models, state.memories, state.states, strict=True)
        ]
        state = state._replace(states=tuple(after for _, _, after in steps))
        weights_BKS = steps[0][1] if len(steps) == 1 else torch.stack([weights for _, weights, _ in steps]).mean(dim=0)
        choices = self._choices([readout_BKE.flatten(0, 1) for readout_BKE, _, _ in steps], state.allowed, count)
        return Choices(*(values.view(*tokens_BK.shape, *values.shape[1:]) for values in choices)), weights_BKS, state

    def _choices(self, readouts: list[Tensor], allowed: Allowed | None, count: int | None) -> Choices:
        """Return the choices (log_probs_NC, ids_NC, eos_N) for the readouts of N hypotheses."""
        hypotheses = rows = len(readouts[0])
        beam = 1 if allowed is None else hypotheses // len(allowed.disallowed_B1U)
        if readouts[0].device.type == "cpu" and count is not None:
            vocabulary = len(self._models[0].projection_VE if allowed is None else allowed.ids_U)
            rows = max(1, CHUNK_ELEMENTS // vocabulary // beam) * beam
        chunks = []
        for start in range(0, hypotheses, rows):
            some = [readout_NE[start : start + rows] for readout_NE in readouts]
            if allowed is None:
                chunks.append(self._from_vocabulary(some, count))
            else:
                disallowed_B1U = allowed.disallowed_B1U[start // beam : (start + rows) // beam]
                chunks.append(self._from_shortlist(some, allowed._replace(disallowed_B1U=disallowed_B1U), count))
        return Choices(*(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*chunks, strict=True)))

    def _from_vocabulary(self, readouts: list[Tensor], count: int | None) -> Choices:
        """Return the choices from the whole vocabulary for a chunk of hypotheses."""
        logits = [_logits(model, readout_NE) for model, readout_NE in zip(self._models, readouts, strict=True)]
        scores_NV, are_logits = self._scores(logits)
        eos_N1 = _eos(scores_NV, EOS)
        forbidden_NF = scores_NV[:, self._forbidden] if are_logits else scores_NV[:, :0]
        scores_NV.index_fill_(1, self._forbidden, -torch.inf)
        best_NC, ids_NC = _everything(scores_NV) if count is None else top(scores_NV, min(count, scores_NV.shape[1]))
        if are_logits:
            best_NC, eos_N1 = _normalised(scores_NV, forbidden_NF, best_NC, eos_N1)
        return Choices(best_NC, ids_NC, eos_N1.squeeze(1))

    def _from_shortlist(self, readouts: list[Tensor], allowed: Allowed, count: int | None) -> Choices:
        """Return the choices from the shortlist for a chunk of hypotheses.

        `allowed.disallowed_B1U` must have rows for the sentences of these hypotheses only.
        """
        parts = zip(self._models, readouts, allowed.projections, strict=True)
        logits = [_logits(model, readout_NE, projection) for model, readout_NE, projection in parts]
        looks_later = self._by_logits and count is not None and logits[0].device.type == "cpu"
        if not looks_later:
            for logits_NU in logits:
                _disallow(logits_NU, allowed.disallowed_B1U)
        scores_NU, are_logits = self._scores(logits)
        eos_N1 = _eos(scores_NU, allowed.eos)
        if count is None:
            best_NC, places_NC = _everything(scores_NU)
        elif looks_later:
            best_NC, places_NC = top_without(allowed.disallowed_B1U, scores_NU, min(count, scores_NU.shape[1]))
        else:
            best_NC, places_NC = top(scores_NU, min(count, scores_NU.shape[1]))
        if are_logits:
            best_NC, eos_N1 = _normalised(scores_NU, scores_NU[:, :0], best_NC, eos_N1)
        return Choices(best_NC, allowed.ids_U[places_NC], eos_N1.squeeze(1))

    def _scores(self, logits: list[Tensor]) -> tuple[Tensor, bool]:
        """Return scores_NU, which the caller may overwrite, and True if they must still be normalised."""
        full = torch.promote_types(logits[0].dtype, torch.float32)
        if self._by_logits:
            mean_NU = logits[0].to(full) if len(logits) == 1 else torch.stack(logits).mean(dim=0, dtype=full)
            return mean_NU, False
        if len(logits) == 1 and logits[0].is_cuda:  # log_softmax is a single kernel there
            return logits[0].log_softmax(dim=-1, dtype=full), False
        if len(logits) == 1:
            return logits[0], True
        log_probs_MNU = torch.stack([logits_NU.log_softmax(dim=-1, dtype=full) for logits_NU in logits])
        mean_NU = log_probs_MNU.logsumexp(dim=0) - math.log(len(logits))
        return mean_NU, False


def _eos(scores_NU: Tensor, place: int) -> Tensor:
    """Return eos_N1, the scores of EOS, found at index `place`.

    On a CPU, return a copy, since `scores_NU` will be overwritten or freed.
    """
    eos_N1 = scores_NU[:, place : place + 1]
    return eos_N1.clone() if scores_NU.device.type == "cpu" else eos_N1


def _everything(scores_NU: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of all scores, and the index of each score in its row."""
    return scores_NU.clone(), torch.arange(scores_NU.shape[1], device=scores_NU.device).expand_as(scores_NU)


def _disallow(logits_NU: Tensor, disallowed_B1U: Tensor) -> None:
    """Set the logits of disallowed tokens to minus infinity, in place; each sentence has N / B consecutive rows."""
    logits_NU.view(len(disallowed_B1U), -1, logits_NU.shape[1]).masked_fill_(disallowed_B1U, -torch.inf)


def _normalised(logits_NU: Tensor, forbidden_NF: Tensor, best_NC: Tensor, eos_N1: Tensor) -> tuple[Tensor, Tensor]:
    """Convert the logits of the best tokens and of EOS to log-probabilities; `logits_NU` is overwritten."""
    normaliser_N1 = log_sum_exp(logits_NU, forbidden_NF, best_NC.amax(dim=1, keepdim=True))
    return best_NC - normaliser_N1, eos_N1 - normaliser_N1


def log_sum_exp(values_NU: Tensor, others_NF: Tensor, largest_N1: Tensor) -> Tensor:
    """Return log(sum(exp(x))) for each row, over `values_NU` and `others_NF` together.

    This function takes half the time of `torch.logsumexp`, which searches for the maximum and makes copies.

    Args:
        values_NU: terms of the sum; overwritten.
        others_NF: a few additional terms.
        largest_N1: maximum of each row of `values_NU`.
    """
    largest_N1 = torch.cat([largest_N1, others_NF], dim=1).amax(dim=1, keepdim=True)
    sums_N1 = values_NU.sub_(largest_N1).clamp_(min=LEAST).exp_().sum(dim=1, keepdim=True)
    return largest_N1 + (sums_N1 + (others_NF - largest_N1).exp().sum(dim=1, keepdim=True)).log()


def _logits(model: Seq2Seq, readout_NE: Tensor, projection: Projection | None = None) -> Tensor:
    """Return the model's logits; for bf16 on a GPU, omit the cast to fp32: later kernels cast the logits anyway."""
    if readout_NE.is_cuda and readout_NE.dtype == torch.bfloat16:
        return F.linear(readout_NE, *(projection or (model.projection_VE, model.projection_bias_V)))
    return model.logits(readout_NE, projection)


def top(values_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `values_NV.topk(count)`: the `count` largest values of each row, in descending order, and their indices.

    The `count` largest values lie in the `count` blocks with the largest maxima, and one pass finds those blocks. This
    function takes less than half the time of `topk` over whole rows.
    """
    blocks = values_NV.shape[1] // TOP_BLOCK
    if blocks < 4 * count:
        return values_NV.topk(count)
    whole = blocks * TOP_BLOCK
    blocks_NBL = values_NV[:, :whole].view(len(values_NV), blocks, TOP_BLOCK)
    chosen_NC = blocks_NBL.amax(dim=-1).topk(count, sorted=False).indices
    if values_NV.is_cuda and whole == values_NV.shape[1] and len(values_NV) <= FEW_ROWS:  # fewer kernels, more traffic
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


def top_without(disallowed_B1V: Tensor, values_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `top(values_NV, count)`, as if disallowed values were minus infinity.

    Each sentence has N / B consecutive rows.

    Masking costs as much as `top` itself, so only the few rows whose top values include a disallowed one are masked and
    searched again.
    """
    best_NC, ids_NC = top(values_NV, count)
    sentence_N = torch.arange(len(values_NV)) // (len(values_NV) // len(disallowed_B1V))
    is_disallowed_NC = disallowed_B1V[sentence_N.unsqueeze(1), 0, ids_NC]
    rows_N = is_disallowed_NC.any(dim=1).nonzero().flatten()
    if len(rows_N):
        left_NV = values_NV[rows_N].masked_fill_(disallowed_B1V[sentence_N[rows_N], 0], -torch.inf)
        best_NC[rows_N], ids_NC[rows_N] = top(left_NV, count)
    return best_NC, ids_NC
