"""Work on the machines of a Ray cluster: what parallel.py does with processes of one machine, by the same functions.

Each actor holds the function, and two items at a time so that it need not wait for the next. An actor whose machine
is lost starts again elsewhere, and its items are done again: they depend on nothing but themselves. Every machine needs
the same nmtcli; files are read and written by the caller alone.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from nmtcli.errors import ConfigError, NmtError, WorldError

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_A_TIME = 2  # items of an actor
RETRIES = 3  # of an item, and starts of an actor


def in_order_on_ray(
    function: Callable[[Item], Result], items: Iterable[Item], actors: int, address: str
) -> Generator[Result, None, None]:
    """What the function makes of each item, in their order. The actors end when the generator does, however it ends.

    Args:
        function: sent to each actor once; it and the items must pickle.
        items: read only as fast as results are taken.
        actors: 0: one for each core of the cluster.
        address: as `ray.init` takes it; empty: RAY_ADDRESS where it is set, else a cluster of this machine alone.

    Raises:
        ConfigError: Ray is not installed.
        NmtError: the one that the function raised.
        WorldError: the cluster cannot be reached, or lost an item for good.
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
        said = " ".join(str(error).split())
        raise WorldError(
            f"Ray at {address or 'this machine'} failed ({said:.200})", "The same command goes on"
        ) from error
    finally:
        if began:
            ray.shutdown()


class _Actor:
    """A process of the cluster that holds the function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def work(self, item: Any) -> Any:
        """What the function makes of the item; an error of a user's is given rather than raised."""
        try:
            return self._function(item)
        except NmtError as error:
            return error


def _received(result: Any) -> Any:
    if isinstance(result, NmtError):
        raise result
    return result
