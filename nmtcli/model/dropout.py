"""Dropout whose masks cost little on a CPU, drawn anew at every position or once for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Drop = Callable[[str, Tensor], Tensor]


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Zeroes each value with this probability and scales the others so that the mean stays.

    On a CPU one 64-bit random number decides eight values, a byte each, rather than one number a value: the probability
    is then rounded to the nearest 1/256.

    Args:
        values: of any shape.
        probability: of a zero, below 1.
        training: False gives the values back.
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
    """How the places of a network drop values.

    Args:
        probability: of a zero, below 1.
        variational: a place draws one mask for all positions of a sentence, rather than one for each.
    Source:
        variational: Gal and Ghahramani 2016.
    """

    probability: float
    variational: bool

    def over_a_sentence(self, training: bool) -> Drop:
        """The function that drops, for one pass over a batch, however many steps that takes.

        Args:
            training: False gives a function that gives the values back.
        Returns:
            `drop(place, values_BTH)`: places are told apart by their names; variational masks are kept by them.
        """
        if not self.variational:
            return lambda _, values_BTH: dropout(values_BTH, self.probability, training)
        masks: dict[str, Tensor] = {}

        def drop(place: str, values_BTH: Tensor) -> Tensor:
            if place not in masks:
                masks[place] = dropout(torch.ones_like(values_BTH[:, :1]), self.probability, training)
            return values_BTH * masks[place]

        return drop
