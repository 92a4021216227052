"""The protocol of searchers, and a searcher that runs worker processes. This module does not import torch.

A translator passes batches of sentences to a searcher and receives hypotheses; the searcher decides which models run,
in which process and on which device. The searcher that runs models in this process is in `model_searcher`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from nmtcli.data.parallel import workers
from nmtcli.search.host import Hypothesis, SearchBatch, rounded_up

Found = list[list[Hypothesis]]  # hypotheses of each sentence of a batch, best first


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """Preferred batch sizes of a searcher.

    Attributes:
        hypotheses: beam size, or number of samples per sentence.
        tokens: default of `--batch-tokens`, the maximum of sentences * hypotheses * longest source in a batch [tokens].
        at_once: number of batches searched in parallel.
        pads_rows: True if the searcher pads the number of rows in a batch to `rounded_up`.
    """

    hypotheses: int
    tokens: int
    at_once: int = 1
    pads_rows: bool = False

    def full(self, sentences: int) -> int:
        """Return the largest batch size, at most `sentences`, that needs no padding rows."""
        if not self.pads_rows:
            return sentences
        return max(number for number in range(1, sentences + 1) if rounded_up(number) == number)


class Searcher(Protocol):
    """Finds the hypotheses for source sentences."""

    @property
    def sizes(self) -> BatchSizes:
        """Preferred batch sizes of this searcher."""

    def search(self, batch: SearchBatch) -> Found:
        """Search one batch; return the hypotheses of each sentence, best first."""

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """Search batches, possibly in parallel; yield the hypotheses for each batch, in the order of the batches."""


class WorkerSearcher:
    """Distributes batches over worker processes (`data.parallel.workers`).

    Args:
        answers: function that sends batches to the workers and yields the hypotheses for each batch, in the order
            of the batches.
        sizes: preferred batch sizes of this searcher.
    """

    def __init__(self, answers: Callable[[Iterable[SearchBatch]], Iterator[Found]], sizes: BatchSizes) -> None:
        self._answers = answers
        self.sizes = sizes

    def search(self, batch: SearchBatch) -> Found:
        """Search one batch in one of the workers; return the hypotheses of each sentence, best first."""
        (found,) = self._answers([batch])
        return found

    def search_all(self, batches: Iterable[SearchBatch]) -> Iterator[Found]:
        """Search batches in all workers; yield the hypotheses for each batch, in the order of the batches."""
        return self._answers(batches)


@contextmanager
def worker_searcher(makers: Sequence[Callable[[], Searcher]], sizes: BatchSizes) -> Iterator[Searcher]:
    """Start worker processes, which exit at the end of the `with` block; yield a searcher that uses them.

    Args:
        makers: one picklable function for each worker; the worker calls it to make a searcher when the first batch
            arrives.
        sizes: preferred batch sizes of one worker's searcher.
    """
    with workers([_InWorker(maker) for maker in makers]) as answers:
        yield WorkerSearcher(answers, replace(sizes, at_once=len(makers)))


@dataclass(frozen=True)
class _InWorker:
    """The function that a worker applies to each batch."""

    maker: Callable[[], Searcher]

    def __call__(self, batch: SearchBatch) -> Found:
        """Search one batch; return the hypotheses of each sentence, best first."""
        return self._searcher.search(batch)

    @cached_property
    def _searcher(self) -> Searcher:
        return self.maker()
