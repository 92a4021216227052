"""What searches batches: the protocol, and worker processes. Nothing here imports torch; `model_searcher` does.

A translator cuts sentences into batches and takes hypotheses; which models search, and in which process, on which
device, is the searcher's business.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from nmtcli.data.parallel import workers
from nmtcli.search.host import Hypothesis, SearchBatch, rounded_up

Found = list[list[Hypothesis]]  # of each sentence of a batch, best first


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """How large the batches of a searcher should be.

    Attributes:
        hypotheses: of each sentence: the beam, or the samples.
        tokens: sentences times hypotheses times longest source, unless the user wants another number [tokens].
        at_once: batches that are searched at the same time.
        pads_rows: the rows of a batch are padded to `rounded_up`.
    """

    hypotheses: int
    tokens: int
    at_once: int = 1
    pads_rows: bool = False

    def full(self, sentences: int) -> int:
        """Largest batch up to `sentences` that needs no padding rows."""
        if not self.pads_rows:
            return sentences
        return max(number for number in range(1, sentences + 1) if rounded_up(number) == number)


class Searcher(Protocol):
    """Finds the hypotheses of sentences."""

    @property
    def sizes(self) -> BatchSizes:
        """How large batches should be."""

    def search(self, batch: SearchBatch) -> Found:
        """For each sentence its hypotheses, best first."""

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """`search` of each batch, in their order; as many at the same time as the searcher can."""


class WorkerSearcher:
    """Shares batches among worker processes, which are those of `data.parallel.workers`.

    Args:
        answers: sends batches to the workers, and gives their hypotheses in the order of the batches.
        sizes: see `Searcher`.
    """

    def __init__(self, answers: Callable[[Iterable[SearchBatch]], Iterator[Found]], sizes: BatchSizes) -> None:
        self._answers = answers
        self.sizes = sizes

    def search(self, batch: SearchBatch) -> Found:
        """See `Searcher`."""
        (found,) = self._answers([batch])
        return found

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """See `Searcher`."""
        return self._answers(batches)


@contextmanager
def worker_searcher(makers: Sequence[Callable[[], Searcher]], sizes: BatchSizes) -> Iterator[Searcher]:
    """Worker processes that end with the block.

    Args:
        makers: for each worker, what makes its searcher there when its first batch comes; it must pickle.
        sizes: of one such searcher.
    """
    with workers([_InWorker(maker) for maker in makers]) as answers:
        yield WorkerSearcher(answers, replace(sizes, at_once=len(makers)))


@dataclass(frozen=True)
class _InWorker:
    """What a worker does with each batch."""

    maker: Callable[[], Searcher]

    def __call__(self, batch: SearchBatch) -> Found:
        """The hypotheses of each sentence."""
        return self._searcher.search(batch)

    @cached_property
    def _searcher(self) -> Searcher:
        return self.maker()
