"""Products with a matrix of weights: in floating point, or, for decoding on a CPU, in whole numbers of 8 bits.

A weight w of output v becomes round(w / s_v), an activation x of row n round(x / t_n), with scales such that the
largest of a row of either becomes 127. Their products are summed exactly, in 32 bits, so that a row does not depend on
what else is in its batch; the sum times s_v t_n is the output.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 127
CHUNK_ELEMENTS = 1 << 20  # sums in 32 bits at a time: 4 MiB; for fewer, torch orders the weights anew too often


class Int8Matrix(NamedTuple):
    """A matrix in whole numbers.

    Attributes:
        values_EV: in -127 .. 127, transposed.
        scales_V: one for each output.
    """

    values_EV: Tensor
    scales_V: Tensor

    def rows(self, outputs_U: Tensor) -> "Int8Matrix":
        """Of these outputs."""
        return Int8Matrix(self.values_EV.T[outputs_U].T, self.scales_V[outputs_U])


Matrix = Tensor | Int8Matrix  # V outputs, E inputs


def quantised(matrix_VE: Tensor) -> Int8Matrix:
    """The nearest matrix in whole numbers."""
    values_VE, scales_V1 = _quantised_rows(matrix_VE.detach().float())
    return Int8Matrix(values_VE.T, scales_V1.squeeze(1))


def linear(input_NE: Tensor, matrix: Matrix, bias_V: Tensor | None = None) -> Tensor:
    """`input @ matrix.T + bias`, for any number of axes before the last.

    Returns:
        output_NV; in fp32 and without gradient where the matrix is in whole numbers.
    """
    if isinstance(matrix, Tensor):
        return F.linear(input_NE, matrix, bias_V)
    values_NE, scales_N1 = _quantised_rows(input_NE.detach().flatten(0, -2).float())
    outputs = matrix.values_EV.shape[1]
    output_NV = torch.empty(len(values_NE), outputs)
    rows = max(1, CHUNK_ELEMENTS // outputs)
    for start in range(0, len(values_NE), rows):
        chunk = slice(start, start + rows)
        sums_NV = torch._int_mm(values_NE[chunk], matrix.values_EV).float().mul_(scales_N1[chunk])
        if bias_V is None:
            torch.mul(sums_NV, matrix.scales_V, out=output_NV[chunk])
        else:
            torch.addcmul(bias_V.detach(), sums_NV, matrix.scales_V, out=output_NV[chunk])
    return output_NV.view(*input_NE.shape[:-1], outputs)


def sums_are_exact() -> bool:
    """Whether this CPU sums products in 32 bits: without VNNI an x86 has 16 for every two, which large ones exceed."""
    ones_NE = torch.full((33, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(ones_NE, ones_NE.T) == 64 * LARGEST * LARGEST).all())


def _quantised_rows(values_NE: Tensor) -> tuple[Tensor, Tensor]:
    scales_N1 = values_NE.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(LARGEST)
    return (values_NE / scales_N1).round_().to(torch.int8), scales_N1


class Linear(nn.Linear):
    """torch's, which can multiply in whole numbers."""

    whole_numbers: Int8Matrix | None = None

    def quantise(self) -> None:
        """From now on in whole numbers."""
        self.whole_numbers = quantised(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """See `linear`."""
        return linear(input, self.whole_numbers or self.weight, self.bias)
