"""Steps of a search on a GPU, each replayed as one CUDA graph: a small step costs no more than its kernels.

A graph has fixed tensors, so a search is padded to shapes that come again: rows, source and target lengths are rounded
up, by a fifth on average. What is done stays until half of the rows can go. A shape that comes for the first time runs
without a graph; then it is captured.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nmtcli.search.beam import Progress, Runner, S

KEPT = 32  # graphs: the least recently used go


def rounded_up(number: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 and so on.

    >>> [rounded_up(number) for number in (1, 5, 17, 100)]
    [1, 6, 24, 128]
    """
    power = 1 << (number - 1).bit_length()
    return power * 3 // 4 if power >= 4 and number <= power * 3 // 4 else power


def tensors_of(tree: object) -> Iterator[Tensor]:
    """The tensors in a tuple of tuples, in their order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from tensors_of(part)


def shape_of(tree: object) -> object:
    """What a captured call depends on: the shapes and types of tensors, and everything else."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    return tuple(shape_of(part) for part in tree) if isinstance(tree, tuple) else tree


def copied(tree: Any) -> Any:
    """The same tuple of tuples with tensors of its own."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, tuple):
        parts = [copied(part) for part in tree]
        return tree.__class__(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


class Graphs(Runner):
    """Goes on by several steps at once."""

    steps = 8
    is_fixed = True

    def __init__(self) -> None:
        self._starts = _Kept()
        self._steps = _Kept()

    def rows(self, sentences: int) -> int:
        """See `Runner`."""
        return rounded_up(sentences)

    def full(self, sentences: int) -> int:
        """See `Runner`."""
        return max(number for number in range(1, sentences + 1) if rounded_up(number) == number)

    def width(self, source: int) -> int:
        """See `Runner`."""
        return rounded_up(source)

    def capacity(self, longest: int) -> int:
        """See `Runner`: enough, and as much as other searches have."""
        return rounded_up(longest + self.steps)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """See `Runner`."""

        def begun(inputs: tuple[Tensor, Tensor]) -> S:
            return start(*inputs)

        state: S = self._starts.call(begun, (source_BS, mask_BS))
        return state

    def run(self, step: Callable[[Progress[S]], Progress[S]], progress: Progress[S]) -> Progress[S]:
        """See `Runner`."""

        def some_steps(before: Progress[S]) -> Progress[S]:
            for _ in range(self.steps):
                before = step(before)
            return before

        after: Progress[S] = self._steps.call(some_steps, progress, in_place=True)
        return after


class _Kept:
    """Captured calls of one function, by the shapes of what it is given. They share the memory that they work in."""

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._graphs: OrderedDict[object, _Graph] = OrderedDict()
        self._last: _Graph | None = None
        self._pool: Any = None

    def call(self, function: Callable[[Any], Any], inputs: Any, *, in_place: bool = False) -> Any:
        """What the function gives; it stands until the next call."""
        if in_place and self._last and self._last.outputs is inputs:  # the same shapes: the GPU waits less
            return self._last.replay(inputs)
        key = shape_of(inputs)
        if key not in self._graphs:
            if key not in self._seen or not torch.cuda.is_available():
                self._seen.add(key)
                return function(inputs)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._graphs[key] = _Graph(function, inputs, self._pool, in_place=in_place)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        self._last = self._graphs[key]
        return self._last.replay(inputs)


class _Graph:
    """A function captured on inputs of its own.

    Args:
        function: from tensors to tensors; it is kept, and with it the weights that the graph reads.
        inputs: of the shapes to come.
        pool: of the memory to work in.
        in_place: what comes out goes back to where the inputs are, so that it can go in again.
    """

    def __init__(self, function: Callable[[Any], Any], inputs: Any, pool: Any, *, in_place: bool) -> None:
        self._function = function
        self._inputs = copied(inputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = function(self._inputs)
            if in_place:
                _copy(self.outputs, self._inputs)
                self.outputs = self._inputs

    def replay(self, inputs: Any) -> Any:
        """What comes out; it is overwritten by the next call."""
        _copy(inputs, self._inputs)
        self._graph.replay()
        return self.outputs


def _copy(source: Any, target: Any) -> None:
    for new, old in zip(tensors_of(source), tensors_of(target), strict=True):
        if old is not new:
            old.copy_(new)
