"""The learning rate, as a function of how far training is and of how often the plateau rule has cut it."""

import math
from dataclasses import dataclass
from typing import Self

from nmtcli.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule of the learning rate.

    Attributes:
        peak: the highest rate.
        warmup: length of the linear rise to the peak [updates].
        decay: after that: `none`; `inverse-sqrt`: peak * sqrt(w / update), w the warm-up or 1; `linear`: to 0 just
            after `max_updates`; `plateau`: peak * factor ** cuts; `step`: peak * factor ** n, n the cuts at `start` and
            every `every` after it.
        max_updates: where `linear` ends [updates].
        factor: of one cut.
        start, every: when `step` cuts [epochs].
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
        """Return the schedule that the options describe."""
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
        """Return the rate of one update.

        Args:
            update: number of the update, from 1.
            cuts: how often `plateau` has cut.
            epochs: done before this update, with a fraction [epochs].

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
