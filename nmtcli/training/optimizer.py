"""The optimiser, and the exponential moving average of the weights."""

import torch

from nmtcli.config import TrainConfig
from nmtcli.model.seq2seq import Seq2Seq


def optimizer_for(model: Seq2Seq, config: TrainConfig) -> torch.optim.Optimizer:
    """Create the optimiser for the parameters of a model.

    Args:
        model: the model, already on its device.
        config: gives the kind of optimiser, the learning rate, beta2 and weight decay.
    Source:
        Adam: Kingma and Ba 2015; with weight decay: Loshchilov and Hutter 2019; Adagrad: Duchi et al. 2011.
    """
    rate, weight_decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=weight_decay)
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(model.parameters(), lr=rate, weight_decay=weight_decay)
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    betas = (0.9, config.beta2)
    return kind(model.parameters(), lr=rate, betas=betas, eps=1e-8, weight_decay=weight_decay, fused=True)


@torch.no_grad()
def update_ema(ema_model: Seq2Seq, model: Seq2Seq, decay: float, update: int) -> None:
    """Move an exponential moving average towards the current weights: average = d * average + (1 - d) * weights.

    Args:
        ema_model: the average; changed in place.
        model: the model with the current weights.
        decay: maximum of d; in early updates, d is (1 + update) / (10 + update) if this is smaller, so that the initial
            weights are soon forgotten.
        update: number of the update, from 1.
    Source:
        Polyak and Juditsky 1992; the lower d in early updates follows TensorFlow.
    """
    share = 1 - min(decay, (1 + update) / (10 + update))
    for averaged, parameter in zip(ema_model.parameters(), model.parameters(), strict=True):
        averaged.lerp_(parameter, share)
