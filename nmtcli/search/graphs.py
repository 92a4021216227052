"""Search in CUDA graphs: several steps are replayed at once, so that small steps do not wait for kernel launches.

A graph has fixed shapes, so searches are padded to keep the number of distinct shapes small: the number of rows and the
source and target lengths are rounded up, by a fifth on average. Finished sentences stay in the batch until the batch
can shrink to the next smaller shape. The first search with a new shape runs without a graph; the second captures one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nmtcli.search.host import rounded_up
from nmtcli.search.rules import BeamState, Runner, S

KEPT = 32  # maximum number of graphs; the least recently used graph is dropped


def tensors_of(tree: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, depth first."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from tensors_of(part)


def shape_of(tree: object) -> object:
    """Return the key under which a call is captured: its inputs, with each tensor replaced by its shape and dtype."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    return tuple(shape_of(part) for part in tree) if isinstance(tree, tuple) else tree


def copied(tree: Any) -> Any:
    """Return a copy of nested tuples, with every tensor cloned."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, tuple):
        parts = [copied(part) for part in tree]
        return tree.__class__(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


class Graphs(Runner):
    """A runner that takes `steps` steps at a time in CUDA graphs.

    Args:
        captures_starts: if True, the computation of the initial state is captured too; all shapes in this computation
            must then depend only on the shape of the source.

    Attributes:
        captured_starts: graphs that compute the initial state, one for each shape.
        captured_steps: graphs that take `steps` steps, one for each shape.
    """

    steps = 8
    is_fixed = True

    def __init__(self, *, captures_starts: bool = True) -> None:
        self.captured_starts = CapturedCalls()
        self.captured_steps = CapturedCalls()
        self._captures_starts = captures_starts

    def rows(self, sentences: int) -> int:
        """Return the number of rows: the number of sentences, rounded up."""
        return rounded_up(sentences)

    def width(self, source: int) -> int:
        """Return the length to which sources are padded: that of the longest source, rounded up [tokens]."""
        return rounded_up(source)

    def capacity(self, longest: int) -> int:
        """Return the initial capacity of the history: the maximum length plus one replay, rounded up [steps]."""
        return rounded_up(longest + self.steps)

    def begin(self, start: Callable[[Tensor, Tensor], S], source_BS: Tensor, mask_BS: Tensor) -> S:
        """Return the initial state, `start(source_BS, mask_BS)`; use a graph if starts are captured."""
        if not self._captures_starts:
            return start(source_BS, mask_BS)

        def begun(inputs: tuple[Tensor, Tensor]) -> S:
            return start(*inputs)

        state: S = self.captured_starts.call(begun, (source_BS, mask_BS))
        return state

    def run(self, step: Callable[[BeamState[S]], BeamState[S]], state: BeamState[S]) -> BeamState[S]:
        """Take `steps` steps in one graph; return the state after them."""

        def take_steps(before: BeamState[S]) -> BeamState[S]:
            for _ in range(self.steps):
                before = step(before)
            return before

        after: BeamState[S] = self.captured_steps.call(take_steps, state, in_place=True)
        return after


class CapturedCalls:
    """CUDA graphs of one function, one graph for each input shape; the graphs share a memory pool.

    The first call with a new shape runs without a graph; the second captures one. `len()` returns the number of graphs.
    """

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._graphs: OrderedDict[object, CapturedCall] = OrderedDict()
        self._last: CapturedCall | None = None
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def call(self, function: Callable[[Any], Any], inputs: Any, *, in_place: bool = False) -> Any:
        """Call the function or replay its graph; return the outputs, which are valid until the next call.

        Args:
            function: maps nested tuples of tensors to nested tuples of tensors. All calls must pass the same function,
                except that the tensors it holds may be replaced by tensors with equal values.
            inputs: a tensor, or nested tuples of tensors and hashable values.
            in_place: if True, a replay leaves its outputs in the input tensors of the graph, so that nothing is copied
                when the caller passes these outputs as the next inputs; they must have the same shapes as the inputs.
        """
        if in_place and self._last and self._last.outputs is inputs:  # skip the key: shapes are unchanged
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
    """The CUDA graph of one function for one input shape, captured on a copy of the inputs.

    Args:
        function: maps nested tuples of tensors to nested tuples of tensors. A reference is kept, so that the weights
            that the graph reads stay alive.
        inputs: example inputs; `replay` takes inputs of the same shapes.
        pool: memory pool for the graph.
        in_place: if True, a replay writes the outputs back to the input tensors, where the next replay reads them.
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
        """Replay the graph with these inputs; return the outputs, which the next replay overwrites."""
        _copy(inputs, self._inputs)
        self._graph.replay()
        return self.outputs


def _copy(source: Any, target: Any) -> None:
    for new, old in zip(tensors_of(source), tensors_of(target), strict=True):
        if old is not new:
            old.copy_(new)
