"""Matrix products with weights in floating point or, for decoding on a CPU, in 8-bit integers.

A weight w in row v of the matrix is quantised to round(w / s_v), and an activation x in row n of the input to
round(x / t_n); the scales s_v and t_n map the largest magnitude in each row to 127. The products are summed exactly, in
32 bits, so the result for a row does not depend on the other rows of the batch; the output is the sum times s_v t_n.
oneDNN needs the weights in its own layout, which is prepared once. It also needs non-negative activations: 128 is
therefore added to each activation, and its effect on the sums is subtracted again.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 127
ZERO = 128  # zero point: the quantised activation that represents 0


class Int8Matrix(NamedTuple):
    """Matrix of 8-bit integers.

    Attributes:
        values_VE: integers from -127 to 127.
        scales_V: scale of each row.
        ordered: the values in oneDNN's layout.
    """

    values_VE: Tensor
    scales_V: Tensor
    ordered: Tensor

    @classmethod
    def of(cls, values_VE: Tensor, scales_V: Tensor) -> Self:
        """Make a matrix from its values and scales."""
        return cls(values_VE, scales_V, torch.ops.onednn.qlinear_prepack(values_VE, None))

    def rows(self, outputs_U: Tensor) -> "Int8Matrix":
        """Return a matrix that consists of the rows for the given outputs."""
        return self.of(self.values_VE[outputs_U], self.scales_V[outputs_U])


Matrix = Tensor | Int8Matrix  # V outputs, E inputs


def quantised(matrix_VE: Tensor) -> Int8Matrix:
    """Quantise a matrix to int8, with one scale per row."""
    values_VE = matrix_VE.detach().float()
    scales_V1 = _scales(values_VE)
    return Int8Matrix.of((values_VE / scales_V1).round_().to(torch.int8), scales_V1.squeeze(1))


def linear(input_NE: Tensor, matrix: Matrix, bias_V: Tensor | None = None) -> Tensor:
    """Return `input @ matrix.T + bias`; the input may have any number of axes before the last.

    Returns:
        output_NV; if the matrix is int8, the output is fp32 and has no gradient.
    """
    if isinstance(matrix, Tensor):
        return F.linear(input_NE, matrix, bias_V)
    values_NE = input_NE.detach().flatten(0, -2).float()
    scales_N1 = _scales(values_NE)
    rows = len(values_NE)
    padded_RE = torch.empty(compiled_rows(rows), values_NE.shape[1], dtype=torch.uint8)  # padding rows stay undefined
    padded_RE[:rows] = (values_NE / scales_N1).add_(ZERO + 0.5)  # + 0.5, because the conversion truncates
    output_NV = int8_product(padded_RE, matrix)[:rows]
    output_NV = (
        output_NV.mul_(scales_N1)
        if bias_V is None
        else torch.addcmul(bias_V.detach(), output_NV, scales_N1, out=output_NV)
    )
    return output_NV.view(*input_NE.shape[:-1], -1)


def compiled_rows(rows: int) -> int:
    """Round `rows` up to the next number with at most three significant binary digits.

    oneDNN compiles a kernel for each distinct number of rows, which takes as long as the product itself. Without
    rounding, this number would change in most steps of a search, as finished sentences leave the batch.

    >>> [compiled_rows(rows) for rows in (1, 7, 8, 9, 17, 300)]
    [1, 7, 8, 10, 20, 320]
    """
    unit = 1 << max(0, rows.bit_length() - 3)
    return -(-rows // unit) * unit


def int8_product(values_NE: Tensor, matrix: Int8Matrix) -> Tensor:
    """Return the sums of (x - 128) w for activations x, computed exactly, then scaled for each output, in fp32."""
    zeros_V = torch.zeros_like(matrix.scales_V, dtype=torch.int32)
    output_NV: Tensor = torch.ops.onednn.qlinear_pointwise(
        *(values_NE, 1.0, ZERO, matrix.ordered, matrix.scales_V, zeros_V),
        *(None, 1.0, 0, torch.float32, "none", [], ""),
    )
    return output_NV


def sums_are_exact() -> bool:
    """Return True if this CPU sums int8 products exactly, in 32 bits.

    The result is False on an x86 CPU without VNNI, which sums pairs of products in 16 bits, so that large products
    overflow. It is also False if torch was built without oneDNN, which computes the products.
    """
    ones_NE = torch.full((33, 64), LARGEST, dtype=torch.int8)
    try:
        sums_NN = int8_product((ones_NE.to(torch.int16) + ZERO).to(torch.uint8), Int8Matrix.of(ones_NE, torch.ones(33)))
    except (AttributeError, RuntimeError):
        return False
    return bool((sums_NN == 64 * LARGEST * LARGEST).all())


def _scales(values_NE: Tensor) -> Tensor:
    """Return scales_N1: the quantisation scale of each row."""
    largest_N1 = torch.maximum(values_NE.amax(dim=1, keepdim=True), -values_NE.amin(dim=1, keepdim=True))
    return largest_N1.clamp_(min=torch.finfo(torch.float32).tiny).div_(LARGEST)


class Linear(nn.Linear):
    """torch's linear layer, extended to int8 weights."""

    int8_weights: Int8Matrix | None = None

    def quantise(self) -> None:
        """Switch the layer to int8 weights; for use on a CPU only."""
        self.int8_weights = quantised(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Apply `linear` with the layer's weights."""
        return linear(input, self.int8_weights or self.weight, self.bias)
