"""Dropout with masks that are cheap on a CPU, drawn for each position or once for a whole sentence."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Drop = Callable[[str, Tensor], Tensor]  # from a place in the network and its values


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each value with this probability, and scale the others so that the mean stays the same.

    On a CPU one 64-bit random number decides eight values, one byte each, rather than one value; the probability is
    therefore rounded to the nearest 1/256.

    Args:
        values: of any shape.
        probability: probability of a zero, below 1.
        training: False returns the values unchanged.
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
    """Dropout at all places of a network.

    Args:
        probability: probability of a zero, below 1.
        variational: each place draws one mask for all positions of a sentence, rather than one per position.
    Source:
        variational: Gal and Ghahramani 2016.
    """

    probability: float
    variational: bool

    def over_a_sentence(self, training: bool) -> Drop:
        """Return the dropout function for one pass over a batch, whatever the number of its steps.

        Args:
            training: False returns a function that leaves values unchanged.
        Returns:
            `drop(place, values_BTH)`, where `place` is any name; variational masks are kept by name.
        """
        if not self.variational:
            return lambda _, values_BTH: dropout(values_BTH, self.probability, training)
        masks: dict[str, Tensor] = {}

        def drop(place: str, values_BTH: Tensor) -> Tensor:
            if place not in masks:
                masks[place] = dropout(torch.ones_like(values_BTH[:, :1]), self.probability, training)
            return values_BTH * masks[place]

        return drop
