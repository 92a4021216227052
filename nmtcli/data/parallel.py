"""Run a function in worker processes: results come in the order of the items, with one item per process in memory.

Each process has a pipe of its own, so that a process that dies, or is killed while it writes, blocks no other. (The
pools of the standard library share a queue: they can hang for good if a worker is killed or runs out of memory.)
"""

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from nmtcli.errors import NmtError, WorldError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apart(function: Callable[[Item], Result], item: Item) -> Result:
    """Return the function's result for an item, computed in a process of its own so that its memory is freed."""
    with closing(in_order(function, [item], 1)) as results:
        return next(results)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """Yield the function's result for each item, in order. The processes are killed when the generator ends or fails.

    Args:
        function: sent to each process once; the function and the items must be picklable.
        items: read only as fast as results are taken.

    Raises:
        NmtError: the error that the function raised.
        WorldError: a process died.
    """
    with workers([function] * processes) as answers:
        yield from answers(items)


@contextmanager
def workers(functions: Sequence[Callable[[Item], Result]]) -> Iterator[Callable[[Iterable[Item]], Iterator[Result]]]:
    """Start processes for several lists of items, one list after the other; yield a function from items to results.

    Args:
        functions: one for each process; any process may get any item.

    Raises:
        NmtError, WorldError: as for `in_order`, while results are taken.
    """
    with _started(functions) as connections:

        def answers(items: Iterable[Item]) -> Iterator[Result]:
            idle = deque(connections)
            busy: deque[Connection[Any, Any]] = deque()
            for item in items:
                if not idle:
                    yield _received(busy[0])
                    idle.append(busy.popleft())
                _send(idle[0], item)
                busy.append(idle.popleft())
            while busy:
                yield _received(busy.popleft())

        yield answers


def _send(connection: "Connection[Any, Any]", item: object) -> None:
    try:
        connection.send(item)
    except ConnectionError as error:
        raise _death() from error


def _received(connection: "Connection[Any, Any]") -> Any:
    try:
        result = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise _death() from error
    if isinstance(result, NmtError):
        raise result
    return result


def _death() -> WorldError:
    return WorldError("a worker process died", "It may have run out of memory: use fewer --workers")


@contextmanager
def _started(functions: Sequence[Callable[[Any], Any]]) -> Iterator[list["Connection[Any, Any]"]]:
    """Start processes that wait for items; yield the connections to them."""
    context = multiprocessing.get_context("spawn")  # a fork would copy our memory, and locks that other threads hold
    connections, children = [], []
    multiprocessing.resource_tracker.ensure_running()  # otherwise the first start would unblock the signals
    # Children inherit the blocked signals: these reach the whole process group, but the parent ends its children.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        for function in functions:
            ours, theirs = context.Pipe()
            child = context.Process(target=_work, args=(theirs, function), daemon=True)
            child.start()
            theirs.close()
            connections.append(ours)
            children.append(child)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        yield connections
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        for connection, child in zip(connections, children, strict=True):
            connection.close()
            child.kill()
            child.join()


def _work(connection: "Connection[Any, Any]", function: Callable[[Any], Any]) -> None:
    try:
        while True:
            item = connection.recv()
            try:
                result = function(item)
            except NmtError as error:
                result = error
            connection.send(result)
    except (EOFError, ConnectionError):
        pass  # the other end is closed: the main process is done, or dead
