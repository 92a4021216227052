"""Run a function in worker processes; results come in the order of the items, and each process has one item at a time.

Each process has its own pipe, so that a process that crashes or is killed while writing does not block the others. (The
pools of the standard library share a queue and can hang for ever if a worker is killed or runs out of memory.)
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apart(function: Callable[[Item], Result], item: Item) -> Result:
    """Return the function's result for an item, computed in a separate process so that the memory it used is freed."""
    with closing(in_order(function, [item], 1)) as results:
        return next(results)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """Yield the function's result for each item, computed in worker processes, in the order of the items.

    The workers are killed when the generator ends or fails.

    Args:
        function: the function to apply, sent to each worker once; the function and the items must be picklable.
        items: consumed lazily, no faster than the results.
        processes: number of workers.

    Raises:
        NmtError: raised by the function.
        WorldError: a worker died.
    """
    with workers([function] * processes) as answers:
        yield from answers(items)


@contextmanager
def workers(functions: Sequence[Callable[[Item], Result]]) -> Iterator[Callable[[Iterable[Item]], Iterator[Result]]]:
    """Start workers and yield a function that maps items to results, in order; kill the workers on exit.

    The function may be called again for more items once all results of the previous call have been read.

    Args:
        functions: one function for each worker, which the worker applies to its items; any worker may get any item.

    Raises:
        NmtError, WorldError: as for `in_order`; raised while results are being read.
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
    """Start a process for each function and yield the connections to the processes; kill the processes on exit."""
    context = multiprocessing.get_context("spawn")  # a fork would copy our memory, and locks held by other threads
    connections, children = [], []
    multiprocessing.resource_tracker.ensure_running()  # otherwise the first start would unblock the signals
    # Children inherit the blocked signals, which reach the whole process group; the parent itself ends its children.
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
        pass  # the other end is closed: the main process has finished or died
