import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nmtcli.data.parallel import apart, in_order
from nmtcli.errors import DataError, WorldError

# What processes run: they import this page, so that these must be functions of it.


def squared_slowly(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def doubled_bytes(data: bytes) -> bytes:
    return data + data


def refuse(number: int) -> int:
    if number == 3:
        raise DataError(f"{number} is too much", "Take 2")
    return number


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def process_id(_: object) -> int:
    return os.getpid()


def stop_signals(_: object) -> set[int]:
    return {int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


@pytest.mark.parametrize("processes", [1, 3])
def test_results_are_in_the_order_of_the_items(processes: int) -> None:
    assert list(in_order(squared_slowly, range(10), processes)) == [number * number for number in range(10)]


def test_items_are_read_only_as_fast_as_results_are_taken() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with closing(in_order(squared_slowly, items(), 2)) as results:
        for taken in range(5):
            assert next(results) == taken * taken
            assert len(read) <= taken + 3


def test_items_and_results_larger_than_a_pipe_go_through() -> None:
    items = [bytes([number]) * 3_000_000 for number in range(4)]
    assert list(in_order(doubled_bytes, items, 2)) == [item + item for item in items]


def test_an_error_of_ours_arrives_as_it_was_raised() -> None:
    results = in_order(refuse, range(5), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError) as refused:
        next(results)
    assert (refused.value.what, refused.value.mend) == ("3 is too much", "Take 2")


def test_a_dead_process_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(WorldError, match="a worker process died"):
        list(in_order(die, range(10), 2))


def exit_with_a_block(_: bytes) -> bytes:
    os._exit(1)


def test_an_item_too_large_for_a_dead_process_is_an_error_too() -> None:
    with pytest.raises(WorldError, match="a worker process died"):
        list(in_order(exit_with_a_block, [b"a block" * 2 * 10**6] * 3, 1))


@pytest.mark.parametrize("taken", [1, 3])
def test_processes_end_with_the_results(taken: int) -> None:
    with closing(in_order(process_id, range(9), 2)) as results:
        started = {next(results) for _ in range(taken)}
    for one in started:
        with pytest.raises(ProcessLookupError):
            os.kill(one, 0)


def test_work_apart_is_done_by_another_process() -> None:
    assert apart(process_id, None) != os.getpid()
    with pytest.raises(DataError, match="3 is too much"):
        apart(refuse, 3)


def test_signals_to_the_group_do_not_reach_a_worker_and_still_reach_us() -> None:
    assert {signal.SIGINT, signal.SIGTERM} <= apart(stop_signals, None)
    assert not {signal.SIGINT, signal.SIGTERM} & stop_signals(None)


def test_a_process_does_not_outlive_a_main_process_that_is_killed(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys, time; from nmtcli.data.parallel import in_order; from tests.data.test_parallel import process_id\n"
        "if __name__ == '__main__':\n"
        "    results = in_order(process_id, iter([0, 1]), 1); print(next(results), flush=True); time.sleep(60)\n"
    )
    (tmp_path / "main.py").write_text(script)
    root = str(Path(__file__).parents[2])
    running = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert running.stdout is not None
    worker = int(running.stdout.readline())
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 30
    while _is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # an orphan that nobody has waited for is dead too
