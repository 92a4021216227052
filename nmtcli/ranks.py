"""The environment of one process among several that train together; no other module reads these variables.

| variable | set by | meaning |
|---|---|---|
| RANK | torchrun, `nmt train --nproc`, some schedulers | number of this process among all, from 0 |
| WORLD_SIZE | the same | how many processes there are |
| LOCAL_RANK | torchrun, `--nproc` | number of this process among those of its machine, from 0: its GPU |
| LOCAL_WORLD_SIZE | torchrun, `--nproc` | how many processes its machine has: they share the cores |
| MASTER_ADDR, MASTER_PORT | the same as RANK | where the first process is found |
| TORCHELASTIC_USE_AGENT_STORE | torchrun, `--nproc` | "True": the launcher keeps the store of addresses |
| TORCHELASTIC_RESTART_COUNT | torchrun, `--nproc` | which attempt this is, from 0 |
| TORCHELASTIC_ERROR_FILE | torchrun, `--nproc` | a process that fails writes its error here, for the launcher |
| NMT_SAYS_TO_LAUNCHER | `nmt train --nproc` | the launcher prints the error of that file, so the process prints none |

`--nproc` starts processes by torch's launcher, which is also torchrun's; so both set the same. Standard library only.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nmtcli.errors import ConfigError

_SAYS_TO_LAUNCHER = "NMT_SAYS_TO_LAUNCHER"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStore:
    """The store that torch's launcher keeps for the processes it started.

    Attributes:
        host, port: where it listens.
        attempt: number of the attempt, from 0, as text; the launcher keeps one store for all of them.
    """

    host: str
    port: int
    attempt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnvironment:
    """What a launcher has told this process; the defaults are those of a process that nobody launched.

    Attributes:
        rank: its number among all, from 0.
        world_size: how many processes train together.
        local_rank: its number among those of its machine, from 0; None if nobody said.
        local_world_size: how many processes its machine has.
        is_launched: a launcher started it, be it alone.
        agent_store: where processes find each other; None if torch's own way does.
        error_file: where it leaves its error for a launcher that prints it; empty if it prints the error itself.
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
        """Read the environment of a process.

        Raises:
            ConfigError: a number is not one.
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
    """Read the environment of this process.

    Raises:
        ConfigError: a number is not one.
    """
    return RankEnvironment.from_environ(os.environ)


def leave_errors_to_launcher() -> None:
    """Tell the processes that this one will launch to leave their errors in a file rather than to print them."""
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
