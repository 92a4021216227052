"""Training on several corpora in given proportions, whatever their sizes.

With `--mix news=3,subs=1`, training sees three pairs of `news` for each pair of `subs`. The corpus with the lowest
weight relative to its size occurs exactly once in an epoch. The other corpora are repeated as often as their weights
require, and the last repetition may be partial; the next epoch then continues in the middle of the corpus, so that in
the long run all pairs of a corpus are seen equally often.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtcli.errors import ConfigError


class Mixture:
    """The pairs that make up an epoch: an epoch is a sequence of places, each of which holds a pair.

    Args:
        sizes: number of pairs in each corpus; the training pairs are the concatenation of the corpora [pairs].
        weights: sampling weight of each corpus; 0 leaves a corpus out. At least one weight must be positive, and a
            corpus with a positive weight must have pairs.

    Attributes:
        places: number of places in an epoch.

    >>> Mixture([4, 2], [1, 1]).pairs(np.arange(8), epoch=0).tolist()
    [0, 1, 2, 3, 4, 5, 4, 5]
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]) -> None:
        shares = [weight / size if weight else 0.0 for size, weight in zip(sizes, weights, strict=True)]
        least = min(share for share in shares if share)
        self._sizes = np.array(sizes, dtype=np.int64)
        self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._parts = np.array(
            [round(size * share / least) for size, share in zip(sizes, shares, strict=True)], dtype=np.int64
        )
        self._ends = np.cumsum(self._parts)
        self.places = int(self._ends[-1])

    def pairs(self, places: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices of the pairs at the given places in an epoch."""
        corpus = np.searchsorted(self._ends, places, side="right")
        within = places - (self._ends - self._parts)[corpus] + epoch * self._parts[corpus]
        pairs: npt.NDArray[np.int64] = self._starts[corpus] + within % self._sizes[corpus]
        return pairs


def mixture_of(mix: str, corpora: Sequence[Mapping[str, Any]]) -> Mixture:
    """Make a mixture from the value of `--mix`.

    Args:
        mix: NAME=WEIGHT,…; NAME is the prefix of a training text as given to `nmt preprocess`, or its last path
            component (without `.tsv`).
        corpora: an object {"name", "pairs"} for each training text (see corpus.py).

    Raises:
        ConfigError: a name is unknown or ambiguous, a training text has no weight, a weight is invalid, all weights
            are 0, or a text with a positive weight has no pairs.
    """
    names = [str(corpus["name"]) for corpus in corpora]
    weights: dict[int, float] = {}
    for item in mix.split(","):
        name, _, weight = item.strip().rpartition("=")
        found = [number for number, full in enumerate(names) if name in (full, _short(full))]
        if len(found) != 1:
            what = "no training text" if not found else f"{len(found)} training texts"
            raise ConfigError(f"--mix: {what} of the data directory is called `{name}`", f"It has {_listed(names)}")
        try:
            weights[found[0]] = float(weight)
        except ValueError:
            raise ConfigError(f"--mix: the weight of {name} is `{weight}`", "Give a number, such as 2 or 0.5") from None
        if not 0 <= weights[found[0]] < float("inf"):
            raise ConfigError(f"--mix: the weight of {name} is {weight}", "Give 0 or more")
    if missing := [full for number, full in enumerate(names) if number not in weights]:
        raise ConfigError(f"--mix gives no weight for {_listed(missing)}", "Name all training texts; 0 leaves one out")
    sizes = [int(corpus["pairs"]) for corpus in corpora]
    if empty := [names[number] for number, weight in weights.items() if weight and not sizes[number]]:
        raise ConfigError(f"--mix: {empty[0]} has no pairs after cleaning", f"Give {_short(empty[0])}=0")
    if not any(weights.values()):
        raise ConfigError("--mix leaves out all training texts", "Give a weight above 0")
    return Mixture(sizes, [weights[number] for number in range(len(names))])


def _short(name: str) -> str:
    """Return the last path component of a prefix, without `.tsv`."""
    return name.rstrip("/").rpartition("/")[2].partition(".tsv")[0]


def _listed(names: Sequence[str]) -> str:
    short = [_short(name) for name in names]
    return ", ".join(one if short.count(one) == 1 else full for one, full in zip(short, names, strict=True))
