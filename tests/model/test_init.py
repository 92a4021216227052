"""Parameters start as the option says."""

from typing import Any

import pytest
import torch
from torch import nn

from nmtcli.config import ModelConfig
from nmtcli.model.cells import CELLS, RecurrentLayer
from nmtcli.model.init import initialise, start_from_vectors
from nmtcli.model.seq2seq import Seq2Seq


def start(**options: Any) -> Seq2Seq:
    torch.manual_seed(6)
    config = ModelConfig(**{"hidden_size": 32, "embedding_size": 24, **options})
    return Seq2Seq(config, source_size=50, target_size=50, joint=True)


def matrices(model: Seq2Seq) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters() if parameter.dim() > 1])


def test_uniform_fills_the_interval_and_stays_in_it() -> None:
    values = matrices(start(init="uniform", init_scale=0.08))
    assert values.abs().max() <= 0.08
    assert float(values.std()) == pytest.approx(0.08 / 3**0.5, rel=0.02)


def test_truncated_normal_is_cut_at_two_deviations() -> None:
    values = matrices(start(init="truncated-normal", init_scale=0.05))
    assert 0.0999 < values.abs().max() <= 0.1
    assert float(values.std()) == pytest.approx(0.05 * 0.8796, rel=0.02)  # deviation of a normal cut at two


def test_normal_is_not_cut() -> None:
    values = matrices(start(init="normal", init_scale=0.05))
    assert values.abs().max() > 0.15
    assert float(values.std()) == pytest.approx(0.05, rel=0.02)


def test_orthogonal_makes_each_recurrent_gate_a_rotation() -> None:
    for layer in start(init="orthogonal").modules():
        if isinstance(layer, RecurrentLayer):
            matrix_GH = layer.weights().recurrent_GH
            assert isinstance(matrix_GH, torch.Tensor)
            for gate in matrix_GH.chunk(4):
                torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), atol=1e-5, rtol=0)


def test_xavier_bounds_each_gate_by_its_own_fans() -> None:
    layer = start(init="xavier").decoder.layers[0]
    matrix_GE = layer.weights().input_GE
    assert isinstance(matrix_GE, torch.Tensor)
    gate = matrix_GE[:32]
    bound = (6 / (32 + 24)) ** 0.5
    assert 0.95 * bound < gate.abs().max() <= bound


@pytest.mark.parametrize("init", ["xavier", "orthogonal"])
def test_what_the_layers_read_starts_with_variance_1(init: str) -> None:
    model = start(init=init, dropout=0.0)
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.encode(torch.arange(50).unsqueeze(0), torch.ones(1, 50, dtype=torch.bool))
    assert float(seen[0].detach().std()) == pytest.approx(1.0, rel=0.05)


def test_embeddings_are_read_as_they_are_where_asked_for() -> None:
    for scaled, factor in ((True, 24**0.5), (False, 1.0)):
        model = start(scale_embeddings=scaled, dropout=0.0)
        seen: list[torch.Tensor] = []
        model.encoder.register_forward_pre_hook(lambda _, arguments, seen=seen: seen.append(arguments[0]))
        model.encode(torch.tensor([[7, 3]]), torch.ones(1, 2, dtype=torch.bool))
        torch.testing.assert_close(seen[0][0], model.source_embedding.weight[[7, 3]] * factor)


@pytest.mark.parametrize("cell", CELLS)
def test_biases_are_zero_but_the_forget_gates(cell: str) -> None:
    model = start(cell=cell, forget_bias=1.5)
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            weights = layer.weights()
            bias_G = (weights.input_bias_G + weights.recurrent_bias_G).detach()
            hidden = layer.kernel.hidden_size
            expected_G = torch.zeros_like(bias_G)
            if cell == "lstm":
                expected_G[hidden : 2 * hidden] = 1.5
            assert torch.equal(bias_G, expected_G)


@pytest.mark.parametrize("size", [1e-3, 1.0, 40.0])
def test_pretrained_vectors_keep_their_directions_and_take_the_size_of_the_matrix(size: float) -> None:
    matrix_VE = start().source_embedding.weight
    before_VE = matrix_VE.detach().clone()
    vectors_NE = torch.randn(20, 24) * size
    ids_N = torch.arange(10, 50, 2)
    start_from_vectors(matrix_VE, ids_N, vectors_NE)
    rows_NE = matrix_VE.detach()[ids_N]
    ratio_NE = rows_NE / vectors_NE
    torch.testing.assert_close(ratio_NE, ratio_NE[:1, :1].expand_as(ratio_NE))
    assert float(rows_NE.square().mean()) == pytest.approx(float(before_VE.square().mean()))
    others = [number for number in range(50) if number not in ids_N]
    assert torch.equal(matrix_VE.detach()[others], before_VE[others])


def test_vectors_of_zeros_stay_zeros() -> None:
    matrix_VE = start().source_embedding.weight
    start_from_vectors(matrix_VE, torch.tensor([7]), torch.zeros(1, 24))
    assert matrix_VE.detach()[7].eq(0).all()


def test_the_gain_of_a_normalisation_layer_starts_at_one_and_its_bias_at_zero() -> None:
    linear, norm = nn.Linear(6, 6), nn.LayerNorm(6)
    module = nn.Sequential(linear, norm)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    initialise(module, init="xavier", scale=0.1, forget_bias=1.0)
    assert linear.bias.eq(0).all()
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()


def test_a_vector_that_is_neither_a_bias_nor_a_gain_is_refused() -> None:
    module = nn.Module()
    module.temperature = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="`temperature`"):
        initialise(module, init="xavier", scale=0.1, forget_bias=1.0)
