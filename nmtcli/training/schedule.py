"""The learning rate, as a function of how far training is and of how often the plateau rule has cut it."""

import math


def learning_rate(
    update: int,
    *,
    peak: float,
    warmup: int,
    decay: str,
    max_updates: int = 0,
    cuts: int = 0,
    factor: float = 1.0,
    epochs: float = 0.0,
    start: float = 0.0,
    every: float = 1.0,
) -> float:
    """The rate of one update.

    Args:
        update: number of the update, from 1.
        peak: the highest rate.
        warmup: it rises linearly to the peak over so many updates [updates].
        decay: after that: `none`; `inverse-sqrt`: peak * sqrt(w / update), w the warm-up or 1; `linear`: to 0 just
            after `max_updates`; `plateau`: peak * factor ** cuts; `step`: peak * factor ** n, n the cuts at `start` and
            `every` so long after it.
        max_updates: where `linear` ends [updates].
        cuts: how often `plateau` has cut.
        factor: of one cut.
        epochs: done before this update, with a fraction [epochs].
        start, every: when `step` cuts [epochs].
    Source:
        inverse square root: Vaswani et al. 2017, eq. 3; step: Luong et al. 2015, section 4.1 (halved every epoch after
        the fifth), Sutskever et al. 2014, section 3.4 (every half epoch after the fifth).

    >>> learning_rate(50, peak=0.1, warmup=100, decay="none")
    0.05
    >>> learning_rate(400, peak=0.1, warmup=100, decay="inverse-sqrt")
    0.05
    >>> learning_rate(7, peak=0.1, warmup=0, decay="plateau", cuts=1, factor=0.5)
    0.05
    >>> learning_rate(9, peak=0.8, warmup=0, decay="step", factor=0.5, start=5, every=0.5, epochs=5.5)
    0.2
    """
    if update < warmup:
        return peak * update / warmup
    if decay == "inverse-sqrt":
        start = max(warmup, 1)
        return float(peak * (start / update) ** 0.5)
    if decay == "linear":
        return peak * max(0.0, (max_updates + 1 - update) / (max_updates + 1 - max(warmup, 1)))
    if decay == "step":
        cuts = 1 + math.floor((epochs - start) / every) if epochs >= start else 0
    return float(peak * factor**cuts) if decay in ("plateau", "step") else peak
