"""Likely translations of each source piece, learnt from the training pairs, for search with a shortlist.

    of_piece_SC     for each source piece its C likeliest target pieces, best first, padded with PAD; in a joint
                    vocabulary, followed by the source piece itself, so that it can be copied
    frequent_F      the most frequent target pieces

Target pieces t are ranked by p(t | s) of IBM Model 1, estimated by EM. In each iteration, every target piece of a pair
is distributed over the source pieces of the pair and the empty word, in proportion to p; the total assigned to (s, t),
divided by the total assigned to s, is the next p(t | s). The initial p is count(s, t)^2 / (count(s) count(t)), where
each count is the number of training pairs that contain the pieces; only the candidates with the highest initial p take
part in EM. A piece that is repeated within a sentence is counted once.

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

PAIRS = 200_000  # maximum number of training pairs used, evenly spaced over the corpus
CHUNK = 1 << 22  # pairs of pieces (s, t) processed at a time
SHARED = 1 << 25  # approximate maximum number of pairs of pieces (s, t) in EM
CANDIDATES = 64  # maximum number of target pieces per source piece in EM
ROUNDS = 3  # iterations of EM
KEPT = 1e-6  # weight of the initial p in every later p, so that candidates in no pair used for EM are ranked too
TRANSLATIONS = 16  # default of C
FREQUENT = 200  # default maximum of F


class Shortlist(NamedTuple):
    """A shortlist: the two arrays that the module docstring describes."""

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
    """Learn a shortlist from pairs of ids. Ids outside the vocabulary are ignored; training reports such damage.

    Args:
        pairs: source and target ids.
        source_size, target_size: sizes of the vocabularies [pieces].
        joint: True if source and target share one vocabulary.
        translations: C, the maximum number of translations per source piece, not counting the piece itself.
        frequent: maximum of F, the number of frequent target pieces.
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
    together, shares = together[kept], _probabilities(known, together[kept], scores[kept], target_size)
    best = _best(together, shares.astype(np.float32), target_size, translations)  # hides effects of summation order
    sources = together[best] // target_size
    best, sources = best[sources != empty], sources[sources != empty]
    of_piece_SC = np.full((source_size, translations), PAD, np.int64)
    of_piece_SC[sources, _rank(sources)] = together[best] % target_size
    if joint:
        of_piece_SC = np.concatenate([of_piece_SC, np.arange(source_size)[:, None]], axis=1)
    often = np.argsort(-counts_T, kind="stable")[:frequent]
    return Shortlist(of_piece_SC, often[counts_T[often] > 0])


def _distinct(ids: Ids, size: int) -> Array:
    """Return the distinct valid ids (from 0 to `size` - 1) in ascending order; `size` is the vocabulary size."""
    distinct = np.unique(np.asarray(ids, np.int64))
    return distinct[(distinct >= 0) & (distinct < size)]


def _chunks(known: Sequence[tuple[Array, Array]], target_size: int) -> Iterator[tuple[Array, Array]]:
    """Yield an array of keys and an array of numbers, with about CHUNK entries each.

    There is one entry for each pair of pieces (s, t) in each training pair. The key is s * target_size + t; the number
    identifies, within the arrays, the training pair and its target piece t.
    """
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
    """Return the distinct keys, in ascending order, and the number of occurrences of each key."""
    counted = [(np.empty(0, np.int64), np.empty(0, np.int64))]  # each array is longer than the next: merging is cheap
    for keys in chunks:
        counted.append(np.unique(keys, return_counts=True))
        while len(counted) > 1 and len(counted[-2][0]) <= len(counted[-1][0]):
            counted[-2:] = [_joined(counted[-2:])]
    return _joined(counted)


def _joined(counted: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    keys, places = np.unique(np.concatenate([keys for keys, _ in counted]), return_inverse=True)
    times = np.bincount(places, weights=np.concatenate([times for _, times in counted]), minlength=len(keys))
    return keys, times.astype(np.int64)


def _probabilities(
    known: Sequence[tuple[Array, Array]], together: Array, scores: npt.NDArray[np.float64], target_size: int
) -> npt.NDArray[np.float64]:
    """Return p(t | s) after ROUNDS iterations of EM for the ascending keys `together`; `scores` are the initial p."""
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
    """Return the positions of the keys with the best scores, at most `most` for each source piece.

    The positions are ordered by source piece, then by descending score, then (for equal scores) by ascending target id.
    """
    order = np.lexsort((together % target_size, -scores, together // target_size))
    return order[_rank(together[order] // target_size) < most]


def _rank(sources: Array) -> Array:
    """Return the rank of each entry within its run of equal values; the input is sorted."""
    return np.arange(len(sources)) - np.searchsorted(sources, sources)


def evenly(count: int, most: int = PAIRS) -> Iterable[int]:
    """Return at most `most` evenly spaced indices below `count`, the number of pairs."""
    return range(count) if count <= most else (number * count // most for number in range(most))
