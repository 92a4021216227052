"""Cross-entropy with label smoothing, in chunks: the logits of a whole batch are never in memory at once."""

from typing import Any

import torch
from torch import Tensor

from nmtcli.data.batches import Batch
from nmtcli.losses.signature import LossSums
from nmtcli.model.seq2seq import Seq2Seq

CHUNK_ELEMENTS = 1 << 22  # logits in memory at a time: 16 MiB in fp32, near a CPU's last cache


class CrossEntropy:
    """The loss of a model on a batch, each target token given the reference before it.

    Args:
        label_smoothing: share of the target distribution that is uniform over the vocabulary.
    Source:
        label smoothing: Szegedy et al. 2016, section 7.
    """

    def __init__(self, label_smoothing: float) -> None:
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> int:
        """See `Loss.count`: target tokens."""
        return batch.target_tokens

    def __call__(self, model: Seq2Seq, batch: Batch, update: int = 0) -> LossSums:
        """See `Loss`; padding has no part in the sums [nats]."""
        memory, state = model.encode(batch.source_BS, batch.source_mask_BS)
        readout_BTE = model.decode(memory, state, batch.target_input_BT)
        loss, nll = chunked_cross_entropy(
            readout_BTE.flatten(0, 1),
            model.projection_VE,
            model.projection_bias_V,
            batch.target_output_BT.flatten(),
            batch.target_mask_BT.flatten(),
            label_smoothing=self.label_smoothing,
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
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies of `readout @ projection.T + bias`, a few rows of logits at a time.

    The gradient is made in the same pass, so nothing is computed twice: as many operations as with all logits at once.

    Args:
        readout_NE: one row a token.
        projection_VE, bias_V: the output projection.
        targets_N: ids.
        mask_N: True on rows that count.
        label_smoothing: share of uniform.
        chunk_elements: logits in memory at a time, at most (one row at least).
    Returns:
        the smoothed loss, with gradient, and the plain one, without; F.cross_entropy(reduction="sum") to rounding
        [nats].
    """
    device = readout_NE.device.type
    if torch.is_autocast_enabled(device):
        readout_NE = readout_NE.to(torch.get_autocast_dtype(device))
    result = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        readout_NE, projection_VE, bias_V, targets_N, mask_N, label_smoothing, chunk_elements
    )
    loss, nll = result
    return loss, nll


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
        matrix_VE = projection_VE.to(dtype)
        needs_gradient = any(ctx.needs_input_grad)
        grad_readout_NE = torch.empty_like(readout_NE) if needs_gradient else None
        grad_matrix_VE = torch.zeros_like(projection_VE, dtype=full) if needs_gradient else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=full) if needs_gradient else None
        loss = nll = readout_NE.new_zeros((), dtype=full)
        vocabulary = matrix_VE.shape[0]
        rows = max(1, chunk_elements // vocabulary)
        for start in range(0, len(readout_NE), rows):
            chunk = slice(start, start + rows)
            logits_NV = (readout_NE[chunk] @ matrix_VE.T).to(full).add_(bias_V)
            targets_N1 = targets_N[chunk].unsqueeze(1)
            weight_N1 = mask_N[chunk].unsqueeze(1).to(full)
            log_sum_N1 = logits_NV.logsumexp(dim=1, keepdim=True)
            nll_N1 = log_sum_N1 - logits_NV.gather(1, targets_N1)
            uniform_N1 = log_sum_N1 - logits_NV.mean(dim=1, keepdim=True)
            nll = nll + (nll_N1 * weight_N1).sum()
            loss = loss + (((1 - smoothing) * nll_N1 + smoothing * uniform_N1) * weight_N1).sum()
            if grad_readout_NE is None or grad_matrix_VE is None or grad_bias_V is None:
                continue
            # d loss / d logits = softmax - target distribution
            grad_NV = logits_NV.sub_(log_sum_N1).exp_().sub_(smoothing / vocabulary)
            grad_NV.scatter_add_(1, targets_N1, grad_NV.new_full(targets_N1.shape, smoothing - 1))
            grad_NV.mul_(weight_N1)
            grad_bias_V += grad_NV.sum(dim=0)
            low_NV = grad_NV.to(dtype)
            grad_readout_NE[chunk] = low_NV @ matrix_VE
            grad_matrix_VE += low_NV.T @ readout_NE[chunk]
        if grad_readout_NE is not None:
            ctx.save_for_backward(grad_readout_NE, grad_matrix_VE, grad_bias_V)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        readout, matrix, bias = (
            saved.mul(scale.to(saved.dtype)) if need else None
            for saved, need in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
        )
        return readout, matrix, bias, None, None, None, None
