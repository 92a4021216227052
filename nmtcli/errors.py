"""Errors that a user can fix, each reported in one line on stderr, with an exit code for each kind.

| exit | kind | class |
|---|---|---|
| 2 | usage or configuration | ConfigError |
| 3 | input data | DataError |
| 4 | a data or model directory | DirectoryError |
| 5 | training cannot continue | TrainingError |
| 6 | the system: disk, permissions, workers | WorldError |
| 130, 143 | interrupted (Ctrl-C) or terminated (SIGTERM), after saving | Stopped |

Any other exception is a bug in nmt, and gives a traceback and exit code 1. If the reader of stdout closes the pipe, the
command exits silently with 141, like any filter.
"""

import os


class NmtError(Exception):
    """Base class of errors that are reported to the user in one line: `Error: <what>. <mend>.`

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
    """Invalid options, or an invalid recipe."""

    exit_code = 2


class DataError(NmtError):
    """Invalid input text."""

    exit_code = 3


class DirectoryError(NmtError):
    """A data or model directory that is missing, damaged or of the wrong kind."""

    exit_code = 4


class TrainingError(NmtError):
    """Training cannot continue."""

    exit_code = 5


class WorldError(NmtError):
    """An error outside nmt: a full disk, a missing permission, or a worker that died."""

    exit_code = 6


class RankError(NmtError):
    """One of the processes of a distributed training run has failed.

    Args:
        rank: rank of the failed process.
        exit_code: exit code of the process; a negative value is minus the number of the signal that killed it.
        message: error message of the process; empty if it left no message.
    """

    def __init__(self, rank: int, exit_code: int, message: str) -> None:
        host = os.uname().nodename
        end = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with {exit_code}"
        super().__init__(f"rank {rank} on {host}: {message or end}", "" if message else "Go on with --resume")
        self.exit_code = exit_code if exit_code > 0 else WorldError.exit_code


class Stopped(NmtError):
    """A command was stopped by a signal; training and preprocessing save their progress first.

    Args:
        signal_number: 2 (SIGINT) or 15 (SIGTERM); the exit code is 128 plus this number, as in any shell.
        what, mend: as for NmtError.
    """

    def __init__(self, signal_number: int, what: str, mend: str = "") -> None:
        super().__init__(what, mend)
        self.exit_code = 128 + signal_number
