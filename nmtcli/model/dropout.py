"""Dropout whose masks cost little on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
