"""The cells written gate by gate equal torch's kernels: in float64, and on oneDNN's path in fp32 and bf16."""

import dataclasses

import pytest
import torch

from nmtcli.config import ModelConfig
from nmtcli.knobs import knob_of
from nmtcli.model.cells import CELLS, CellState, RecurrentLayer, gru_cell, lstm_cell, zero_state
from nmtcli.model.linear import linear, quantised

B, T, E, H = 3, 7, 5, 4


def run_stepwise(layer: RecurrentLayer, input_BTE: torch.Tensor, state: CellState) -> torch.Tensor:
    outputs = []
    for t in range(input_BTE.shape[1]):
        state = layer.step(input_BTE[:, t], state)
        outputs.append(state.hidden_NH)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("starts_at_zero", [True, False])
def test_written_cell_equals_the_sequence_kernel_in_value_and_gradient(cell: str, starts_at_zero: bool) -> None:
    torch.manual_seed(1)
    layer = RecurrentLayer(cell, E, H).double()
    input_BTE = torch.randn(B, T, E, dtype=torch.float64, requires_grad=True)
    hidden_BH = torch.randn(B, H, dtype=torch.float64)
    state = zero_state(hidden_BH, CELLS[cell])
    if not starts_at_zero:
        state = CellState(hidden_BH, torch.randn_like(state.cell_NH))
    fused_BTH = layer(input_BTE, state)
    written_BTH = run_stepwise(layer, input_BTE, state)
    torch.testing.assert_close(written_BTH, fused_BTH, atol=1e-10, rtol=0)
    inputs = [input_BTE, *layer.parameters()]
    weights_BTH = torch.randn_like(fused_BTH)
    fused = torch.autograd.grad((fused_BTH * weights_BTH).sum(), inputs)
    written = torch.autograd.grad((written_BTH * weights_BTH).sum(), inputs)
    for one, other in zip(written, fused, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_written_lstm_equals_the_fused_one_where_a_cpu_takes_another_path(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(2)
    layer = RecurrentLayer("lstm", 32, 64)
    input_BTE = torch.randn(4, 9, 32)
    state = CellState(torch.randn(4, 64) / 4, torch.randn(4, 64) / 4)
    exact_BTH = run_stepwise(layer.double(), input_BTE.double(), CellState(*(part.double() for part in state)))
    with torch.no_grad():
        fused_BTH = layer.to(dtype)(input_BTE.to(dtype), state)
        written_BTH = run_stepwise(layer, input_BTE.to(dtype), CellState(state.hidden_NH.to(dtype), state.cell_NH))
    assert fused_BTH.dtype == dtype
    torch.testing.assert_close(fused_BTH.double(), exact_BTH, atol=tolerance, rtol=0)
    torch.testing.assert_close(written_BTH.double(), exact_BTH, atol=tolerance, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_written_cell_equals_the_fused_one_in_fp32_while_it_trains(cell: str) -> None:
    """With gradients a CPU takes oneDNN's training kernel for the LSTM, which float64 never does."""
    torch.manual_seed(3)
    layer = RecurrentLayer(cell, 32, 64)
    input_BTE = torch.randn(4, 9, 32, requires_grad=True)
    hidden_BH = torch.randn(4, 64) / 4
    state = CellState(hidden_BH, zero_state(hidden_BH, CELLS[cell]).cell_NH + 0.25)
    fused_BTH = layer(input_BTE, state)
    written_BTH = run_stepwise(layer, input_BTE, state)
    torch.testing.assert_close(written_BTH, fused_BTH, atol=1e-5, rtol=0)
    inputs = [input_BTE, *layer.parameters()]
    weights_BTH = torch.randn_like(fused_BTH) / fused_BTH.numel() ** 0.5
    fused = torch.autograd.grad((fused_BTH * weights_BTH).sum(), inputs)
    written = torch.autograd.grad((written_BTH * weights_BTH).sum(), inputs)
    for one, other in zip(written, fused, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_lstm_gates_are_the_ones_of_the_equations() -> None:
    """A cell of width 1 by hand: with all weights 0 and biases (i f g o) only the biases count."""
    layer = RecurrentLayer("lstm", 1, 1).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weights().input_bias_G.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
    one = torch.ones(1, 1, dtype=torch.float64)
    state, gates = lstm_cell(one, CellState(one, 3 * one), layer.weights())
    i, f, o = (torch.tensor(x, dtype=torch.float64).sigmoid() for x in (1.0, 2.0, -1.0))
    g = torch.tensor(0.5, dtype=torch.float64).tanh()
    assert gates.forget_NH.item() == pytest.approx(float(f))
    assert state.cell_NH.item() == pytest.approx(float(f * 3 + i * g))
    assert state.hidden_NH.item() == pytest.approx(float(o * (f * 3 + i * g).tanh()))


def test_gru_gates_are_the_ones_of_the_equations() -> None:
    """A cell of width 1 by hand: with all weights 0 and biases (r z n) only the biases and the old state count."""
    layer = RecurrentLayer("gru", 1, 1).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weights().input_bias_G.copy_(torch.tensor([1.0, 2.0, 0.5]))
        layer.weights().recurrent_bias_G[2] = -2.0
    one = torch.ones(1, 1, dtype=torch.float64)
    state, gates = gru_cell(one, CellState(3 * one, one[:, :0]), layer.weights())
    r, z = (torch.tensor(x, dtype=torch.float64).sigmoid() for x in (1.0, 2.0))
    n = (0.5 + r * -2.0).tanh()
    assert [gate.item() for gate in gates] == pytest.approx([r.item(), z.item(), n.item()])
    assert state.hidden_NH.item() == pytest.approx(((1 - z) * n + z * 3).item())


def test_bf16_step_keeps_the_cell_state_in_fp32() -> None:
    layer = RecurrentLayer("lstm", E, H).bfloat16()
    after = layer.step(torch.randn(B, E).bfloat16(), CellState(torch.zeros(B, H).bfloat16(), torch.zeros(B, H)))
    assert (after.hidden_NH.dtype, after.cell_NH.dtype) == (torch.bfloat16, torch.float32)


def test_an_int8_lstm_steps_by_one_product_of_input_and_state_side_by_side() -> None:
    torch.manual_seed(5)
    layer = RecurrentLayer("lstm", 16, 8)
    input_NE, state = torch.randn(B, 16), CellState(torch.randn(B, 8).tanh(), torch.randn(B, 8))
    parameters = dict(layer.kernel.named_parameters())
    matrix = quantised(torch.cat([parameters["weight_ih_l0"], parameters["weight_hh_l0"]], dim=1))
    sums_NG = linear(torch.cat([input_NE, state.hidden_NH], dim=1), matrix)
    i_NH, f_NH, g_NH, o_NH = (sums_NG + parameters["bias_ih_l0"] + parameters["bias_hh_l0"]).chunk(4, dim=1)
    cell_NH = f_NH.sigmoid() * state.cell_NH + i_NH.sigmoid() * g_NH.tanh()
    layer.quantise()
    after = layer.step(input_NE, state)
    torch.testing.assert_close(after.cell_NH, cell_NH, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.hidden_NH, o_NH.sigmoid() * cell_NH.tanh(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_an_int8_layer_over_a_sequence_equals_its_steps(cell: str) -> None:
    torch.manual_seed(6)
    layer = RecurrentLayer(cell, 16, 8)
    layer.quantise()
    input_BTE = torch.randn(B, T, 16)
    written_BTH = run_stepwise(layer, input_BTE, zero_state(torch.empty(B, 8), CELLS[cell]))
    assert torch.equal(layer(input_BTE), written_BTH)


def test_the_option_offers_each_cell_of_the_table() -> None:
    (field,) = (field for field in dataclasses.fields(ModelConfig) if field.name == "cell")
    assert knob_of(field).choices == tuple(CELLS)
