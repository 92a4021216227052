"""Run a function on the machines of a Ray cluster, as parallel.py does in the processes of one machine.

Each actor holds the function and up to two queued items, so that it need not wait for the next item. If an actor's
machine is lost, the actor restarts on another machine and processes its items again; this is safe because a result
depends only on its item. Every machine needs the same version of nmtcli. Only the calling process reads and writes
files.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from nmtcli.errors import ConfigError, NmtError, WorldError

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_A_TIME = 2  # maximum number of items queued per actor
RETRIES = 3  # maximum number of retries of an item, and of restarts of an actor


def in_order_on_ray(
    function: Callable[[Item], Result], items: Iterable[Item], actors: int, address: str
) -> Generator[Result, None, None]:
    """Yield the function's result for each item, computed by Ray actors, in the order of the items.

    The actors are killed when the generator ends or fails.

    Args:
        function: the function to apply, sent to each actor once; the function and the items must be picklable.
        items: consumed lazily, no faster than the results.
        actors: number of actors; 0: one per core of the cluster.
        address: address of the cluster, as for `ray.init`; empty: the address in the environment variable
            RAY_ADDRESS if it is set, otherwise a local cluster on this machine.

    Raises:
        ConfigError: Ray is not installed.
        NmtError: raised by the function.
        WorldError: the cluster cannot be reached, or an item failed after all retries.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray, which is not installed", "pip install nmtcli[ray]") from error

    began = not ray.is_initialized()
    try:
        if began:
            ray.init(address=address or None, log_to_driver=False, logging_level="error")
        count = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
        actor_class = ray.remote(_Actor)
        held = ray.put(function)
        team = deque(
            actor_class.options(num_cpus=1, max_restarts=RETRIES, max_task_retries=RETRIES).remote(held)
            for _ in range(count)
        )
        try:
            under_way: deque[Any] = deque()
            for item in items:
                if len(under_way) == AT_A_TIME * count:
                    yield _received(ray.get(under_way.popleft()))
                under_way.append(team[0].work.remote(item))
                team.rotate(-1)
            while under_way:
                yield _received(ray.get(under_way.popleft()))
        finally:
            for actor in team:
                ray.kill(actor)
    except (ConnectionError, ray.exceptions.RayError) as error:
        message = " ".join(str(error).split())
        raise WorldError(
            f"Ray at {address or 'this machine'} failed ({message:.200})", "Run the same command again to resume"
        ) from error
    finally:
        if began:
            ray.shutdown()


class _Actor:
    """A Ray actor (a process on the cluster) that applies the function to items."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def work(self, item: Any) -> Any:
        """Return the function's result for an item; an NmtError is returned, not raised."""
        try:
            return self._function(item)
        except NmtError as error:
            return error


def _received(result: Any) -> Any:
    if isinstance(result, NmtError):
        raise result
    return result
