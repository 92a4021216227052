"""Each optimiser takes the step of its equations."""

from typing import Any

import pytest
import torch

from nmtcli.config import ModelConfig, TrainConfig
from nmtcli.model.seq2seq import Seq2Seq
from nmtcli.training.optimizer import optimizer_for, update_ema


def model() -> Seq2Seq:
    torch.manual_seed(2)
    return Seq2Seq(ModelConfig(hidden_size=4, embedding_size=4), source_size=9, target_size=9, joint=True).double()


def after(gradients: list[float], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix before and after updates with these gradients at every entry."""
    one = model()
    weight = one.decoder.readout.weight
    before = weight.detach().clone()
    optimizer = optimizer_for(one, TrainConfig(learning_rate=0.1, **options))
    for gradient in gradients:
        for parameter in one.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return before, weight.detach()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_sgd_goes_down_the_gradient(decay: float) -> None:
    before, weight = after([2.0], optimizer="sgd", weight_decay=decay)
    torch.testing.assert_close(weight, before - 0.1 * (2.0 + decay * before))


def test_adagrad_divides_by_the_root_of_the_squares_so_far() -> None:
    before, weight = after([2.0, 1.0], optimizer="adagrad")
    torch.testing.assert_close(weight, before - 0.1 * (2.0 / 2.0 + 1.0 / 5.0**0.5))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adam_divides_means_free_of_bias_and_decays_weights_apart_from_them(decay: float) -> None:
    before, weight = after([2.0, -1.0], optimizer="adam", beta2=0.99, weight_decay=decay)
    expected, mean, square = before, 0.0, 0.0
    for number, gradient in enumerate([2.0, -1.0], start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        step = (mean / (1 - 0.9**number)) / ((square / (1 - 0.99**number)) ** 0.5 + 1e-8)
        expected = expected * (1 - 0.1 * decay) - 0.1 * step
    torch.testing.assert_close(weight, expected)


def test_a_mean_follows_every_parameter() -> None:
    mean, now = model(), model()
    with torch.no_grad():
        for parameter in now.parameters():
            parameter.add_(1.0)
    update_ema(mean, now, decay=0.9, update=1000)
    for followed, parameter in zip(mean.parameters(), now.parameters(), strict=True):
        torch.testing.assert_close(followed, parameter - 0.9)
