"""Beam-search optimisation: train the model to keep the reference in the beam by a margin at every step of a search.

The score f of a prefix is the logit of its last token. There is no softmax, and nothing is summed over steps: the
decoder's state carries the history. A search keeps K prefixes. Whenever the score of the reference's prefix does not
exceed that of its rival by at least 1, a violation, the loss grows by

    cost * (1 - f(reference's token) + f(rival's token))

and the search for this sentence restarts with the reference's prefix as the only one in the beam. The rival is the K-th
best of all candidate prefixes, or the next best if the K-th is the reference's own. At the last token of the reference,
the reference should come first, so the rival is the best of the other prefixes.

The loss takes two passes. The first pass searches, without gradient, over all sentences and prefixes in one batch, and
records the tokens of the rivals. There is exactly one rival between two restarts, so all rivals for a sentence fit into
a single chain of tokens, one after another. The second pass, with gradient, steps over the reference and this chain
side by side; at each restart, the chain continues from the reference's state. All prefixes of a sentence share their
dropout masks, in both passes.

Source:
    Wiseman and Rush 2016, section 4; the chain is from section 4.2.2, "recurrent search path".
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.data.subword import EOS
from nmtcli.losses.protocol import LossSums
from nmtcli.model.attention import Memory
from nmtcli.model.decoder import State
from nmtcli.model.dropout import Drop, Dropout, dropout
from nmtcli.model.seq2seq import Seq2Seq, forget_casts
from nmtcli.scoring.sentence import sentence_bleu

MARGIN = 1.0
Drops = Callable[[int], Drop]  # maps the index of a step to its dropout function


class Path(NamedTuple):
    """Rivals, restarts and violations found by a search, for each target position.

    Attributes:
        rival_BT: the chain: each rival's tokens since the restart before it; the reference's tokens where there is no
            rival.
        starts_BT: True where the search starts, or restarts from the reference's prefix, just before this token.
        violated_BT: True where the reference did not lead its rival by the margin.
    """

    rival_BT: Tensor
    starts_BT: Tensor
    violated_BT: Tensor


class BeamSearchLoss:
    """Margin loss over the steps of a beam search.

    Args:
        beam: K, the number of prefixes that a search keeps.
        growth: K starts at 2 and grows by 1 every `growth` updates, up to `beam`; 0: K is always `beam`.
        cost: cost of a violation; `one`: 1; `bleu`: 1 - sentence BLEU of the rival's tokens since the last restart.
        forbidden: ids that are disallowed in the search, except at positions where the reference has them.
    """

    def __init__(self, *, beam: int, growth: int, cost: str, forbidden: tuple[int, ...]) -> None:
        self.beam = beam
        self.growth = growth
        self.cost = cost
        self.forbidden = forbidden

    def count(self, batch: Batch) -> int:
        """Return the number of target tokens."""
        return batch.target_tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return the sum of the margin losses [logits] as `loss`, and None as `nll`."""
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        drops = shared_masks(model.dropout, model.training)
        with torch.no_grad():
            path = search(model, memory, state, batch, self.beam_at(update), self.forbidden, drops)
        forget_casts()
        cost_BT = path.violated_BT if self.cost == "one" else bleu_costs(path, batch)
        return LossSums(margin_loss(model, memory, state, batch, path, cost_BT, drops), None)

    def beam_at(self, update: int) -> int:
        """Return K, the beam size, after `update` completed updates."""
        return min(self.beam, 2 + update // self.growth) if self.growth else self.beam


def shared_masks(dropout_of_model: Dropout, training: bool) -> Drops:
    """Return the dropout function of each step, with masks shared by all prefixes of a sentence and by both passes."""
    masks: dict[tuple[str, int], Tensor] = {}

    def at(step: int) -> Drop:
        def drop(place: str, values_BKE: Tensor) -> Tensor:
            if not training or not dropout_of_model.probability:
                return values_BKE
            key = place, 0 if dropout_of_model.variational else step
            if key not in masks:
                masks[key] = dropout(torch.ones_like(values_BKE[:, :1]), dropout_of_model.probability, True)
            return values_BKE * masks[key]

        return drop

    return at


def search(
    model: Seq2Seq, memory: Memory, state: State, batch: Batch, beam: int, forbidden: tuple[int, ...], drops: Drops
) -> Path:
    """Run a beam search for each sentence, restarting it at each violation, and record rivals, restarts and violations.

    The reference's prefix is in the beam at every step: either it led its rival in the last step, or the search has
    just restarted from it.

    Args:
        model: in training mode.
        memory, state: from `model.encode`.
        batch: the sentence pairs.
        beam: K, the number of prefixes kept per sentence.
        forbidden: ids that are disallowed, except at positions where the reference has them.
        drops: dropout function of each step.
    """
    target_BT, mask_BT = batch.target_output_BT, batch.target_mask_BT
    (B, T), K, device = target_BT.shape, beam, target_BT.device
    last_B = mask_BT.sum(dim=1) - 1
    forbidden_ids = torch.tensor(forbidden, dtype=torch.long, device=device)
    row_B, slot_K, position_T = (torch.arange(size, device=device) for size in (B, K, T))
    state = state.select(row_B.repeat_interleave(K))
    tokens_BK = batch.target_input_BT[:, :1].expand(B, K)
    live_BK = (slot_K == 0).expand(B, K)
    reference_B = torch.zeros_like(last_B)  # index of the reference's prefix in the beam
    start_B = torch.zeros_like(last_B)
    prefix_BKT = target_BT.unsqueeze(1).expand(B, K, T)
    rival_BT, starts_BT, violated_BT = target_BT, (position_T == 0).expand(B, T), torch.zeros_like(mask_BT)
    for t in range(T):
        readout_BKE, _, state = model.advance(memory, state, tokens_BK, drops(t))
        logits_BKV = model.logits(readout_BKE)
        V = logits_BKV.shape[-1]
        target_B = target_BT[:, t]
        score_B = logits_BKV[row_B, reference_B, target_B]
        logits_BKV[..., forbidden_ids] = -torch.inf
        logits_BKV.masked_fill_(~live_BK.unsqueeze(-1), -torch.inf)
        logits_BKV[row_B, reference_B, target_B] = score_B
        scores_BC, flat_BC = logits_BKV.flatten(1).topk(min(K + 1, K * V))
        is_reference_BC = flat_BC == (reference_B * V + target_B).unsqueeze(1)
        kth_B = torch.where(last_B == t, 0, K - 1)
        kth_B = torch.where(is_reference_BC[row_B, kth_B], kth_B + 1, kth_B)
        violated_B = mask_BT[:, t] & (score_B - scores_BC[row_B, kth_B] < MARGIN)

        parents_BC, tokens_BC = flat_BC // V, flat_BC % V
        rival_parent_B = parents_BC[row_B, kth_B]
        rival_prefix_BT = prefix_BKT[row_B, rival_parent_B].clone()
        rival_prefix_BT[:, t] = tokens_BC[row_B, kth_B]
        span_BT = violated_B.unsqueeze(1) & (position_T >= start_B.unsqueeze(1)) & (position_T <= t)
        rival_BT = torch.where(span_BT, rival_prefix_BT, rival_BT)
        violated_BT = violated_BT | (violated_B.unsqueeze(1) & (position_T == t))
        starts_BT = starts_BT | (violated_B.unsqueeze(1) & (position_T == t + 1))
        start_B = torch.where(violated_B, t + 1, start_B)

        violated_B1 = violated_B.unsqueeze(1)
        parents_BK = torch.where(violated_B1, reference_B.unsqueeze(1), parents_BC[:, :K])
        tokens_BK = torch.where(violated_B1, target_B.unsqueeze(1), tokens_BC[:, :K])
        goes_on_BK = scores_BC[:, :K].isfinite() & (tokens_BK != EOS)
        live_BK = torch.where(violated_B1, slot_K == 0, goes_on_BK)
        reference_B = torch.where(violated_B, 0, is_reference_BC[:, :K].long().argmax(dim=1))
        prefix_BKT = prefix_BKT[row_B.unsqueeze(1), parents_BK].clone()
        prefix_BKT[:, :, t] = tokens_BK
        state = state.select((row_B.unsqueeze(1) * K + parents_BK).flatten())
    return Path(rival_BT, starts_BT, violated_BT)


def bleu_costs(path: Path, batch: Batch) -> Tensor:
    """Return cost_BT: at violations, 1 - sentence BLEU of the rival's tokens since the last restart; elsewhere 0."""
    costs = [[0.0] * path.violated_BT.shape[1] for _ in path.violated_BT]
    starts = path.starts_BT.tolist()
    rivals, references = path.rival_BT.tolist(), batch.target_output_BT.tolist()
    for b, t in path.violated_BT.nonzero().tolist():
        start = max(position for position in range(t + 1) if starts[b][position])
        span = slice(start, t + 1)
        costs[b][t] = 1 - sentence_bleu(rivals[b][span], references[b][span])
    return torch.tensor(costs, dtype=torch.float64, device=path.violated_BT.device)


def margin_loss(
    model: Seq2Seq, memory: Memory, state: State, batch: Batch, path: Path, cost_BT: Tensor, drops: Drops
) -> Tensor:
    """Sum cost * (1 - f(reference) + f(rival)) over the margin violations found by a search, with gradient.

    Args:
        model, memory, state, batch, drops: as in `search`.
        path: from `search`.
        cost_BT: cost of each violation; 0 elsewhere.
    """
    B, T = cost_BT.shape
    row_B = torch.arange(B, device=cost_BT.device)
    state = state.select(row_B.repeat_interleave(2))  # two rows per sentence: the reference's, then the rival's
    read_BT = torch.where(path.starts_BT[:, 1:], batch.target_output_BT[:, :-1], path.rival_BT[:, :-1])
    read_BT = torch.cat([batch.target_input_BT[:, :1], read_BT], dim=1)
    readouts = []
    for t in range(T):
        state = state.select(torch.stack([2 * row_B, 2 * row_B + ~path.starts_BT[:, t]], dim=1).flatten())
        tokens_B2 = torch.stack([batch.target_input_BT[:, t], read_BT[:, t]], dim=1)
        readout_B2E, _, state = model.advance(memory, state, tokens_B2, drops(t))
        readouts.append(readout_B2E)
    outputs_B2T = torch.stack([batch.target_output_BT, path.rival_BT], dim=1)
    reference_BT, rival_BT = token_logits(model, torch.stack(readouts, dim=2), outputs_B2T).unbind(dim=1)
    missing_BT = (MARGIN - reference_BT + rival_BT).clamp(min=0.0)  # in bf16, the search may have rounded differently
    return (cost_BT.to(missing_BT.dtype) * missing_BT).masked_fill(~path.violated_BT, 0.0).sum()


def token_logits(model: Seq2Seq, readout_BKTE: Tensor, tokens_BKT: Tensor) -> Tensor:
    """Return logits_BKT of the given tokens, in fp32 or better."""
    full = torch.promote_types(readout_BKTE.dtype, torch.float32)
    logits_BKT = (readout_BKTE.to(full) * model.projection_VE[tokens_BKT].to(full)).sum(dim=-1)
    return logits_BKT + model.projection_bias_V[tokens_BKT].to(full)
