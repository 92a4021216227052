"""Training that is killed at random moments, again and again, ends with the same bytes as an undisturbed run.

NMT_CHAOS_KILLS is the number of kills (`make chaos`: many). The command line is always the same, as with a scheduler.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import EVENTFUL, TINY, Nmt, trained_well
from tests.oracles import assert_same_run

KILLS = int(os.environ.get("NMT_CHAOS_KILLS", "3"))
UPDATES = 50 * KILLS  # enough that training does not end before the last kill


def test_a_run_that_is_killed_again_and_again_is_the_run_that_nothing_disturbed(
    nmt: Nmt, data: Path, tmp_path: Path
) -> None:
    options = [*EVENTFUL, "--max-updates", str(UPDATES), "--save-every", "1"]
    whole = trained_well(nmt, data, tmp_path / "whole", *options)
    model = tmp_path / "model"
    command = [sys.executable, "-m", "nmtcli", "train", "--data", data, "--model", model, *TINY, *options, "--resume"]
    rng = random.Random(KILLS)
    kills = in_saves = 0
    while kills < KILLS:
        with subprocess.Popen(
            [str(part) for part in command], stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            began = time.monotonic()
            alive_for = rng.choice((rng.uniform(0, 2), rng.uniform(2, 4), None))
            if alive_for is None:  # kill it while it writes
                while process.poll() is None and not list(model.rglob("*.tmp")) and time.monotonic() - began < 30:
                    time.sleep(0.0005)
            else:
                time.sleep(alive_for)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                in_saves += alive_for is None
            _, said = process.communicate()
            assert process.returncode == -signal.SIGKILL, said.decode()
    print(f"{kills} kills, {in_saves} of them while a file was written")
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for path in model.rglob("*.tmp"):  # left by a killed save; the next save of that name replaces it
        path.unlink()
    assert_same_run(model, whole)
