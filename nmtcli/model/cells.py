"""Recurrent cells, as single steps written out gate by gate and as one fused call over a whole sequence.

Decoding uses the single steps, and tests compare the fused kernels with them. `RecurrentLayer` runs torch's
sequence kernels (oneDNN on a CPU, cuDNN on a GPU) over the same parameters.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, cast, overload

import torch
from torch import Tensor, nn

from nmtcli.model.linear import Int8Matrix, Matrix, linear, quantised


class CellState(NamedTuple):
    """State that one recurrent layer carries from step to step.

    Attributes:
        hidden_NH: output of the previous step.
        cell_NH: cell state of an LSTM, which may be fp32 even if the weights are bf16; width 0 for GRU and RNN.
    """

    hidden_NH: Tensor
    cell_NH: Tensor


class Weights(NamedTuple):
    """Parameters of one cell; gates are stacked in torch's order: i f g o (LSTM), r z n (GRU)."""

    input_GE: Matrix
    recurrent_GH: Matrix
    input_bias_G: Tensor
    recurrent_bias_G: Tensor


Step = Callable[[Tensor, CellState, Weights], CellState]  # (input_NE, state, weights) -> the next state


class Int8Weights(Protocol):
    """Int8 parameters of one cell, with the step that uses them."""

    def step(self, input_NE: Tensor, state: CellState) -> CellState:
        """Run the cell for one step, without computing gradients."""


class JointInt8Weights(NamedTuple):
    """Int8 parameters of an LSTM whose input and hidden state are concatenated and multiplied in one product.

    Attributes:
        joint_GJ: W and U, concatenated along the input axis; J = E + H.
        bias_G: the sum of both biases.
    """

    joint_GJ: Int8Matrix
    bias_G: Tensor

    def step(self, input_NE: Tensor, state: CellState) -> CellState:
        """Take one step of `lstm_cell` with a single matrix product."""
        joint_NJ = torch.cat([input_NE, state.hidden_NH], dim=1)
        return _lstm_from_sums(linear(joint_NJ, self.joint_GJ, self.bias_G), state)[0]


class SeparateInt8Weights(NamedTuple):
    """Int8 parameters of a cell whose input and hidden state are multiplied in two separate products.

    Attributes:
        cell_step: one step of the cell, written out gate by gate.
        weights: the parameters; both matrices are int8, and the biases are floating point.
    """

    cell_step: Step
    weights: Weights

    def step(self, input_NE: Tensor, state: CellState) -> CellState:
        """Take the written-out step with the int8 matrices."""
        return self.cell_step(input_NE, state, self.weights)


class LSTMGates(NamedTuple):
    """Gate values of one LSTM step, each in (0, 1), and its candidate values, each in (-1, 1)."""

    input_NH: Tensor
    forget_NH: Tensor
    candidate_NH: Tensor
    output_NH: Tensor


class GRUGates(NamedTuple):
    """Gate values of one GRU step, each in (0, 1), and its candidate values, each in (-1, 1)."""

    reset_NH: Tensor
    update_NH: Tensor
    candidate_NH: Tensor


def lstm_cell(input_NE: Tensor, state: CellState, weights: Weights) -> tuple[CellState, LSTMGates]:
    """Take one step of an LSTM with a forget gate and without peephole connections.

        i = sigmoid(W_i x + U_i h + b_i)        input gate: how much of the candidate is written
        f = sigmoid(W_f x + U_f h + b_f)        forget gate: how much of the cell is kept
        o = sigmoid(W_o x + U_o h + b_o)        output gate: how much of the cell is output
        g = tanh(W_g x + U_g h + b_g)           candidate
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        input_NE: x.
        state: h and c.
        weights: W, U and their biases, whose sum is b; G = 4 H.
    Returns:
        the next state (h' and c') and the gates; values and gradients match torch's kernels up to rounding.
    Source:
        Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000.
    """
    return _lstm_from_sums(_affine(input_NE, state.hidden_NH, weights), state)


def _lstm_from_sums(sums_NG: Tensor, state: CellState) -> tuple[CellState, LSTMGates]:
    """Finish an LSTM step from `sums_NG`, the sums W x + U h + b to which sigmoid and tanh are applied."""
    sums_NG = sums_NG.to(state.cell_NH.dtype)
    i_NH, f_NH, g_NH, o_NH = sums_NG.chunk(4, dim=-1)
    gates = LSTMGates(i_NH.sigmoid(), f_NH.sigmoid(), g_NH.tanh(), o_NH.sigmoid())
    cell_NH = gates.forget_NH * state.cell_NH + gates.input_NH * gates.candidate_NH
    hidden_NH = gates.output_NH * cell_NH.tanh()
    return CellState(hidden_NH.to(state.hidden_NH.dtype), cell_NH), gates


def fused_lstm_cell(
    input_NE: Tensor, state: CellState, weights: Weights, from_hidden_NG: Tensor | None = None
) -> CellState:
    """Take one step of `lstm_cell` on a GPU, with a single kernel after the matrix products.

    Unlike `lstm_cell`, return no gates, and compute no gradient.

    Args:
        input_NE, state, weights: as in `lstm_cell`.
        from_hidden_NG: U h, if the caller has computed it; None: compute U h here.
    """
    if from_hidden_NG is None:
        from_hidden_NG = linear(state.hidden_NH, weights.recurrent_GH)
    full = state.cell_NH.dtype
    from_input_NG = linear(input_NE, weights.input_GE)
    biases = weights.input_bias_G.to(full), weights.recurrent_bias_G.to(full)
    hidden_NH, cell_NH, _ = torch.ops.aten._thnn_fused_lstm_cell(
        from_input_NG.to(full), from_hidden_NG.to(full), state.cell_NH, *biases
    )
    return CellState(hidden_NH.to(state.hidden_NH.dtype), cell_NH)


def gru_cell(input_NE: Tensor, state: CellState, weights: Weights) -> tuple[CellState, GRUGates]:
    """Take one step of a GRU that applies its reset gate after the recurrent product, as cuDNN does.

        r = sigmoid(W_r x + U_r h + b_r)        reset gate
        z = sigmoid(W_z x + U_z h + b_z)        update gate: how much of the old state is kept
        n = tanh(W_n x + b_n + r * (U_n h + c_n))
        h' = (1 - z) * n + z * h

    n is the candidate, and c_n its recurrent bias. The arguments and the result are those of `lstm_cell`, except that
    G = 3 H and the cell state has width 0.

    Source:
        Cho et al. 2014.
    """
    from_input_NG = linear(input_NE, weights.input_GE, weights.input_bias_G)
    from_hidden_NG = linear(state.hidden_NH, weights.recurrent_GH, weights.recurrent_bias_G)
    input_r_NH, input_z_NH, input_n_NH = from_input_NG.chunk(3, dim=-1)
    hidden_r_NH, hidden_z_NH, hidden_n_NH = from_hidden_NG.chunk(3, dim=-1)
    reset_NH = (input_r_NH + hidden_r_NH).sigmoid()
    gates = GRUGates(
        reset_NH=reset_NH,
        update_NH=(input_z_NH + hidden_z_NH).sigmoid(),
        candidate_NH=(input_n_NH + reset_NH * hidden_n_NH).tanh(),
    )
    hidden_NH = (1 - gates.update_NH) * gates.candidate_NH + gates.update_NH * state.hidden_NH
    return CellState(hidden_NH.to(state.hidden_NH.dtype), state.cell_NH), gates


def rnn_cell(input_NE: Tensor, state: CellState, weights: Weights) -> CellState:
    """Take one step of a plain RNN: h' = tanh(W x + U h + b), with G = H.

    Source:
        Elman 1990.
    """
    hidden_NH = _affine(input_NE, state.hidden_NH, weights).tanh()
    return CellState(hidden_NH.to(state.hidden_NH.dtype), state.cell_NH)


def _affine(input_NE: Tensor, hidden_NH: Tensor, weights: Weights) -> Tensor:
    return linear(input_NE, weights.input_GE, weights.input_bias_G) + linear(
        hidden_NH, weights.recurrent_GH, weights.recurrent_bias_G
    )


def _lstm_step(input_NE: Tensor, state: CellState, weights: Weights) -> CellState:
    return lstm_cell(input_NE, state, weights)[0]


def _gru_step(input_NE: Tensor, state: CellState, weights: Weights) -> CellState:
    return gru_cell(input_NE, state, weights)[0]


def _start_forget_gate(input_bias_G: Tensor, forget_bias: float) -> None:
    hidden = len(input_bias_G) // 4
    input_bias_G[hidden : 2 * hidden] = forget_bias


def _quantise_jointly(weights: Weights) -> JointInt8Weights:
    """Quantise W and U as one matrix, so that the input and the smaller hidden state share a scale, at little loss."""
    assert isinstance(weights.input_GE, Tensor)
    assert isinstance(weights.recurrent_GH, Tensor)
    joint_GJ = quantised(torch.cat([weights.input_GE.detach(), weights.recurrent_GH.detach()], dim=1))
    return JointInt8Weights(joint_GJ, weights.input_bias_G.detach() + weights.recurrent_bias_G.detach())


class FusedStep(Protocol):
    """Function that takes one step of a cell on a GPU, without gradient, such as `fused_lstm_cell`."""

    def __call__(
        self, input_NE: Tensor, state: CellState, weights: Weights, from_hidden_NG: Tensor | None = None
    ) -> CellState:
        """Take one step; `from_hidden_NG` is U h if the caller has computed it, else None."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Kind of recurrent cell: an entry of `CELLS`.

    Attributes:
        gates: number of gates, each a block of H rows in the weight matrices.
        carries_cell: True if the state includes a cell state in addition to the hidden state.
        kernel: torch's module for whole sequences.
        step: one step of the cell, written out gate by gate.
        fused_step: step used on a GPU when no gradient is needed; None: `step` is used there too.
        start: function that takes the input biases and the option `forget_bias`, and overwrites in place some of the
            biases set by init.py; None: those biases are kept.
        quantise: function that converts the weights to int8; None: each matrix is converted separately.
        int8_encodes_faster: True if an encoder of these cells is faster in int8, stepping one position at a time, than
            with a single fused call in floating point.
    """

    gates: int
    carries_cell: bool
    kernel: type[nn.LSTM | nn.GRU | nn.RNN]
    step: Step
    fused_step: FusedStep | None = None
    start: Callable[[Tensor, float], None] | None = None
    quantise: Callable[[Weights], Int8Weights] | None = None
    int8_encodes_faster: bool = True


CELLS: dict[str, Cell] = {
    "lstm": Cell(
        gates=4,
        carries_cell=True,
        kernel=nn.LSTM,
        step=_lstm_step,
        fused_step=fused_lstm_cell,
        start=_start_forget_gate,
        quantise=_quantise_jointly,
    ),
    "gru": Cell(gates=3, carries_cell=False, kernel=nn.GRU, step=_gru_step),
    "rnn": Cell(gates=1, carries_cell=False, kernel=nn.RNN, step=rnn_cell, int8_encodes_faster=False),
}


class RecurrentLayer(nn.Module):
    """One recurrent layer in one direction; `forward` runs over a whole sequence, `step` takes a single step.

    Args:
        cell: a name in `CELLS`.
        input_size: E, width of the input.
        hidden_size: H, width of the output.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.kernel = self.cell.kernel(input_size, hidden_size, batch_first=True)
        self.int8_weights: Int8Weights | None = None

    def forward(self, input_BTE: Tensor, state: CellState | None = None) -> Tensor:
        """Run over all positions at once.

        Args:
            input_BTE: the sequences; padding on the right does not affect the real positions.
            state: the initial state; None: zeros.
        Returns:
            hidden_BTH, the outputs; equal to those of T calls of `step` up to rounding.
        """
        if self.int8_weights is not None:
            if state is None:
                state = zero_state(input_BTE.new_empty(len(input_BTE), self.kernel.hidden_size), self.cell)
            outputs = []
            for input_BE in input_BTE.unbind(dim=1):
                state = self.step(input_BE, state)
                outputs.append(state.hidden_NH)
            return torch.stack(outputs, dim=1)
        if input_BTE.is_cuda and torch.is_autocast_enabled("cuda"):
            return self._forward_flat(input_BTE, state, torch.get_autocast_dtype("cuda"))
        if input_BTE.is_cuda and input_BTE.dtype == torch.bfloat16:
            return self._forward_flat(input_BTE, state, torch.bfloat16)
        output_BTH, _ = self.kernel(input_BTE, self._kernel_state(input_BTE, state))
        assert isinstance(output_BTH, Tensor)
        return output_BTH

    def _kernel_state(self, input_BTE: Tensor, state: CellState | None) -> Tensor | tuple[Tensor, Tensor] | None:
        if state is None:
            return None
        hidden_1BH, cell_1BH = (values.to(input_BTE.dtype).contiguous().unsqueeze(0) for values in state)
        return (hidden_1BH, cell_1BH) if self.cell.carries_cell else hidden_1BH

    def _forward_flat(self, input_BTE: Tensor, state: CellState | None, dtype: torch.dtype) -> Tensor:
        """Run `forward` under autocast or in bf16, working around limitations of torch's module.

        Under autocast, torch runs cuDNN in fp16, whatever type was requested. In bf16, torch leaves the weights in
        separate tensors; this method stores them in one flat tensor, in cuDNN's order.
        """
        with torch.autocast("cuda", enabled=False):
            named = dict(self.kernel.named_parameters())
            flat = torch.cat([parameter.flatten() for parameter in named.values()]).to(dtype)
            parts = torch.split(flat, [parameter.numel() for parameter in named.values()])
            weights = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
            input_BTE = input_BTE.to(dtype)
            arguments = (input_BTE, self._kernel_state(input_BTE, state))
            output_BTH, _ = torch.func.functional_call(self.kernel, weights, arguments)
        assert isinstance(output_BTH, Tensor)
        return output_BTH

    def step(self, input_NE: Tensor, state: CellState, from_hidden_NG: Tensor | None = None) -> CellState:
        """Take one step; `from_hidden_NG` is U h if the caller has computed it, else None."""
        if self.int8_weights is not None:
            return self.int8_weights.step(input_NE, state)
        fused_step = self.cell.fused_step
        if fused_step is not None and input_NE.is_cuda and not torch.is_grad_enabled():
            return fused_step(input_NE, state, self.weights(), from_hidden_NG)
        return self.cell.step(input_NE, state, self.weights())

    def quantise(self) -> None:
        """Switch the layer to int8 weights; for use on a CPU only."""
        weights = self.weights()
        if self.cell.quantise is not None:
            self.int8_weights = self.cell.quantise(weights)
        else:
            input_GE, recurrent_GH, *_ = self.kernel.all_weights[0]
            weights = weights._replace(input_GE=quantised(input_GE), recurrent_GH=quantised(recurrent_GH))
            self.int8_weights = SeparateInt8Weights(self.cell.step, weights)

    def weights(self) -> Weights:
        """Return the parameters in the form that the written-out steps take."""
        (parameters,) = self.kernel.all_weights
        return Weights(*parameters)


class RecurrentLayers(nn.ModuleList):
    """Stack of recurrent layers: torch's `ModuleList` with type annotations."""

    def __init__(self, layers: Iterable[RecurrentLayer]) -> None:
        super().__init__(layers)

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    @overload
    def __getitem__(self, idx: int) -> RecurrentLayer: ...

    def __getitem__(self, idx: int | slice) -> RecurrentLayer | Self:
        """Return one layer, or a slice of the stack."""
        return cast("RecurrentLayer | Self", super().__getitem__(idx))

    def __iter__(self) -> Iterator[RecurrentLayer]:
        return cast("Iterator[RecurrentLayer]", super().__iter__())


def zero_state(like_NH: Tensor, cell: Cell) -> CellState:
    """Return a state of zeros with the shape, type and device of the hidden state `like_NH`."""
    width = like_NH.shape[-1] if cell.carries_cell else 0
    return CellState(torch.zeros_like(like_NH), like_NH.new_zeros(*like_NH.shape[:-1], width))
