"""The greedy-search loss: the decoder reads its own most probable tokens, and is trained to say the reference's.

Position t of the reference is the target whatever was read before it, over the whole length of the reference. No
gradient goes through the choice of a token. With probability R a position reads the reference's token instead: R = 1 is
cross-entropy.

    exact       one step after the other: what is read at t is the argmax of what the step before has said
    in passes   all positions at once, one fused call a pass: what is read at t is the argmax at t - 1 of the pass
                before; the first pass reads the reference. With a pass for every position this is the exact form.
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
    """The loss of a decoder that goes its own way.

    Args:
        label_smoothing: share of the target distribution that is uniform over the vocabulary.
        passes: 0: exact; else of how many passes, two at least.
        teacher_forcing, decay, half: see `teacher_forcing_at`.
        forbidden: ids that no search says, and that the decoder does not read unless the reference has them.
    Source:
        mixing in the reference: Bengio et al. 2015 (scheduled sampling); in two passes: Mihaylova and Martins 2019; in
        more: Duckworth et al. 2019.
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
        """See `Loss.count`: target tokens."""
        return batch.target_tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int) -> LossSums:
        """See `Loss` [nats]."""
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        ratio = teacher_forcing_at(update, lowest=self.teacher_forcing, decay=self.decay, half=self.half)
        shape, device = batch.target_input_BT.shape, batch.target_input_BT.device
        # nothing is drawn where nothing is to be decided, so that dropout draws what it would in cross-entropy
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
    """The probability R that a position reads the reference's token.

    Args:
        update: updates done.
        lowest: R without a schedule; what a schedule falls to.
        decay: `none`; `linear`, 1 - c i; `exponential`, k ** i; `inverse-sigmoid`, k / (k + exp(i / k)).
        half: updates after which the schedule's formula is 1/2, which decides c or k.
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
    """The k whose k * log(k), where the formula is 1/2, is `half`; by Newton's method."""
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
    """The exact form.

    Args:
        model, memory, state: from `model.encode`.
        target_BT: the reference, BOS first.
        forced_BT: True where the reference is read; BOS is read anyhow.
        forbidden: ids that are not read otherwise.
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
    """The form that is fused over time; Args and Returns as in `decode_own_tokens`.

    Args:
        passes: calls of the decoder; the last one has gradients, those before have neither gradients nor dropout.
    """
    read_BT = target_BT
    for _ in range(passes - 1):
        with model.searching():
            said_BT = most_probable(model, model.decode(memory, state, read_BT), forbidden)
        shifted_BT = torch.cat([target_BT[:, :1], said_BT[:, :-1]], dim=1)
        read_BT = torch.where(forced_BT, target_BT, shifted_BT)
    return model.decode(memory, state, read_BT)


@torch.no_grad()
def most_probable(model: Seq2Seq, readout_BTE: Tensor, forbidden: tuple[int, ...]) -> Tensor:
    """The argmax of the logits of what may be said, tokens_BT, a few rows of logits at a time."""
    bar_V = model.projection_bias_V.new_zeros(model.projection_bias_V.shape)
    bar_V[list(forbidden)] = -torch.inf
    rows_NE = readout_BTE.flatten(0, 1)
    size = max(1, CHUNK_ELEMENTS // model.projection_VE.shape[0])
    tokens_N = torch.cat([(model.logits(some_NE) + bar_V).argmax(-1) for some_NE in torch.split(rows_NE, size)])
    return tokens_N.view(readout_BTE.shape[:2])
