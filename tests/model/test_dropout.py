"""Dropout zeroes with its probability, keeps the mean, and sends gradients where values went."""

import pytest
import torch

from nmtcli.model.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_zeroes_come_with_the_probability_and_the_mean_stays(probability: float) -> None:
    torch.manual_seed(9)
    dropped = dropout(torch.ones(999, 1001), probability, training=True)
    assert float((dropped == 0).double().mean()) == pytest.approx(probability, abs=1 / 512 + 0.002)
    assert float(dropped.double().mean()) == pytest.approx(1.0, abs=0.01)
    assert dropped.unique().numel() == 2


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(10)
    zero = (dropout(torch.ones(400_000), 0.3, training=True) == 0).double()
    for distance in (1, 2, 7, 8):
        both = float((zero[distance:] * zero[:-distance]).mean())
        assert both == pytest.approx(float(zero.mean()) ** 2, abs=0.004)


def test_gradient_reaches_only_what_was_kept() -> None:
    values = torch.ones(3, 5, requires_grad=True)
    dropped = dropout(values, 0.5, training=True)
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, dropped.detach())


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    values = torch.randn(4)
    assert dropout(values, 0.5, training=False) is values
    assert dropout(values, 0.0, training=True) is values


def test_a_variational_place_drops_the_same_at_all_positions_and_steps_of_a_sentence() -> None:
    torch.manual_seed(11)
    drop = Dropout(0.5, variational=True).over_a_sentence(training=True)
    whole_BTH = drop("one", torch.ones(3, 7, 40))
    assert torch.equal(whole_BTH, whole_BTH[:, :1].expand(3, 7, 40))
    assert torch.equal(drop("one", torch.ones(3, 1, 40)), whole_BTH[:, :1])  # a later step
    assert not torch.equal(drop("another", torch.ones(3, 7, 40)), whole_BTH)
    assert not torch.equal(whole_BTH[0], whole_BTH[1])
    assert whole_BTH.unique().tolist() == [0.0, 2.0]


def test_a_place_that_is_not_variational_drops_anew_at_every_position() -> None:
    torch.manual_seed(12)
    whole_BTH = Dropout(0.5, variational=False).over_a_sentence(training=True)("one", torch.ones(1, 2, 100))
    assert not torch.equal(whole_BTH[:, 0], whole_BTH[:, 1])


@pytest.mark.parametrize("variational", [True, False])
def test_no_place_drops_outside_training(variational: bool) -> None:
    values_BTH = torch.randn(2, 3, 4)
    assert torch.equal(Dropout(0.5, variational).over_a_sentence(training=False)("one", values_BTH), values_BTH)
