"""Greedy-search loss: the decoder reads its own most probable tokens and learns to predict the reference.

At each position of the reference, the target is the reference's token, whatever the decoder has read before. With
probability R, a position reads the previous token of the reference instead of the decoder's own; R = 1 is cross-entropy
with teacher forcing. No gradient flows through the choice of a token.

There are two forms:

    exact       one step at a time: position t reads the argmax of the step before
    in passes   all positions at once, one fused call per pass: position t reads the argmax at t - 1 in the previous
                pass, and the first pass reads the reference; with one pass per position, the result is exact
"""

import math

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.cross_entropy import CHUNK_ELEMENTS, cross_entropy_of
from nmtcli.losses.protocol import LossSums
from nmtcli.model.attention import Memory
from nmtcli.model.decoder import State
from nmtcli.model.seq2seq import Seq2Seq


class GreedySearchLoss:
    """Cross-entropy of the reference, given the tokens that the decoder itself predicts.

    Args:
        label_smoothing: share of the target distribution that is uniform over the vocabulary.
        passes: number of passes, at least 2; 0: use the exact form.
        teacher_forcing: R if there is no schedule, else the lower bound of the schedule.
        decay, half: as in `teacher_forcing_at`.
        forbidden: ids that the decoder never predicts, and so reads only where the reference has them.
    Source:
        scheduled sampling: Bengio et al. 2015; in two passes: Mihaylova and Martins 2019; in more passes: Duckworth et
        al. 2019.
    """

    def __init__(
        self,
        label_smoothing: float,
        *,
        passes: int,
        teacher_forcing: float,
        decay: str = "none",
        half: int = 1,
        forbidden: tuple[int, ...] = (),
    ) -> None:
        self.label_smoothing = label_smoothing
        self.passes = passes
        self.teacher_forcing = teacher_forcing
        self.decay = decay
        self.half = half
        self.forbidden = forbidden

    def count(self, batch: Batch) -> int:
        """Return the number of target tokens."""
        return batch.target_tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """Return loss and nll of a batch, summed over real tokens [nats]."""
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        ratio = teacher_forcing_at(update, lowest=self.teacher_forcing, decay=self.decay, half=self.half)
        shape, device = batch.target_input_BT.shape, batch.target_input_BT.device
        # With R = 0 or 1, no random numbers are drawn, so that dropout gets the same ones as with cross-entropy.
        forced_BT = torch.rand(shape, device=device) < ratio if 0 < ratio < 1 else torch.full(shape, ratio >= 1)
        forced_BT = forced_BT.to(device)
        if self.passes:
            passes = 1 if ratio >= 1 else self.passes
            readout_BTE = decode_in_passes(
                model, memory, state, batch.target_input_BT, forced_BT, passes, forbidden=self.forbidden
            )
        else:
            readout_BTE = decode_own_tokens(
                model, memory, state, batch.target_input_BT, forced_BT, forbidden=self.forbidden
            )
        return cross_entropy_of(model, readout_BTE, batch, self.label_smoothing)


def teacher_forcing_at(update: int, *, lowest: float, decay: str, half: int) -> float:
    """Return R, the probability that a position reads the reference's token, after `update` updates.

    Args:
        update: i, the number of completed updates.
        lowest: R if there is no schedule, else the lower bound of the schedule.
        decay: schedule of R: `none`; `linear`: 1 - c i; `exponential`: k ** i; `inverse-sigmoid`: k / (k + exp(i / k)).
        half: number of updates after which the schedule's formula gives 1/2; it determines c or k.
    Source:
        Bengio et al. 2015, section 2.4.

    >>> [round(teacher_forcing_at(i, lowest=0.2, decay="linear", half=10), 2) for i in (0, 10, 16, 30)]
    [1.0, 0.5, 0.2, 0.2]
    """
    if decay == "none":
        return lowest
    if decay == "linear":
        ratio = 1 - update / (2 * half)
    elif decay == "exponential":
        ratio = 0.5 ** (update / half)
    else:
        k = _inverse_sigmoid_k(half)
        ratio = 1 / (1 + math.exp(min(update / k, 700)) / k)
    return max(lowest, ratio)


def _inverse_sigmoid_k(half: int) -> float:
    """Solve k * log(k) = half for k by Newton's method: then k / (k + exp(half / k)) = 1/2."""
    k = half / math.log(half + 2) + 1.0
    for _ in range(50):
        k -= (k * math.log(k) - half) / (math.log(k) + 1)
    return k


def decode_own_tokens(
    model: Seq2Seq,
    memory: Memory,
    state: State,
    target_BT: Tensor,
    forced_BT: Tensor,
    *,
    forbidden: tuple[int, ...] = (),
) -> Tensor:
    """Decode in the exact form: one step at a time, each reading the token predicted by the previous one.

    Args:
        model: in training mode.
        memory, state: from `model.encode`.
        target_BT: the reference, starting with BOS.
        forced_BT: True where the decoder reads the reference's token; at the first position, it always reads BOS.
        forbidden: ids that are never predicted, and so are read only where the reference has them.
    Returns:
        readout_BTE.
    """
    drop = model.dropout.over_a_sentence(model.training)
    tokens_B1 = target_BT[:, :1]
    readouts = []
    for position in range(1, target_BT.shape[1] + 1):
        readout_B1E, _, state = model.advance(memory, state, tokens_B1, drop)
        readouts.append(readout_B1E)
        if position < target_BT.shape[1]:
            here = slice(position, position + 1)
            tokens_B1 = torch.where(
                forced_BT[:, here], target_BT[:, here], most_probable(model, readout_B1E, forbidden)
            )
    return torch.cat(readouts, dim=1)


def decode_in_passes(
    model: Seq2Seq,
    memory: Memory,
    state: State,
    target_BT: Tensor,
    forced_BT: Tensor,
    passes: int,
    *,
    forbidden: tuple[int, ...] = (),
) -> Tensor:
    """Decode in passes, each fused over time; the other arguments and the result are those of `decode_own_tokens`.

    Args:
        passes: number of passes of the decoder; only the last pass has gradients and dropout.
    """
    read_BT = target_BT
    for _ in range(passes - 1):
        with model.searching():
            predicted_BT = most_probable(model, model.decode(memory, state, read_BT), forbidden)
        shifted_BT = torch.cat([target_BT[:, :1], predicted_BT[:, :-1]], dim=1)
        read_BT = torch.where(forced_BT, target_BT, shifted_BT)
    return model.decode(memory, state, read_BT)


@torch.no_grad()
def most_probable(model: Seq2Seq, readout_BTE: Tensor, forbidden: tuple[int, ...]) -> Tensor:
    """Return tokens_BT: the argmax over the allowed tokens, computed from a few rows of logits at a time."""
    bar_V = model.projection_bias_V.new_zeros(model.projection_bias_V.shape)
    bar_V[list(forbidden)] = -torch.inf
    rows_NE = readout_BTE.flatten(0, 1)
    size = max(1, CHUNK_ELEMENTS // model.projection_VE.shape[0])
    tokens_N = torch.cat([(model.logits(some_NE) + bar_V).argmax(-1) for some_NE in torch.split(rows_NE, size)])
    return tokens_N.view(readout_BTE.shape[:2])
