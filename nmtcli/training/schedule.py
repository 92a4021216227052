"""The learning rate, as a function of the update and of how often the plateau rule has cut it."""


def learning_rate(
    update: int, *, peak: float, warmup: int, decay: str, max_updates: int = 0, cuts: int = 0, factor: float = 1.0
) -> float:
    """The rate of one update.

    Args:
        update: number of the update, from 1.
        peak: the highest rate.
        warmup: it rises linearly to the peak over so many updates [updates].
        decay: after that: `none`; `inverse-sqrt`: peak * sqrt(w / update), w the warm-up or 1; `linear`: to 0 just
            after `max_updates`; `plateau`: peak * factor ** cuts.
        max_updates: where `linear` ends [updates].
        cuts: how often `plateau` has cut.
        factor: of one cut.
    Source:
        inverse square root: Vaswani et al. 2017, eq. 3.

    >>> learning_rate(50, peak=0.1, warmup=100, decay="none")
    0.05
    >>> learning_rate(400, peak=0.1, warmup=100, decay="inverse-sqrt")
    0.05
    >>> learning_rate(7, peak=0.1, warmup=0, decay="plateau", cuts=1, factor=0.5)
    0.05
    """
    if update < warmup:
        return peak * update / warmup
    if decay == "inverse-sqrt":
        start = max(warmup, 1)
        return float(peak * (start / update) ** 0.5)
    if decay == "linear":
        return peak * max(0.0, (max_updates + 1 - update) / (max_updates + 1 - max(warmup, 1)))
    return float(peak * factor**cuts) if decay == "plateau" else peak
