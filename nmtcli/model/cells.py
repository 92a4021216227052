"""Recurrent cells: written gate by gate, as the textbook has them, and as one fused call over a known sequence.

The written cells take one step. They are the oracle of the tests, and what decoding steps with. `RecurrentLayer` runs
torch's sequence kernels (oneDNN on a CPU, cuDNN on a GPU) over the same parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nmtcli.model.linear import Matrix, linear, quantised

GATES = {"lstm": 4, "gru": 3, "rnn": 1}  # blocks of H rows in the weight matrices


class CellState(NamedTuple):
    """What one recurrent layer carries from step to step.

    Attributes:
        hidden_NH: the output of the last step.
        cell_NH: the LSTM's cell state, which may be in fp32 where the weights are bf16; of width 0 for GRU and RNN.
    """

    hidden_NH: Tensor
    cell_NH: Tensor


class Weights(NamedTuple):
    """The parameters of one cell, gates stacked as torch stacks them: i f g o (LSTM), r z n (GRU).

    Where there is no `recurrent_GH`, `input_GE` is for input and state side by side.
    """

    input_GE: Matrix
    recurrent_GH: Matrix | None
    input_bias_G: Tensor
    recurrent_bias_G: Tensor


class LSTMGates(NamedTuple):
    """The gates of one LSTM step, each in (0, 1), and the candidate in (-1, 1)."""

    input_NH: Tensor
    forget_NH: Tensor
    candidate_NH: Tensor
    output_NH: Tensor


class GRUGates(NamedTuple):
    """The gates of one GRU step, each in (0, 1), and the candidate in (-1, 1)."""

    reset_NH: Tensor
    update_NH: Tensor
    candidate_NH: Tensor


def lstm_cell(input_NE: Tensor, state: CellState, weights: Weights) -> tuple[CellState, LSTMGates]:
    """One step of the LSTM with forget gate, without peepholes.

        i = sigmoid(W_i x + U_i h + b_i)        input gate: how much of the candidate is written
        f = sigmoid(W_f x + U_f h + b_f)        forget gate: how much of the cell is kept
        o = sigmoid(W_o x + U_o h + b_o)        output gate: how much of the cell is shown
        g = tanh(W_g x + U_g h + b_g)           candidate
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        input_NE: x.
        state: h and c.
        weights: W, U and their two biases, G = 4 H.
    Returns:
        h' and c', and the gates. Equal to torch's kernels to rounding, in value and gradient.
    Source:
        Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000.
    """
    sums_NG = _affine(input_NE, state.hidden_NH, weights).to(state.cell_NH.dtype)
    i_NH, f_NH, g_NH, o_NH = sums_NG.chunk(4, dim=-1)
    gates = LSTMGates(i_NH.sigmoid(), f_NH.sigmoid(), g_NH.tanh(), o_NH.sigmoid())
    cell_NH = gates.forget_NH * state.cell_NH + gates.input_NH * gates.candidate_NH
    hidden_NH = gates.output_NH * cell_NH.tanh()
    return CellState(hidden_NH.to(state.hidden_NH.dtype), cell_NH), gates


def fused_lstm_cell(
    input_NE: Tensor, state: CellState, weights: Weights, from_hidden_NG: Tensor | None = None
) -> CellState:
    """`lstm_cell` on a GPU, all that follows the products in one kernel; no gates are kept, no gradient follows.

    Args:
        input_NE, state, weights: as in `lstm_cell`.
        from_hidden_NG: U h, where it is known already.
    """
    assert weights.recurrent_GH is not None
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
    """One step of the GRU, with the reset gate after the recurrent product, as cuDNN has it.

        r = sigmoid(W_r x + U_r h + b_r)        reset gate
        z = sigmoid(W_z x + U_z h + b_z)        update gate: how much of the old state is kept
        n = tanh(W_n x + b_n + r * (U_n h + c_n))
        h' = (1 - z) * n + z * h

    Args and Returns as `lstm_cell`, G = 3 H; c is of width 0.
    Source:
        Cho et al. 2014.
    """
    assert weights.recurrent_GH is not None
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
    """One step of the plain RNN: h' = tanh(W x + U h + b). G = H.

    Source:
        Elman 1990.
    """
    hidden_NH = _affine(input_NE, state.hidden_NH, weights).tanh()
    return CellState(hidden_NH.to(state.hidden_NH.dtype), state.cell_NH)


def _affine(input_NE: Tensor, hidden_NH: Tensor, weights: Weights) -> Tensor:
    if weights.recurrent_GH is None:
        return linear(torch.cat([input_NE, hidden_NH], dim=1), weights.input_GE, weights.input_bias_G)
    return linear(input_NE, weights.input_GE, weights.input_bias_G) + linear(
        hidden_NH, weights.recurrent_GH, weights.recurrent_bias_G
    )


class RecurrentLayer(nn.Module):
    """One recurrent layer in one direction, with a fused call over time and a written step.

    Args:
        cell: lstm, gru or rnn.
        input_size: E.
        hidden_size: H.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = cell
        kernel = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.kernel = kernel(input_size, hidden_size, batch_first=True)
        self.whole_numbers: Weights | None = None

    def forward(self, input_BTE: Tensor, state: CellState | None = None) -> Tensor:
        """All positions at once.

        Args:
            input_BTE: the sequence; what stands in padding on the right touches no position before it.
            state: where it starts; zeros where absent.
        Returns:
            hidden_BTH, equal to T calls of `step` to rounding.
        """
        if self.whole_numbers is not None:
            state = state or zero_state(input_BTE.new_empty(len(input_BTE), self.kernel.hidden_size), self.cell)
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
        return (hidden_1BH, cell_1BH) if self.cell == "lstm" else hidden_1BH

    def _forward_flat(self, input_BTE: Tensor, state: CellState | None, dtype: torch.dtype) -> Tensor:
        """`forward` in a precision that torch's module does not know how to bring to cuDNN.

        An autocast context has cuDNN run in fp16, whatever it was told. And in bf16 the weights are not kept as parts
        of one tensor, in cuDNN's order, as they are here.
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
        """One position, gate by gate; see `fused_lstm_cell` for the last argument."""
        weights = self.whole_numbers or self.weights()
        if self.cell == "lstm" and input_NE.is_cuda and not torch.is_grad_enabled():
            return fused_lstm_cell(input_NE, state, weights, from_hidden_NG)
        if self.cell == "rnn":
            return rnn_cell(input_NE, state, weights)
        return (lstm_cell if self.cell == "lstm" else gru_cell)(input_NE, state, weights)[0]

    def quantise(self) -> None:
        """From now on in whole numbers.

        In an LSTM one product takes input and state together: the state, small as it is, loses little beside the input.
        """
        weights = self.weights()
        matrices = self.kernel.weight_ih_l0.detach(), self.kernel.weight_hh_l0.detach()
        if self.cell == "lstm":
            bias_G = weights.input_bias_G.detach() + weights.recurrent_bias_G.detach()
            joint = quantised(torch.cat(matrices, dim=1))
            self.whole_numbers = Weights(joint, None, bias_G, torch.zeros_like(bias_G))
        else:
            input_GE, recurrent_GH = (quantised(matrix) for matrix in matrices)
            self.whole_numbers = weights._replace(input_GE=input_GE, recurrent_GH=recurrent_GH)

    def weights(self) -> Weights:
        """The parameters, as the written cells take them."""
        kernel = self.kernel
        return Weights(kernel.weight_ih_l0, kernel.weight_hh_l0, kernel.bias_ih_l0, kernel.bias_hh_l0)


def zero_state(like_NH: Tensor, cell: str) -> CellState:
    """A state of zeros with the shape, type and device of a hidden state."""
    width = like_NH.shape[-1] if cell == "lstm" else 0
    return CellState(torch.zeros_like(like_NH), like_NH.new_zeros(*like_NH.shape[:-1], width))
