"""Talk goes to stderr, data to stdout. Progress bars show on a terminal only; `NO_COLOR`, `-q` and `-v` are heeded."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.console
    import rich.progress


class Bar:
    """A progress bar that may not be there: without a terminal, `update` does nothing."""

    def __init__(self, progress: "rich.progress.Progress | None" = None, description: str = "") -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None, facts="") if progress else None

    def update(self, *, completed: float | None = None, total: float | None = None, facts: str = "") -> None:
        """Moves the bar; `facts` is a short text shown beside it."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, total=total, facts=facts)


class Console:
    """What a command says to the person who runs it.

    Args:
        quiet: only warnings and errors.
        verbose: also details.
        silent: nothing at all: another process says it.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self.verbose = verbose
        self.is_terminal = sys.stderr.isatty()
        self._rich: rich.console.Console | None = None

    def say(self, text: str) -> None:
        """A line of talk; `-q` silences it."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """A line of talk for `-v` only."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """A line that `-q` does not silence."""
        if not self.silent:
            self._line(f"Warning: {text}")

    @contextmanager
    def bar(self, description: str) -> Iterator[Bar]:
        """A progress bar with rate and time left, on a terminal; nothing elsewhere or with `-q`."""
        if self.quiet or not self.is_terminal:
            yield Bar()
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        ]
        with Progress(
            *columns, TextColumn("{task.fields[facts]}"), console=self._terminal(), transient=True
        ) as progress:
            yield Bar(progress, description)

    def close(self) -> None:
        """Flushes what was said."""
        sys.stderr.flush()

    def _terminal(self) -> "rich.console.Console":
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True)
        return self._rich

    def _line(self, text: str) -> None:
        if self._rich is not None:  # a bar may be on the screen: rich prints above it
            self._rich.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
