"""The likely translations of each source piece, learnt from the training pairs: what a search may choose among.

    of_piece_SC     for each source piece its target pieces, best first, C of them; PAD where there are fewer; and where
                    the vocabulary is joint, itself, so that it can be copied
    frequent_F      the target pieces that are frequent anyhow

The best are those that a source piece explains: the largest p(t | s) of IBM Model 1. In each pair every target piece is
shared out among the source pieces and an empty word, by p; what fell to s and t together, over all that fell to s, is
the next p. The first p is count(s, t)^2 / (count(s) count(t)), counts of training pairs that hold them; what is far
from the best by that has no part in it. A piece counts once in a sentence.

Source:
    Brown et al. 1993, section 4.1.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nmtcli.data.subword import PAD

Ids = Sequence[int] | npt.NDArray[np.integer]
Array = npt.NDArray[np.int64]

PAIRS = 200_000  # training pairs that are looked at, evenly from all of them
CHUNK = 1 << 22  # pairs of pieces looked at together
SHARED = 1 << 25  # pairs of pieces that are shared out, at most
CANDIDATES = 64  # of each source piece, that have a part in it
ROUNDS = 3  # of sharing out
KEPT = 1e-6  # of the first p: it ranks what is in none of the pairs that are shared out
TRANSLATIONS = 16  # C
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
    """Learns from pairs of ids. What is no id of a vocabulary is left out: damage is found elsewhere.

    Args:
        pairs: source and target ids.
        source_size, target_size: of the vocabularies [pieces].
        joint: it is one vocabulary.
        translations, frequent: C, the copy not counted, and F at most.
    """
    empty = source_size  # the id of the empty word
    known = [
        (np.append(_distinct(source, source_size), empty), _distinct(target, target_size)) for source, target in pairs
    ]
    together, times = _counted(keys for keys, _ in _chunks(known, target_size))
    counts_S, counts_T = np.zeros(source_size + 1, np.int64), np.zeros(target_size, np.int64)
    for sources, targets in known:
        counts_S[sources] += 1
        counts_T[targets] += 1
    scores = times.astype(np.float64) ** 2 / (counts_S[together // target_size] * counts_T[together % target_size])
    kept = np.sort(_best(together, scores, target_size, CANDIDATES))
    together, shares = together[kept], _shared_out(known, together[kept], scores[kept], target_size)
    best = _best(together, shares.astype(np.float32), target_size, translations)  # the order of adding up does not show
    sources = together[best] // target_size
    best, sources = best[sources != empty], sources[sources != empty]
    of_piece_SC = np.full((source_size, translations), PAD, np.int64)
    of_piece_SC[sources, _rank(sources)] = together[best] % target_size
    if joint:
        of_piece_SC = np.concatenate([of_piece_SC, np.arange(source_size)[:, None]], axis=1)
    often = np.argsort(-counts_T, kind="stable")[:frequent]
    return Shortlist(of_piece_SC, often[counts_T[often] > 0])


def _distinct(ids: Ids, size: int) -> Array:
    """The ids of a vocabulary among these, each once."""
    distinct = np.unique(np.asarray(ids, np.int64))
    return distinct[(distinct >= 0) & (distinct < size)]


def _chunks(known: Sequence[tuple[Array, Array]], target_size: int) -> Iterator[tuple[Array, Array]]:
    """Keys s * target_size + t of the pieces that stand together, CHUNK or a few more at a time, and numbers: the same
    for the same target piece of the same pair."""
    keys: list[Array] = []
    numbers: list[Array] = []
    count = first = 0
    for sources, targets in known:
        keys.append((sources[:, None] * target_size + targets).ravel())
        numbers.append(np.tile(np.arange(first, first + len(targets)), len(sources)))
        count, first = count + len(sources) * len(targets), first + len(targets)
        if count >= CHUNK:
            yield np.concatenate(keys), np.concatenate(numbers)
            keys, numbers, count, first = [], [], 0, 0
    if keys:
        yield np.concatenate(keys), np.concatenate(numbers)


def _counted(chunks: Iterable[Array]) -> tuple[Array, Array]:
    """The distinct keys, which rise, and how often each is there."""
    counted = [(np.empty(0, np.int64), np.empty(0, np.int64))]  # each longer than the next
    for keys in chunks:
        counted.append(np.unique(keys, return_counts=True))
        while len(counted) > 1 and len(counted[-2][0]) <= len(counted[-1][0]):
            counted[-2:] = [_joined(counted[-2:])]
    return _joined(counted)


def _joined(counted: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    keys, places = np.unique(np.concatenate([keys for keys, _ in counted]), return_inverse=True)
    times = np.bincount(places, weights=np.concatenate([times for _, times in counted]), minlength=len(keys))
    return keys, times.astype(np.int64)


def _shared_out(
    known: Sequence[tuple[Array, Array]], together: Array, scores: npt.NDArray[np.float64], target_size: int
) -> npt.NDArray[np.float64]:
    """p(t | s) after some rounds, for these keys, which rise; from scores to begin with."""
    step = -(-sum(len(sources) * len(targets) for sources, targets in known) // SHARED)
    found = []
    for keys, numbers in _chunks(known[:: max(1, step)], target_size):
        places = np.searchsorted(together, keys).clip(max=len(together) - 1)
        is_kept = together[places] == keys
        found.append((places[is_kept].astype(np.int32), numbers[is_kept].astype(np.int32)))
    sources = together // target_size
    probabilities = scores
    for _ in range(ROUNDS):
        shares = KEPT * scores
        for places, numbers in found:
            weights = probabilities[places]
            weights /= np.bincount(numbers, weights=weights)[numbers]
            shares += np.bincount(places, weights=weights, minlength=len(together))
        probabilities = shares / np.bincount(sources, weights=shares)[sources]
    return probabilities


def _best(together: Array, scores: npt.NDArray[np.floating[Any]], target_size: int, most: int) -> Array:
    """Where the best of each source piece stand, source by source, best first; of equal ones the smaller target."""
    order = np.lexsort((together % target_size, -scores, together // target_size))
    return order[_rank(together[order] // target_size) < most]


def _rank(sources: Array) -> Array:
    """The how manieth of its own each is, where equal ones stand next to each other, rising."""
    return np.arange(len(sources)) - np.searchsorted(sources, sources)


def evenly(count: int, most: int = PAIRS) -> Iterable[int]:
    """The numbers of at most `most` of `count` pairs, evenly from all of them."""
    return range(count) if count <= most else (number * count // most for number in range(most))
