"""Cross-entropy with label smoothing, in chunks, so that the logits of a batch are never all in memory at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.protocol import LossSums
from nmtcli.model.seq2seq import Seq2Seq

CHUNK_ELEMENTS = 1 << 22  # maximum number of logits in memory: 16 MiB in fp32, about a CPU's last-level cache
GPU_CHUNK_ELEMENTS = 1 << 24  # minimum number of logits in a chunk on a GPU, to keep it busy
GPU_CHUNKS = 32  # maximum number of chunks in a large batch: each chunk updates the gradient of the whole matrix


class CrossEntropy:
    """Cross-entropy of each target token, given the reference's tokens before it.

    Args:
        label_smoothing: share of the target distribution, in [0, 1), that is spread evenly over the vocabulary.
    Source:
        label smoothing: Szegedy et al. 2016, section 7.
    """

    def __init__(self, label_smoothing: float) -> None:
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> int:
        """Return the number of target tokens."""
        return batch.target_tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int = 0) -> LossSums:
        """Return loss and nll of a batch, summed over real tokens [nats]."""
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        readout_BTE = model.decode(memory, state, batch.target_input_BT)
        return cross_entropy_of(model, readout_BTE, batch, self.label_smoothing)


def cross_entropy_of(model: Seq2Seq, readout_BTE: Tensor, batch: Batch, label_smoothing: float) -> LossSums:
    """Compute the cross-entropy of a batch's references from the decoder's readouts, ignoring padding.

    Args:
        model: provides the output projection.
        readout_BTE: one readout for each position of the references.
        batch: provides the references.
        label_smoothing: share of the target distribution, in [0, 1), that is spread evenly over the vocabulary.
    Returns:
        the sums of loss and nll [nats].
    """
    loss, nll = chunked_cross_entropy(
        readout_BTE.flatten(0, 1),
        model.projection_VE,
        model.projection_bias_V,
        batch.target_output_BT.flatten(),
        batch.target_mask_BT.flatten(),
        label_smoothing=label_smoothing,
    )
    return LossSums(loss, nll)


def chunked_cross_entropy(
    readout_NE: Tensor,
    projection_VE: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    mask_N: Tensor,
    *,
    label_smoothing: float,
    chunk_elements: int = 0,
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropies of the targets under the logits `readout @ projection.T + bias`, a few rows at a time.

    The gradient is computed in the same pass, so chunking takes no more operations than computing all logits at once.

    Args:
        readout_NE: one row per token.
        projection_VE, bias_V: the output projection.
        targets_N: ids of the target tokens.
        mask_N: True on rows that count towards the sums.
        label_smoothing: share of the target distribution, in [0, 1), that is spread evenly over the vocabulary.
        chunk_elements: maximum number of logits in memory at a time, but at least one row; 0: choose it by the device.
    Returns:
        the smoothed loss, with gradient, and the nll, without gradient; both equal F.cross_entropy(reduction="sum") up
        to rounding [nats].
    """
    device = readout_NE.device.type
    if not chunk_elements:
        elements = len(readout_NE) * len(projection_VE)
        chunk_elements = CHUNK_ELEMENTS if device == "cpu" else max(GPU_CHUNK_ELEMENTS, elements // GPU_CHUNKS)
    if torch.is_autocast_enabled(device):
        readout_NE = readout_NE.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):  # on a GPU, autocast would compute any softmax in fp32
        return _chunked(readout_NE, projection_VE, bias_V, targets_N, mask_N, label_smoothing, chunk_elements)


def nll_by(probs_NV: Tensor, targets_N1: Tensor, full: torch.dtype) -> Tensor:
    """Return nll_N1 of the targets [nats], with probabilities clamped below at the smallest normal number of `full`."""
    return -probs_NV.gather(1, targets_N1).to(full).clamp_(min=torch.finfo(full).tiny).log_()


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        readout_NE: Tensor,
        projection_VE: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        mask_N: Tensor,
        smoothing: float,
        chunk_elements: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = readout_NE.dtype
        full = torch.promote_types(dtype, torch.float32)
        matrix_VE, low_bias_V = projection_VE.to(dtype), bias_V.to(dtype)
        weight_N1 = mask_N.unsqueeze(1).to(dtype)
        counted_NE = readout_NE * weight_N1
        targets_N1 = targets_N.unsqueeze(1)
        needs_gradient = any(ctx.needs_input_grad)
        if needs_gradient:
            grad_readout_NE = torch.empty_like(readout_NE)
            grad_matrix_VE = torch.zeros_like(projection_VE, dtype=full)
            grad_bias_V = torch.zeros_like(bias_V, dtype=full)
        nll_N1 = torch.empty_like(weight_N1, dtype=full)
        logits_N1 = torch.empty_like(nll_N1)  # logits of the targets
        mean_E = matrix_VE.mean(dim=0, dtype=full)
        vocabulary = matrix_VE.shape[0]
        rows = max(1, chunk_elements // vocabulary)
        for start in range(0, len(readout_NE), rows):
            chunk = slice(start, start + rows)
            logits_NV = torch.addmm(low_bias_V, readout_NE[chunk], matrix_VE.T)
            logits_N1[chunk] = logits_NV.gather(1, targets_N1[chunk])
            if not needs_gradient:
                nll_N1[chunk] = -logits_NV.log_softmax(dim=1, dtype=full).gather(1, targets_N1[chunk])
                continue
            probs_NV = logits_NV.softmax(dim=1)  # takes fewer passes over memory than log_softmax and exp
            nll_N1[chunk] = nll_by(probs_NV, targets_N1[chunk], full)
            torch.mm(probs_NV, matrix_VE, out=grad_readout_NE[chunk])
            if dtype == full:
                grad_matrix_VE.addmm_(probs_NV.T, counted_NE[chunk])
            else:
                grad_matrix_VE += probs_NV.T @ counted_NE[chunk]
            grad_bias_V += (weight_N1[chunk].T @ probs_NV).squeeze(0)
            del logits_NV, probs_NV  # free the memory before the next chunk
        mean_logits_N1 = (readout_NE.to(full) @ mean_E).unsqueeze(1) + low_bias_V.mean(dtype=full)
        uniform_N1 = nll_N1 + logits_N1 - mean_logits_N1  # nll + logit = logsumexp
        weight_N1 = weight_N1.to(full)
        nll = (nll_N1 * weight_N1).sum()
        loss = (1 - smoothing) * nll + smoothing * (uniform_N1 * weight_N1).sum()
        if needs_gradient:
            # d loss / d logits = probabilities - target distribution; products with the latter have a closed form
            at_target = smoothing - 1
            grad_NE = grad_readout_NE.to(full).sub_(smoothing * mean_E)
            grad_NE = grad_NE.add_(matrix_VE[targets_N], alpha=at_target).mul_(weight_N1)
            grad_matrix_VE.index_add_(0, targets_N, counted_NE.to(full), alpha=at_target)
            grad_matrix_VE.sub_(smoothing / vocabulary * counted_NE.sum(dim=0, dtype=full))
            grad_bias_V.index_add_(0, targets_N, weight_N1.squeeze(1), alpha=at_target)
            grad_bias_V.sub_(smoothing / vocabulary * weight_N1.sum())
            ctx.gradients = [grad_NE.to(dtype), grad_matrix_VE, grad_bias_V]
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, gradients = grads[0], ctx.gradients
        if gradients is None:
            raise RuntimeError("the gradient of this loss can be used only once: backward scales it in place")
        ctx.gradients = None
        readout, matrix, bias = (
            gradient.mul_(scale.to(gradient.dtype)) if need else None
            for gradient, need in zip(gradients, ctx.needs_input_grad[:3], strict=True)
        )
        return readout, matrix, bias, None, None, None, None


_chunked: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor]]
_chunked = _ChunkedCrossEntropy.apply
