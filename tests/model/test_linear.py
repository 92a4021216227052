"""Products in whole numbers are what their definition says, near the real ones, and the same in any batch."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from nmtcli.config import ModelConfig
from nmtcli.model.attention import AdditiveAttention
from nmtcli.model.cells import CELLS
from nmtcli.model.linear import Int8Matrix, Linear, linear, quantised, sums_are_exact
from nmtcli.model.seq2seq import Seq2Seq


def by_definition(input_NE: Tensor, weight_VE: Tensor, bias_V: Tensor) -> Tensor:
    """One output at a time, in Python's numbers."""
    output_NV = torch.zeros(len(input_NE), len(weight_VE), dtype=torch.float64)
    for n, row in enumerate(input_NE.tolist()):
        t_n = max(map(abs, row)) / 127
        for v, weights in enumerate(weight_VE.tolist()):
            s_v = max(map(abs, weights)) / 127
            total = sum(round(x / t_n) * round(w / s_v) for x, w in zip(row, weights, strict=True)) if t_n else 0
            output_NV[n, v] = total * s_v * t_n + bias_V[v]
    return output_NV


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 2), (5, 16, 7), (9, 33, 40)])
def test_an_int8_product_is_the_sum_of_rounded_products(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(rows)
    input_NE, weight_VE, bias_V = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    input_NE[0] = 0.0
    expected_NV = by_definition(input_NE, weight_VE, bias_V)
    found_NV = linear(input_NE, quantised(weight_VE), bias_V)
    # a value in the middle between two whole numbers may go to either
    torch.testing.assert_close(found_NV.double(), expected_NV, atol=0.06, rtol=0)
    assert (found_NV - expected_NV).abs().median() < 1e-5
    torch.testing.assert_close(linear(input_NE, quantised(weight_VE)), found_NV - bias_V)


def test_an_int8_product_is_near_the_real_one_and_keeps_axes() -> None:
    torch.manual_seed(1)
    input_BKE, weight_VE = torch.randn(3, 4, 512).tanh(), torch.randn(300, 512)
    real_BKV = input_BKE @ weight_VE.T
    found_BKV = linear(input_BKE, quantised(weight_VE))
    assert found_BKV.shape == real_BKV.shape
    assert (found_BKV - real_BKV).norm() < 0.01 * real_BKV.norm()


def test_a_row_is_the_same_alone_and_among_many() -> None:
    torch.manual_seed(2)
    rows = 1051
    input_NE, matrix = torch.randn(rows, 64), quantised(torch.randn(2000, 64))
    together_NV = linear(input_NE, matrix)
    for n in (0, 1, rows // 2, rows - 1):
        assert torch.equal(linear(input_NE[n : n + 1], matrix)[0], together_NV[n])


def test_products_of_any_number_of_rows_are_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def product(values_NE: Tensor, matrix: Int8Matrix) -> Tensor:
        found.append(len(values_NE))
        return torch.zeros(len(values_NE), len(matrix.values_VE))

    monkeypatch.setattr("nmtcli.model.linear.int8_product", product)
    matrix = quantised(torch.randn(2, 4))
    for rows in range(1, 513):
        assert linear(torch.randn(rows, 4), matrix).shape == (rows, 2)
        assert rows <= found[-1] <= max(rows + 1, 1.25 * rows)
    assert len(set(found)) <= 4 * 9


def test_a_layer_is_torchs_until_it_is_quantised() -> None:
    torch.manual_seed(3)
    layer, theirs = Linear(8, 5), torch.nn.Linear(8, 5)
    theirs.load_state_dict(layer.state_dict())
    input_NE = torch.randn(4, 8)
    assert torch.equal(layer(input_NE), theirs(input_NE))
    layer.quantise()
    assert torch.equal(layer(input_NE), linear(input_NE, quantised(layer.weight), layer.bias))
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("arch", "attention"), [("gnmt", "general"), ("luong", "dot"), ("bahdanau", "additive"), ("cho", "none")]
)
def test_a_quantised_model_steps_nearly_as_before(cell: str, arch: str, attention: str) -> None:
    torch.manual_seed(4)
    config = ModelConfig(
        arch=arch, attention=attention, cell=cell, hidden_size=64, embedding_size=64, input_feeding=arch == "luong"
    )
    model = Seq2Seq(config, source_size=50, target_size=50, joint=True).eval()
    source_BS = torch.randint(4, 50, (3, 7))
    with torch.no_grad():
        memory, state = model.encode(source_BS, torch.ones_like(source_BS, dtype=torch.bool))
        tokens_BK = torch.randint(4, 50, (3, 1))
        before_BKV, _, state_before = model.step(memory, state, tokens_BK)
        model.quantise()
        after_BKV, _, state_after = model.step(memory, state, tokens_BK)
    decoder, scores = model.decoder, model.decoder.attention
    products = [model, *decoder.layers, decoder.readout]
    products += [scores.project_query] if isinstance(scores, AdditiveAttention) else []
    assert all(one.int8_weights is not None for one in products)
    assert not torch.equal(after_BKV, before_BKV)
    assert (after_BKV - before_BKV).norm() < 0.05 * before_BKV.norm()
    assert not torch.equal(state_after.hidden_LNH, state_before.hidden_LNH)
    torch.testing.assert_close(state_after.hidden_LNH, state_before.hidden_LNH, atol=0.02, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_a_quantised_encoder_reads_nearly_as_before_and_a_sentence_alone_as_among_others(cell: str) -> None:
    torch.manual_seed(5)
    config = ModelConfig(cell=cell, hidden_size=64, embedding_size=64)
    model = Seq2Seq(config, source_size=50, target_size=50, joint=True).eval()
    lengths_B = torch.tensor([7, 4, 6])
    mask_BS = torch.arange(7) < lengths_B[:, None]
    source_BS = torch.randint(4, 50, (3, 7)).masked_fill(~mask_BS, 0)
    with torch.no_grad():
        before_BSH = model.encode(source_BS, mask_BS)[0].values_BSH
        model.quantise()
        after_BSH = model.encode(source_BS, mask_BS)[0].values_BSH
        alone_BSH = model.encode(source_BS[1:2, :4], mask_BS[1:2, :4])[0].values_BSH
    assert torch.equal(after_BSH[mask_BS], before_BSH[mask_BS]) == (cell == "rnn")
    torch.testing.assert_close(after_BSH[mask_BS], before_BSH[mask_BS], atol=0.02, rtol=0)
    torch.testing.assert_close(alone_BSH[0], after_BSH[1, :4], atol=1e-6, rtol=0)


def test_a_torch_without_the_product_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qlinear_prepack'")

    monkeypatch.setattr("nmtcli.model.linear.Int8Matrix.of", missing)
    assert not sums_are_exact()


@pytest.mark.parametrize(("isa", "exact"), [("DEFAULT", sums_are_exact()), ("AVX2", False)])
def test_a_cpu_that_does_not_sum_exactly_is_found_out(isa: str, exact: bool) -> None:
    script = "from nmtcli.model.linear import sums_are_exact; print(sums_are_exact())"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    if isa == "AVX2" and done.stdout.strip() == "True":
        pytest.skip("this build of torch sums exactly without VNNI too")
    assert done.stdout.strip() == str(exact)
