"""The learning rate as a function of the update, the epoch, and the number of times plateau decay has cut it."""

import math
from dataclasses import dataclass
from typing import Self

from nmtcli.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
        peak: the maximum learning rate.
        warmup: length of the linear rise to the peak [updates].
        decay: the rate after the warm-up. `none`: peak; `inverse-sqrt`: peak * sqrt(w / update), w = max(warmup, 1);
            `linear`: falls linearly, to 0 at update `max_updates` + 1; `plateau`: peak * factor ** cuts; `step`:
            peak * factor ** n after n cuts, the first at `start` and a further one every `every` epochs.
        max_updates: the last update with `linear` decay.
        factor: the factor by which each cut multiplies the rate.
        start: number of completed epochs at the first cut by `step` [epochs].
        every: interval between cuts by `step` [epochs].
    Source:
        inverse square root: Vaswani et al. 2017, eq. 3; step: Luong et al. 2015, section 4.1 (halved every epoch after
        the fifth), Sutskever et al. 2014, section 3.4 (every half epoch after the fifth).
    """

    peak: float
    warmup: int = 0
    decay: str = "none"
    max_updates: int = 0
    factor: float = 1.0
    start: float = 0.0
    every: float = 1.0

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Return the schedule specified by the options."""
        return cls(
            peak=config.learning_rate,
            warmup=config.warmup,
            decay=config.decay,
            max_updates=config.max_updates,
            factor=config.decay_factor,
            start=config.decay_start,
            every=config.decay_every,
        )

    def rate(self, update: int, *, cuts: int = 0, epochs: float = 0.0) -> float:
        """Return the learning rate for one update.

        Args:
            update: number of the update, from 1.
            cuts: number of times plateau decay has cut the rate so far; used only by `plateau`.
            epochs: number of epochs completed before this update, may be fractional; used only by `step`.

        >>> Schedule(peak=0.1, warmup=100).rate(50)
        0.05
        >>> Schedule(peak=0.1, warmup=100, decay="inverse-sqrt").rate(400)
        0.05
        >>> Schedule(peak=0.1, decay="plateau", factor=0.5).rate(7, cuts=1)
        0.05
        >>> Schedule(peak=0.8, decay="step", factor=0.5, start=5, every=0.5).rate(9, epochs=5.5)
        0.2
        """
        if update < self.warmup:
            return self.peak * update / self.warmup
        first = max(self.warmup, 1)
        if self.decay == "inverse-sqrt":
            return float(self.peak * (first / update) ** 0.5)
        if self.decay == "linear":
            return self.peak * max(0.0, (self.max_updates + 1 - update) / (self.max_updates + 1 - first))
        if self.decay == "step":
            cuts = 1 + math.floor((epochs - self.start) / self.every) if epochs >= self.start else 0
        return float(self.peak * self.factor**cuts) if self.decay in ("plateau", "step") else self.peak
