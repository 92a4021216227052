"""Negative log-probability of each target token, with gradient, a few rows of logits at a time.

In cross_entropy.py, the weight of each token is known before its logits are computed. Here the weights come from a
comparison of whole candidates, after all tokens have been scored. But a weight is only a factor in the gradient of its
token. The gradient of the readout is therefore computed in the forward pass and scaled in the backward pass. For the
gradient of the matrix, the backward pass scales the readout rather than the probabilities, which have far more
elements.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nmtcli.losses.cross_entropy import CHUNK_ELEMENTS, nll_by

KEPT_ELEMENTS = 1 << 26  # maximum number of probabilities kept for the backward pass: 256 MiB in fp32


def token_nll(
    readout_NE: Tensor,
    projection_VE: Tensor,
    bias_V: Tensor,
    targets_N: Tensor,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    kept_elements: int = KEPT_ELEMENTS,
) -> Tensor:
    """Return nll_N = F.cross_entropy(readout @ projection.T + bias, targets, reduction="none").

    The values are as accurate as rounded probabilities allow (0.004 nats in bf16). The maximum value is 87 nats, since
    probabilities are clamped below at the smallest normal number in fp32.

    Args:
        readout_NE: one row per token.
        projection_VE, bias_V: the output projection.
        targets_N: ids of the target tokens.
        chunk_elements: maximum number of logits in memory at a time, but at least one row.
        kept_elements: maximum number of probabilities kept for the backward pass; for a batch with more, no
            probabilities are kept, and the backward pass recomputes them.
    Returns:
        nll_N in fp32 or better [nats].
    """
    device = readout_NE.device.type
    if torch.is_autocast_enabled(device):
        readout_NE = readout_NE.to(torch.get_autocast_dtype(device))
    keep = len(readout_NE) * len(projection_VE) <= kept_elements
    rows = max(1, chunk_elements // len(projection_VE))
    with torch.autocast(device, enabled=False):  # for the reason given in `chunked_cross_entropy`
        return _token_nll(readout_NE, projection_VE, bias_V, targets_N, rows, keep)


class _TokenNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, readout_NE: Tensor, projection_VE: Tensor, bias_V: Tensor, targets_N: Tensor, rows: int, keep: bool
    ) -> Tensor:
        dtype = readout_NE.dtype
        matrix_VE, low_bias_V = projection_VE.to(dtype), bias_V.to(dtype)
        full = torch.promote_types(dtype, torch.float32)
        nll_N1 = torch.empty(len(readout_NE), 1, dtype=full, device=readout_NE.device)
        expected_NE = torch.empty_like(readout_NE)  # expected row of the matrix under the model's probabilities
        targets_N1 = targets_N.unsqueeze(1)
        kept = []
        for start in range(0, len(readout_NE), rows):
            chunk = slice(start, start + rows)
            logits_NV = torch.addmm(low_bias_V, readout_NE[chunk], matrix_VE.T)
            probs_NV = logits_NV.softmax(dim=1)  # takes fewer passes over memory than log_softmax and exp
            nll_N1[chunk] = nll_by(probs_NV, targets_N1[chunk], full)
            if any(ctx.needs_input_grad):
                torch.mm(probs_NV, matrix_VE, out=expected_NE[chunk])
                if keep:
                    kept.append(probs_NV)
        ctx.save_for_backward(readout_NE, projection_VE, bias_V, targets_N, expected_NE, *kept)
        ctx.rows = rows
        return nll_N1.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        readout_NE, projection_VE, bias_V, targets_N, expected_NE, *kept = ctx.saved_tensors
        dtype = readout_NE.dtype
        matrix_VE, low_bias_V = projection_VE.to(dtype), bias_V.to(dtype)
        weight_N1 = grad_N.unsqueeze(1)
        # d nll / d logits = probabilities - one-hot target
        grad_readout_NE = expected_NE.to(grad_N.dtype).sub_(matrix_VE[targets_N]).mul_(weight_N1)
        weighted_NE = readout_NE.to(grad_N.dtype) * weight_N1
        grad_matrix_VE = torch.zeros_like(projection_VE, dtype=grad_N.dtype)
        grad_bias_V = torch.zeros_like(bias_V, dtype=grad_N.dtype)
        low_weighted_NE, low_weight_N1 = weighted_NE.to(dtype), weight_N1.to(dtype)
        for number, start in enumerate(range(0, len(readout_NE), ctx.rows)):
            chunk = slice(start, start + ctx.rows)
            if kept:
                probs_NV = kept[number]
            else:
                probs_NV = torch.addmm(low_bias_V, readout_NE[chunk], matrix_VE.T).softmax(dim=1, dtype=grad_N.dtype)
                probs_NV = probs_NV.to(dtype)
            if dtype == grad_N.dtype:
                grad_matrix_VE.addmm_(probs_NV.T, low_weighted_NE[chunk])
            else:
                grad_matrix_VE += probs_NV.T @ low_weighted_NE[chunk]
            grad_bias_V += (low_weight_N1[chunk].T @ probs_NV).squeeze(0)
        grad_matrix_VE.index_add_(0, targets_N, weighted_NE, alpha=-1)
        grad_bias_V.index_add_(0, targets_N, grad_N, alpha=-1)
        return grad_readout_NE.to(dtype), grad_matrix_VE, grad_bias_V, None, None, None


_token_nll: Callable[[Tensor, Tensor, Tensor, Tensor, int, bool], Tensor] = _TokenNLL.apply
