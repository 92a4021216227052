"""The likely translations of each source piece, counted in the training pairs: what a search may choose among.

    of_piece_SC     for each source piece its target pieces, best first, C of them; PAD where there are fewer; and where
                    the vocabulary is joint, itself, so that it can be copied
    frequent_F      the target pieces that are frequent anyhow

A pair of pieces is scored by count(s, t)^2 / (count(s) count(t)), counts of training pairs that hold them: 1 where the
two are always together, near 0 for a frequent piece that stands beside everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nmtcli.data.subword import PAD

Ids = Sequence[int] | npt.NDArray[np.integer]
Array = npt.NDArray[np.int64]

PAIRS = 200_000  # training pairs that are counted, evenly from all of them
CHUNK = 1 << 22  # pairs of pieces counted together
TRANSLATIONS = 40  # C
FREQUENT = 200  # F


class Shortlist(NamedTuple):
    """See above."""

    of_piece_SC: Array
    frequent_F: Array


def shortlist(
    pairs: Iterable[tuple[Ids, Ids]],
    source_size: int,
    target_size: int,
    *,
    joint: bool,
    translations: int = TRANSLATIONS,
    frequent: int = FREQUENT,
) -> Shortlist:
    """Counts pairs of ids.

    Args:
        pairs: source and target ids.
        source_size, target_size: of the vocabularies [pieces].
        joint: it is one vocabulary.
        translations, frequent: C, the copy not counted, and F at most.
    """
    counts_S, counts_T = np.zeros(source_size, np.int64), np.zeros(target_size, np.int64)
    together, times = np.empty(0, np.int64), np.empty(0, np.int64)  # keys s * target_size + t, and their counts
    remaining = iter(pairs)
    while chunk := list(_chunk(remaining)):
        keys = [together]
        weights = [times]
        for source, target in chunk:
            sources, targets = np.unique(np.asarray(source)), np.unique(np.asarray(target))
            sources, targets = (
                sources[sources < source_size],
                targets[targets < target_size],
            )  # damage is found elsewhere
            counts_S[sources] += 1
            counts_T[targets] += 1
            keys.append((sources.astype(np.int64)[:, None] * target_size + targets).ravel())
            weights.append(np.ones(keys[-1].size, np.int64))
        together, places = np.unique(np.concatenate(keys), return_inverse=True)
        times = np.bincount(places, weights=np.concatenate(weights)).astype(np.int64)
    sources, targets = together // target_size, together % target_size
    scores = times.astype(np.float64) ** 2 / (counts_S[sources] * counts_T[targets])
    order = np.lexsort((targets, -scores, sources))
    sources, targets = sources[order], targets[order]
    first = np.searchsorted(sources, np.arange(source_size))
    rank = np.arange(len(sources)) - first[sources]
    kept = rank < translations
    of_piece_SC = np.full((source_size, translations), PAD, np.int64)
    of_piece_SC[sources[kept], rank[kept]] = targets[kept]
    if joint:
        of_piece_SC = np.concatenate([of_piece_SC, np.arange(source_size)[:, None]], axis=1)
    often = np.argsort(-counts_T, kind="stable")[:frequent]
    return Shortlist(of_piece_SC, often[counts_T[often] > 0])


def _chunk(pairs: Iterator[tuple[Ids, Ids]]) -> Iterator[tuple[Ids, Ids]]:
    """The next pairs, as many as have so many pairs of pieces."""
    together = 0
    while together < CHUNK and (pair := next(pairs, None)) is not None:
        together += len(pair[0]) * len(pair[1])
        yield pair


def evenly(count: int, most: int = PAIRS) -> Iterable[int]:
    """The numbers of at most `most` of `count` pairs, evenly from all of them."""
    return range(count) if count <= most else (number * count // most for number in range(most))
