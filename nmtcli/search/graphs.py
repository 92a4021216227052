"""Steps of a search on a GPU, each replayed as one CUDA graph: a small step costs no more than its kernels.

A graph has fixed tensors, so a search is padded to shapes that come again: rows, source and target lengths are rounded
up, by a fifth on average. Finished sentences stay until there can be fewer rows. A shape that comes for the first time
runs without a graph; when it comes again, it is captured.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nmtcli.search.host import rounded_up
from nmtcli.search.rules import BeamState, Runner, S

KEPT = 32  # graphs: the least recently used go


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
    """Takes several steps at once.

    Args:
        captures_starts: the shapes of a first state depend on those of the source alone, so that it can be captured.

    Attributes:
        captured_starts, captured_steps: graphs of the first states, and of `steps` steps each.
    """

    steps = 8
    is_fixed = True

    def __init__(self, *, captures_starts: bool = True) -> None:
        self.captured_starts = CapturedCalls()
        self.captured_steps = CapturedCalls()
        self._captures_starts = captures_starts

    def rows(self, sentences: int) -> int:
        """See `Runner`."""
        return rounded_up(sentences)

    def width(self, source: int) -> int:
        """See `Runner`."""
        return rounded_up(source)

    def capacity(self, longest: int) -> int:
        """See `Runner`: enough, and as much as other searches have."""
        return rounded_up(longest + self.steps)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """See `Runner`."""
        if not self._captures_starts:
            return start(source_BS, mask_BS)

        def begun(inputs: tuple[Tensor, Tensor]) -> S:
            return start(*inputs)

        state: S = self.captured_starts.call(begun, (source_BS, mask_BS))
        return state

    def run(self, step: Callable[[BeamState[S]], BeamState[S]], state: BeamState[S]) -> BeamState[S]:
        """See `Runner`."""

        def take_steps(before: BeamState[S]) -> BeamState[S]:
            for _ in range(self.steps):
                before = step(before)
            return before

        after: BeamState[S] = self.captured_steps.call(take_steps, state, in_place=True)
        return after


class CapturedCalls:
    """CUDA graphs of one function, one for each shape of its inputs. They share the memory that they work in.

    A shape that comes for the first time runs without a graph; when it comes again, it is captured. `len` is the number
    of graphs.
    """

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._graphs: OrderedDict[object, CapturedCall] = OrderedDict()
        self._last: CapturedCall | None = None
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def call(self, function: Callable[[Any], Any], inputs: Any, *, in_place: bool = False) -> Any:
        """The function's outputs, which are valid until the next call.

        Args:
            function: from a tree of tensors to another; always the same but for tensors that have the same values.
            inputs: a tensor, or a tuple of tuples of tensors and of what else the call depends on.
            in_place: outputs have the shapes of inputs and are given back as inputs.
        """
        if in_place and self._last and self._last.outputs is inputs:  # the same shapes: the GPU waits less
            return self._last.replay(inputs)
        key = shape_of(inputs)
        if key not in self._graphs:
            if key not in self._seen or not torch.cuda.is_available():
                self._seen.add(key)
                return function(inputs)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._graphs[key] = CapturedCall(function, inputs, self._pool, in_place=in_place)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        self._last = self._graphs[key]
        return self._last.replay(inputs)


class CapturedCall:
    """The CUDA graph of a function, captured on inputs of its own.

    Args:
        function: from tensors to tensors; it is kept, and with it the weights that the graph reads.
        inputs: of the shapes to come.
        pool: of the memory to work in.
        in_place: outputs are written back to where the inputs are, so that they can go in again.
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
        """The outputs, which the next call overwrites."""
        _copy(inputs, self._inputs)
        self._graph.replay()
        return self.outputs


def _copy(source: Any, target: Any) -> None:
    for new, old in zip(tensors_of(source), tensors_of(target), strict=True):
        if old is not new:
            old.copy_(new)
