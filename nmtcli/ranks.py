"""Environment variables that launchers set for distributed training; no other module reads them.

| variable | set by | meaning |
|---|---|---|
| RANK | torchrun, `nmt train --nproc`, some schedulers | rank of this process among all processes, from 0 |
| WORLD_SIZE | as for RANK | total number of processes |
| LOCAL_RANK | torchrun, `--nproc` | rank of this process on its machine, from 0; also its GPU's index |
| LOCAL_WORLD_SIZE | torchrun, `--nproc` | number of processes on this machine, which share its cores |
| MASTER_ADDR, MASTER_PORT | as for RANK | address of the process with rank 0 |
| TORCHELASTIC_USE_AGENT_STORE | torchrun, `--nproc` | "True": the launcher hosts the rendezvous store |
| TORCHELASTIC_RESTART_COUNT | torchrun, `--nproc` | number of restarts before this attempt |
| TORCHELASTIC_ERROR_FILE | torchrun, `--nproc` | file in which a failing process leaves its error for the launcher |
| NMT_SAYS_TO_LAUNCHER | `nmt train --nproc` | if set, the launcher, not the process, prints the error in that file |

`--nproc` uses torch's launcher, as torchrun does, so both set the same variables. This module needs the
standard library only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nmtcli.errors import ConfigError

_SAYS_TO_LAUNCHER = "NMT_SAYS_TO_LAUNCHER"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStore:
    """The rendezvous store that torch's launcher hosts for its processes.

    Attributes:
        host, port: address of the store.
        attempt: number of this attempt to run the processes, from 0, as a string; all attempts share one store.
    """

    host: str
    port: int
    attempt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnvironment:
    """Settings that a process gets from its launcher; the defaults are for a process without a launcher.

    Attributes:
        rank: rank of this process among all processes, from 0.
        world_size: number of processes that train together.
        local_rank: rank of this process on its machine, from 0; None if the launcher did not set it.
        local_world_size: number of processes on this machine.
        is_launched: True if a launcher started this process, even as the only process.
        agent_store: the launcher's rendezvous store; None: use torch's default rendezvous.
        error_file: file for this process's error, which the launcher prints; empty: the process prints its own error.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = None
    local_world_size: int = 1
    is_launched: bool = False
    agent_store: AgentStore | None = None
    error_file: str = ""

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> "RankEnvironment":
        """Read the settings from environment variables.

        Raises:
            ConfigError: the value of a variable is not a whole number where one is required.
        """
        agent_store = None
        if variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            agent_store = AgentStore(
                host=variables.get("MASTER_ADDR", ""),
                port=_number(variables, "MASTER_PORT", 0),
                attempt=variables.get("TORCHELASTIC_RESTART_COUNT", "0"),
            )
        return cls(
            rank=_number(variables, "RANK", 0),
            world_size=_number(variables, "WORLD_SIZE", 1),
            local_rank=_number(variables, "LOCAL_RANK", 0) if variables.get("LOCAL_RANK") else None,
            local_world_size=_number(variables, "LOCAL_WORLD_SIZE", 1),
            is_launched="RANK" in variables,
            agent_store=agent_store,
            error_file=variables.get("TORCHELASTIC_ERROR_FILE", "") if variables.get(_SAYS_TO_LAUNCHER) else "",
        )


def environment() -> RankEnvironment:
    """Read the settings of this process from its environment.

    Raises:
        ConfigError: the value of a variable is not a whole number where one is required.
    """
    return RankEnvironment.from_environ(os.environ)


def leave_errors_to_launcher() -> None:
    """Make the processes launched from this process leave their errors in a file instead of printing them."""
    os.environ[_SAYS_TO_LAUNCHER] = "1"


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        what = f"the environment variable {name} must be a whole number, but is {text}"
        raise ConfigError(what, "Unset it, or use a launcher such as torchrun") from None
