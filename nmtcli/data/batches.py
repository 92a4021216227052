"""From pairs of ids to padded batches: a token budget, buckets of like length, a seeded order, a position to resume at.

An epoch's plan is made of its number and the seed alone: all pairs are shuffled, sorted by length within windows, cut
into batches by the budget, and the batches shuffled. So a run that resumes at batch 17 of epoch 3 sees what it would
have seen.

Of a corpus of more than a million pairs no plan of an epoch is ever in memory: an epoch is a sequence of blocks, each
planned when it begins. A block is made of neighbours, some ten thousand pairs long, from places all over the corpus,
drawn anew in each epoch. What holds: each pair is seen exactly once an epoch, unless several corpora are mixed
(mixture.py); a block is shuffled through and through; pairs that stand close to each other in the corpus are in one
block, among others from 64 places.
"""

import dataclasses
import hashlib
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nmtcli.data.corpus import Corpus
from nmtcli.data.mixture import Mixture
from nmtcli.data.subword import BOS, EOS, PAD, Subword
from nmtcli.errors import DirectoryError, WorldError

WINDOW = 1 << 17  # pairs sorted by length together [pairs]
BLOCK = 1 << 20  # pairs planned together [pairs]
NEIGHBOURS = 1 << 14  # pairs that go into a block together [pairs]
# products are compiled for each shape of a batch: these keep shapes few
LENGTHS = 2  # a side of a batch is padded to a multiple of it [tokens]
SENTENCES = 8  # a training batch has a multiple of it, where it has twice as many at least

Ids = Sequence[int] | npt.NDArray[np.integer]
Whole = TypeVar("Whole", int, npt.NDArray[np.int64])


@dataclass(frozen=True)
class Batch:
    """Sentence pairs of like length, padded on the right to a multiple of LENGTHS.

    Attributes:
        source_BS: source ids, EOS at the end.
        source_mask_BS: True on real tokens.
        target_input_BT: what the decoder is given: BOS, then the target without its EOS.
        target_output_BT: what it should say: the target, EOS at the end.
        target_mask_BT: True on real tokens, of both.
        source_tokens, target_tokens: how many are real [tokens].
    """

    source_BS: Tensor
    source_mask_BS: Tensor
    target_input_BT: Tensor
    target_output_BT: Tensor
    target_mask_BT: Tensor
    source_tokens: int
    target_tokens: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[Ids, Ids]]) -> Self:
        """A batch of these pairs of ids, each side with its EOS."""
        source_BS, source_mask_BS = padded([source for source, _ in pairs], LENGTHS)
        target_output_BT, target_mask_BT = padded([target for _, target in pairs], LENGTHS)
        target_input_BT = target_output_BT.roll(1, dims=1)
        target_input_BT[:, 0] = BOS
        target_input_BT.masked_fill_((target_input_BT == EOS) | ~target_mask_BT, PAD)
        return cls(
            source_BS=source_BS,
            source_mask_BS=source_mask_BS,
            target_input_BT=target_input_BT,
            target_output_BT=target_output_BT,
            target_mask_BT=target_mask_BT,
            source_tokens=int(source_mask_BS.sum()),
            target_tokens=int(target_mask_BT.sum()),
        )

    def halves(self) -> "tuple[Batch, Batch]":
        """Two batches of half the sentences each, padded to what they have; there must be two sentences at least."""
        middle = len(self.source_BS) // 2
        first, second = (self._rows(slice(None, middle)), self._rows(slice(middle, None)))
        return first, second

    def _rows(self, rows: slice) -> "Batch":
        source_mask_BS, target_mask_BT = self.source_mask_BS[rows], self.target_mask_BT[rows]
        source, target = (_up(int(mask.sum(dim=1).max()), LENGTHS) for mask in (source_mask_BS, target_mask_BT))
        return Batch(
            source_BS=self.source_BS[rows, :source],
            source_mask_BS=source_mask_BS[:, :source],
            target_input_BT=self.target_input_BT[rows, :target],
            target_output_BT=self.target_output_BT[rows, :target],
            target_mask_BT=target_mask_BT[:, :target],
            source_tokens=int(source_mask_BS.sum()),
            target_tokens=int(target_mask_BT.sum()),
        )

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return self if device.type == "cpu" else self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from where copies to a GPU need not wait (DataLoader calls this)."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return dataclasses.replace(
            self,
            source_BS=change(self.source_BS),
            source_mask_BS=change(self.source_mask_BS),
            target_input_BT=change(self.target_input_BT),
            target_output_BT=change(self.target_output_BT),
            target_mask_BT=change(self.target_mask_BT),
        )


def padded(sentences: Sequence[Ids], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """ids_BS with padding on the right, S being a multiple, and mask_BS, True on real tokens.

    >>> padded([[7, 3], [3]])[0].tolist()
    [[7, 3], [3, 0]]
    """
    lengths = np.array([len(sentence) for sentence in sentences])
    mask_BS = np.arange(_up(lengths.max(), multiple)) < lengths[:, None]
    ids_BS = np.full(mask_BS.shape, PAD, dtype=np.int64)
    ids_BS[mask_BS] = np.concatenate([np.asarray(sentence) for sentence in sentences])
    return torch.from_numpy(ids_BS), torch.from_numpy(mask_BS)


def _up(number: Whole, multiple: int) -> Whole:
    """The next multiple."""
    return -(-number // multiple) * multiple


def cut(
    order: npt.NDArray[np.int64], longest: npt.NDArray[np.int64], batch_tokens: int, sentences: int = 1
) -> list[npt.NDArray[np.int64]]:
    """Cuts an order of pairs into batches of at most `batch_tokens`: sentences times the longest side.

    Args:
        order: numbers of pairs, like lengths next to each other.
        longest: the longer side of each pair of the corpus [tokens].
        batch_tokens: the budget, padding counted; a pair that is longer stands alone.
        sentences: batches of twice as many at least have a multiple of it, but for the last one.
    """
    batches = []
    widths = _up(longest[order], LENGTHS).tolist()
    start = 0
    while start < len(order):
        count, width = 0, 0
        while start + count < len(order):
            width = max(width, widths[start + count])
            if count and width * (count + 1) > batch_tokens:
                break
            count += 1
        if count >= 2 * sentences and start + count < len(order):
            count -= count % sentences
        batches.append(order[start : start + count])
        start += count
    return batches


def plan(
    source_lengths: npt.NDArray[np.int64],
    target_lengths: npt.NDArray[np.int64],
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    block: int | None = None,
) -> list[npt.NDArray[np.int64]]:
    """The batches of an epoch, or of a block of one, in order: each pair exactly once.

    Args:
        source_lengths, target_lengths: of each pair, EOS counted [tokens].
        batch_tokens: see `cut`.
        seed, epoch, block: the plan is a function of these and the lengths.
    Returns:
        arrays of numbers of these pairs.
    """
    random = np.random.default_rng([seed, epoch] if block is None else [seed, epoch, block])
    shuffled = random.permutation(len(source_lengths))
    longest = np.maximum(source_lengths, target_lengths)
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), WINDOW):
        window = shuffled[start : start + WINDOW]
        by_length = window[_by_length(source_lengths[window], target_lengths[window])]
        batches += cut(by_length, longest, batch_tokens, SENTENCES)
    return [batches[number] for number in random.permutation(len(batches))]


def _by_length(source_lengths: npt.NDArray[np.int64], target_lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """An order of pairs in which neighbours are of like length on both sides.

    By the target's padded length, then by the source's, which rises within one target length and falls within the
    next: so it does not jump where they meet.
    """
    target = -(-target_lengths // LENGTHS)
    return np.lexsort((np.where(target % 2, source_lengths, -source_lengths), target))


def places_of_block(count: int, *, seed: int, epoch: int, block: int) -> npt.NDArray[np.int64]:
    """The places of an epoch that one of its blocks has, rising: all of them, where that is a single block.

    Args:
        count: places of an epoch, each with a pair (see mixture.py).
        seed, epoch: the blocks are a function of these and the count.
        block: its number, below `blocks_of(count)`.
    """
    if blocks_of(count) == 1:
        return np.arange(count)
    starts = np.random.default_rng([seed, epoch]).permutation(np.arange(0, count, NEIGHBOURS))
    own = np.sort(starts[block * BLOCK // NEIGHBOURS : (block + 1) * BLOCK // NEIGHBOURS])
    return np.concatenate([np.arange(start, min(start + NEIGHBOURS, count)) for start in own.tolist()])


def blocks_of(count: int) -> int:
    """How many blocks an epoch of so many places has."""
    return max(1, -(-count // BLOCK))


def batches_by_length(pairs: Sequence[tuple[Ids, Ids]], batch_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Batches of pair numbers, short pairs first, for whatever has no random order."""
    source_lengths = np.array([len(source) for source, _ in pairs], dtype=np.int64)
    target_lengths = np.array([len(target) for _, target in pairs], dtype=np.int64)
    return cut(_by_length(source_lengths, target_lengths), np.maximum(source_lengths, target_lengths), batch_tokens)


class TrainingBatches:
    """The training corpus, epoch by epoch.

    Args:
        corpus: pairs of ids.
        source_subword, target_subword: for sampling.
        batch_tokens: see `cut`.
        seed: of the order and of the sampled segmentations.
        subword_alpha: sample segmentations; 0: those on disk. What is drawn depends on seed, epoch and place only.
        workers: processes that prepare batches; 0: this one.
        pin_memory: for copies to a GPU.
        mixture: of which pairs an epoch is made; None: of each once.
        share: (r, n): of the batches, from where a stream starts, every n-th from the r-th on; each block anew.
    Attributes:
        blocks: of an epoch.
    """

    def __init__(  # noqa: PLR0913 (keywords, each an option of nmt train or a part of the run)
        self,
        corpus: Corpus,
        source_subword: Subword,
        target_subword: Subword,
        *,
        batch_tokens: int,
        seed: int,
        subword_alpha: float,
        workers: int,
        pin_memory: bool,
        mixture: Mixture | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._share = share
        self._corpus = corpus
        self._subwords = (source_subword, target_subword)
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._alpha = subword_alpha
        self._workers = workers
        self._pin_memory = pin_memory
        self._mixture = mixture or Mixture([len(corpus)], [1])
        self.blocks = blocks_of(self._mixture.places)
        self._plans: dict[tuple[int, int], list[npt.NDArray[np.int64]]] = {}

    def plan(self, epoch: int, block: int = 0) -> list[npt.NDArray[np.int64]]:
        """The batches of a block of an epoch, as places of this epoch."""
        if (epoch, block) not in self._plans:
            places = places_of_block(self._mixture.places, seed=self._seed, epoch=epoch, block=block)
            lengths = self._corpus.lengths(self._mixture.pairs(places, epoch))
            part = None if self.blocks == 1 else block
            batches = plan(*lengths, batch_tokens=self._batch_tokens, seed=self._seed, epoch=epoch, block=part)
            # the loader is at most one block ahead of the trainer
            before = (epoch, block - 1) if block else (epoch - 1, self.blocks - 1)
            self._plans = {part: one for part, one in self._plans.items() if part >= before}
            self._plans[epoch, block] = batches if self.blocks == 1 else [places[batch] for batch in batches]
        return self._plans[epoch, block]

    def shapes(self, epoch: int) -> list[tuple[int, int, int]]:
        """Sentences, source and target positions of each batch of an epoch's first block, as its pairs are on disk."""
        shapes = []
        for places in self.plan(epoch):
            source, target = self._corpus.lengths(self._mixture.pairs(places, epoch))
            shapes.append((len(places), _up(int(source.max()), LENGTHS), _up(int(target.max()), LENGTHS)))
        return shapes

    def tokens(self, epoch: int) -> int:
        """Source and target tokens of an epoch's first block, as long as its pairs are on disk."""
        numbers = (self._mixture.pairs(places, epoch) for places in self.plan(epoch))
        return sum(int(side.sum()) for pairs in numbers for side in self._corpus.lengths(pairs))

    def stream(self, epoch: int, start: int, block: int = 0) -> Iterator[Batch]:
        """The batches of a block of an epoch from the one with this number on, then all that come after, without end.

        The workers live as long as the stream, so that nothing waits where one block meets the next.
        """
        dataset = _Batches(self._corpus, self._mixture, self._subwords, self._seed, self._alpha)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._keys(epoch, block, start),
            num_workers=self._workers,
            prefetch_factor=8 if self._workers else None,
            pin_memory=self._pin_memory,
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # else the loader draws from the random numbers of dropout
        )
        for batch in loader:
            if isinstance(batch, DirectoryError):
                raise batch
            yield batch

    def _keys(self, epoch: int, block: int, start: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        rank, ranks = self._share
        for part in itertools.count(epoch * self.blocks + block):
            epoch, block = divmod(part, self.blocks)
            for places in self.plan(epoch, block)[start + rank :: ranks]:
                yield epoch, places
            start = 0


@contextmanager
def loader_deaths() -> Iterator[None]:
    """Says in one line that a process which prepares batches died; torch says it wherever the main process just is,
    also while other contexts end: so this one goes around them all.

    Raises:
        WorldError: a worker of a stream died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: the pipe to it is found closed first
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise WorldError(
            f"a process that prepares batches died ({str(error).splitlines()[0].strip()})",
            "It may have run out of memory; go on with --resume",
        ) from error


class _Batches(Dataset[Batch | DirectoryError]):
    """Makes the batch of an epoch and an array of its places."""

    def __init__(
        self, corpus: Corpus, mixture: Mixture, subwords: tuple[Subword, Subword], seed: int, alpha: float
    ) -> None:
        self._corpus = corpus
        self._mixture = mixture
        self._subwords = subwords
        self._seed = seed
        self._alpha = alpha

    def __getitem__(self, key: tuple[int, npt.NDArray[np.int64]]) -> Batch | DirectoryError:
        """The batch; an error is given rather than raised, for the loader makes a page of one in another process."""
        epoch, places = key
        pairs = self._mixture.pairs(places, epoch)
        try:
            batch = Batch.of(
                [self._pair(epoch, place, pair) for place, pair in zip(places.tolist(), pairs.tolist(), strict=True)]
            )
            for side, ids_BS, subword in zip(
                ("source", "target"), (batch.source_BS, batch.target_output_BT), self._subwords, strict=True
            ):
                if (highest := int(ids_BS.max())) >= subword.size:
                    raise DirectoryError(
                        f"the training {side} has piece {highest:,} of {subword.size:,}: the data directory is damaged",
                        "Run nmt preprocess again",
                    )
        except DirectoryError as error:
            return error
        return batch

    def _pair(self, epoch: int, place: int, pair: int) -> tuple[Ids, Ids]:
        source, target = self._corpus[pair]
        if not self._alpha:
            return source, target
        return self._sample(source, epoch, place, side=0), self._sample(target, epoch, place, side=1)

    def _sample(self, ids: npt.NDArray[np.integer], epoch: int, place: int, *, side: int) -> list[int]:
        key = f"{self._seed} {epoch} {place} {side}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
        subword = self._subwords[side]
        return subword.sample(subword.decode(ids.tolist()), self._alpha, seed)


def _leave_signals_to_the_trainer(_: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; the trainer saves, then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
