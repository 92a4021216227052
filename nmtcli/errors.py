"""Errors that a user can mend: one line on stderr, and an exit code by kind.

| exit | kind | class |
|---|---|---|
| 2 | usage or configuration | ConfigError |
| 3 | input data | DataError |
| 4 | a data or model directory | DirectoryError |
| 5 | training cannot go on | TrainingError |
| 6 | the world outside: disk, permission, workers | WorldError |
| 130, 143 | interrupted (Ctrl-C), terminated (SIGTERM), after saving | Stopped |

Anything else that reaches the top is a bug of ours: a traceback, and exit 1. A reader of stdout that goes away ends
the command silently with 141, as it ends any filter.
"""

import os


class NmtError(Exception):
    """A user's mistake or the world's, said in one line: `Error: <what>. <mend>.`

    Args:
        what: what is wrong, with the value and the place; no full stop at the end.
        mend: what the user can do; no full stop at the end. May be empty.
    """

    exit_code = 1

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        sentences = [self.what, self.mend] if self.mend else [self.what]
        return " ".join(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in sentences)


class ConfigError(NmtError):
    """Options or a recipe that cannot be."""

    exit_code = 2


class DataError(NmtError):
    """Input text that cannot be used."""

    exit_code = 3


class DirectoryError(NmtError):
    """A data or model directory that is missing, damaged or not what it should be."""

    exit_code = 4


class TrainingError(NmtError):
    """Training that cannot go on."""

    exit_code = 5


class WorldError(NmtError):
    """Disk full, no permission, a dead worker."""

    exit_code = 6


class RankError(NmtError):
    """One of several processes that train together has failed.

    Args:
        rank: its number.
        exit_code: what it ended with; negative: killed by this signal.
        said: its error; empty if it could say nothing.
    """

    def __init__(self, rank: int, exit_code: int, said: str) -> None:
        host = os.uname().nodename
        what = said or f"was killed by signal {-exit_code}" if exit_code < 0 else said or f"ended with {exit_code}"
        super().__init__(f"rank {rank} on {host}: {what}", "" if said else "Go on with --resume")
        self.exit_code = exit_code if exit_code > 0 else WorldError.exit_code


class Stopped(NmtError):
    """Training that was told to stop by a signal, and saved before it did.

    Args:
        signal_number: 2 (SIGINT) or 15 (SIGTERM); the exit code is 128 more, as in any shell.
    """

    def __init__(self, signal_number: int, what: str, mend: str = "") -> None:
        super().__init__(what, mend)
        self.exit_code = 128 + signal_number
