"""From pairs of ids to padded batches: token budget, length buckets, seeded order, and a position to resume from.

For a given corpus and token budget, the plan of an epoch depends only on the seed and the epoch's number: the pairs
are shuffled, sorted by length within windows, and cut into batches within the budget; then the batches are shuffled. A
run that resumes at batch 17 of epoch 3 therefore sees the same batches as an uninterrupted run.

An epoch of more than a million pairs is a sequence of blocks, each planned when it begins, so that the plan of a whole
epoch is never in memory. A block consists of up to 64 stretches of 16,384 neighbouring pairs; the stretches come from
all over the corpus and are drawn anew in each epoch. Each pair is still seen exactly once per epoch (unless several
corpora are mixed; see mixture.py). Within a block, the pairs are fully shuffled before they are sorted and cut into
batches. Pairs that are neighbours in the corpus mostly fall into the same block, among the pairs of up to 63 other
stretches.
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

WINDOW = 1 << 17  # size of the windows that are sorted by length [pairs]
BLOCK = 1 << 20  # size of the blocks that are planned as a whole [pairs]
NEIGHBOURS = 1 << 14  # length of the runs of neighbours that make up a block [pairs]
# Matrix products are compiled for each batch shape; these two constants keep the number of shapes small.
LENGTHS = 2  # both sides of a batch are padded to a multiple of this [tokens]
SENTENCES = 8  # training batches of at least twice this size are rounded down to a multiple of it [sentences]

Ids = Sequence[int] | npt.NDArray[np.integer]
Whole = TypeVar("Whole", int, npt.NDArray[np.int64])


@dataclass(frozen=True)
class Batch:
    """A batch of sentence pairs of similar length, padded on the right to a multiple of LENGTHS.

    Attributes:
        source_BS: source ids, each sentence ending in EOS.
        source_mask_BS: True on real tokens, False on padding.
        target_input_BT: decoder inputs: BOS, then the target sentence without EOS.
        target_output_BT: decoder labels: the target sentence, ending in EOS.
        target_mask_BT: True on real tokens, False on padding; applies to both target tensors.
        source_tokens, target_tokens: number of real tokens on each side, EOS counted [tokens].
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
        """Make a batch from (source ids, target ids) pairs, each side ending in EOS."""
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
        """Split a batch of at least two sentences into halves, each with only the padding that its sentences need."""
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
        """Return the batch, moved to `device`."""
        return self if device.type == "cpu" else self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, for non-blocking copies to a GPU (DataLoader calls this)."""
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
    """Pad sentences on the right to one common length, a multiple of `multiple` [tokens].

    Returns:
        ids_BS, and mask_BS, which is True on real tokens.

    >>> padded([[7, 3], [3]])[0].tolist()
    [[7, 3], [3, 0]]
    """
    lengths = np.array([len(sentence) for sentence in sentences])
    mask_BS = np.arange(_up(lengths.max(), multiple)) < lengths[:, None]
    ids_BS = np.full(mask_BS.shape, PAD, dtype=np.int64)
    ids_BS[mask_BS] = np.concatenate([np.asarray(sentence) for sentence in sentences])
    return torch.from_numpy(ids_BS), torch.from_numpy(mask_BS)


def _up(number: Whole, multiple: int) -> Whole:
    """Round `number` up to a multiple of `multiple`."""
    return -(-number // multiple) * multiple


def cut(
    order: npt.NDArray[np.int64], longest: npt.NDArray[np.int64], batch_tokens: int, sentences: int = 1
) -> list[npt.NDArray[np.int64]]:
    """Cut a sequence of pairs into batches; return an array of pair indices for each batch.

    Args:
        order: pair indices, with pairs of similar length next to each other.
        longest: length of the longer side of each pair, by pair index [tokens].
        batch_tokens: maximum of the number of sentences times the longest side in a batch, padding included [tokens];
            a single pair that exceeds this maximum becomes a batch of its own.
        sentences: a batch of at least twice this many sentences, unless it is the last batch, is reduced to a multiple
            of this number [sentences].
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
    """Plan the batches, in order, for an epoch or one of its blocks; each pair occurs exactly once.

    Args:
        source_lengths, target_lengths: length of each pair's source and target, EOS counted [tokens].
        batch_tokens: as for `cut`.
        seed, epoch, block: determine the random order; `block` is None if the epoch has only one block.
    Returns:
        an array for each batch: the indices, in `source_lengths`, of the pairs in the batch.
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
    """Return the pair indices, sorted so that neighbouring pairs have similar lengths on both sides.

    Pairs are sorted by padded target length. Pairs of equal target length are sorted by source length, in ascending
    and descending order alternately, so that the source length does not jump where the target length changes.
    """
    target = -(-target_lengths // LENGTHS)
    return np.lexsort((np.where(target % 2, source_lengths, -source_lengths), target))


def places_of_block(count: int, *, seed: int, epoch: int, block: int) -> npt.NDArray[np.int64]:
    """Return the places (positions in an epoch) that belong to a block, in ascending order.

    Args:
        count: number of places in the epoch; each place holds a pair (see mixture.py).
        seed, epoch: determine, together with the count, how the epoch is divided into blocks.
        block: index of the block, below `blocks_of(count)`.
    """
    if blocks_of(count) == 1:
        return np.arange(count)
    starts = np.random.default_rng([seed, epoch]).permutation(np.arange(0, count, NEIGHBOURS))
    own = np.sort(starts[block * BLOCK // NEIGHBOURS : (block + 1) * BLOCK // NEIGHBOURS])
    return np.concatenate([np.arange(start, min(start + NEIGHBOURS, count)) for start in own.tolist()])


def blocks_of(count: int) -> int:
    """Return the number of blocks in an epoch of `count` places."""
    return max(1, -(-count // BLOCK))


def batches_by_length(pairs: Sequence[tuple[Ids, Ids]], batch_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Cut pairs into batches of similar length, shortest first; return an array of pair indices for each batch."""
    source_lengths = np.array([len(source) for source, _ in pairs], dtype=np.int64)
    target_lengths = np.array([len(target) for _, target in pairs], dtype=np.int64)
    return cut(_by_length(source_lengths, target_lengths), np.maximum(source_lengths, target_lengths), batch_tokens)


class TrainingBatches:
    """The batches of the training corpus, epoch by epoch.

    Args:
        corpus: the training pairs as ids.
        source_subword, target_subword: the subword models, used to check the ids and to sample segmentations.
        batch_tokens: as for `cut`.
        seed: determines the order of the batches and the sampled segmentations.
        subword_alpha: strength of subword sampling (see `Subword.sample`); 0: no sampling, the ids on disk are used.
            The segmentation of a sentence depends only on the seed, the epoch and the place in the epoch.
        workers: number of processes that prepare batches; 0: this process prepares them.
        pin_memory: if True, put batches into page-locked memory, for non-blocking copies to a GPU.
        mixture: the pairs that make up an epoch; None: an epoch has each pair of the corpus once.
        share: (rank, ranks): yield only every `ranks`-th batch of a block, beginning with batch `rank`. Batches are
            counted from 0 at the point in the block where the stream starts. By default all batches are yielded.
    Attributes:
        blocks: number of blocks in an epoch.
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
        """Return the batches of a block; each is an array of places (positions in the epoch)."""
        if (epoch, block) not in self._plans:
            places = places_of_block(self._mixture.places, seed=self._seed, epoch=epoch, block=block)
            lengths = self._corpus.lengths(self._mixture.pairs(places, epoch))
            part = None if self.blocks == 1 else block
            batches = plan(*lengths, batch_tokens=self._batch_tokens, seed=self._seed, epoch=epoch, block=part)
            # Keep two plans: the loader is at most one block ahead of the trainer.
            before = (epoch, block - 1) if block else (epoch - 1, self.blocks - 1)
            self._plans = {part: one for part, one in self._plans.items() if part >= before}
            self._plans[epoch, block] = batches if self.blocks == 1 else [places[batch] for batch in batches]
        return self._plans[epoch, block]

    def shapes(self, epoch: int) -> list[tuple[int, int, int]]:
        """Return the shape (B, S, T) that each batch in the first block of an epoch has without subword sampling."""
        shapes = []
        for places in self.plan(epoch):
            source, target = self._corpus.lengths(self._mixture.pairs(places, epoch))
            shapes.append((len(places), _up(int(source.max()), LENGTHS), _up(int(target.max()), LENGTHS)))
        return shapes

    def tokens(self, epoch: int) -> int:
        """Count the source and target tokens that the first block of an epoch has without subword sampling."""
        numbers = (self._mixture.pairs(places, epoch) for places in self.plan(epoch))
        return sum(int(side.sum()) for pairs in numbers for side in self._corpus.lengths(pairs))

    def stream(self, epoch: int, start: int, block: int = 0) -> Iterator[Batch]:
        """Yield the batches of a block from batch `start` on, then the batches of all later blocks, endlessly.

        The worker processes live as long as the stream, so that there is no pause between two blocks.

        Raises:
            DirectoryError: the data directory is damaged.
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
            generator=torch.Generator(),  # otherwise the loader would use the global generator, as dropout does
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
    """Turn the death of a worker process of `TrainingBatches.stream` into a one-line error.

    Torch raises its error at whatever point the main process has reached, even while other contexts exit, so this
    context must enclose all others.

    Raises:
        WorldError: a worker process died.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: the worker's pipe is closed
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise WorldError(
            f"a process that prepares batches died ({str(error).splitlines()[0].strip()})",
            "It may have run out of memory; go on with --resume",
        ) from error


class _Batches(Dataset[Batch | DirectoryError]):
    """A dataset that makes the batch for a key (epoch, array of places)."""

    def __init__(
        self, corpus: Corpus, mixture: Mixture, subwords: tuple[Subword, Subword], seed: int, alpha: float
    ) -> None:
        self._corpus = corpus
        self._mixture = mixture
        self._subwords = subwords
        self._seed = seed
        self._alpha = alpha

    def __getitem__(self, key: tuple[int, npt.NDArray[np.int64]]) -> Batch | DirectoryError:
        """Make a batch. A DirectoryError is returned, not raised, because the loader would add a long traceback."""
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
                        f"the training {side} has id {highest:,}, but its vocabulary has {subword.size:,} pieces: "
                        "the data directory is damaged",
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
    """Ignore Ctrl-C and SIGTERM, which reach workers too: the trainer must save before it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
