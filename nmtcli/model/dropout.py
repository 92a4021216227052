"""Dropout with one mask per position or one per sentence, drawn cheaply on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Drop = Callable[[str, Tensor], Tensor]  # (name of a place in the network, values at that place) -> values after dropout


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each value with the given probability, and scale the others so that the mean stays the same.

    On a CPU, each 64-bit random number is split into eight bytes, one per value, so the probability is rounded to the
    nearest 1/256.

    Args:
        values: tensor of any shape.
        probability: probability that a value is zeroed; must be below 1.
        training: if False, return the values unchanged.
    Source:
        Srivastava et al. 2014.
    """
    if not training or not probability:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    count = values.numel()
    threshold = min(round(probability * 256), 255)
    numbers = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
    bytes_ = numbers.view(torch.uint8)[:count].view(values.shape)
    mask = (bytes_ >= threshold).to(values.dtype).mul_(256 / (256 - threshold))
    return values * mask


@dataclass(frozen=True)
class Dropout:
    """Dropout settings for all places in a network.

    Args:
        probability: probability that a value is zeroed; must be below 1.
        variational: if True, each place in the network uses one mask for all positions in a sentence; if False, it
            draws a new mask for each position.
    Source:
        variational: Gal and Ghahramani 2016.
    """

    probability: float
    variational: bool

    def over_a_sentence(self, training: bool) -> Drop:
        """Return a dropout function for one pass over a batch, to be used in all steps of that pass.

        Args:
            training: if False, the function returns its values unchanged.
        Returns:
            `drop(place, values_BTH)`, where `place` is any name; calls with the same name share one variational mask.
        """
        if not self.variational:
            return lambda _, values_BTH: dropout(values_BTH, self.probability, training)
        masks: dict[str, Tensor] = {}

        def drop(place: str, values_BTH: Tensor) -> Tensor:
            if place not in masks:
                masks[place] = dropout(torch.ones_like(values_BTH[:, :1]), self.probability, training)
            return values_BTH * masks[place]

        return drop
