"""Messages go to stderr, data to stdout. Progress bars need a terminal; `NO_COLOR`, `-q` and `-v` are respected."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.console
    import rich.progress


class Bar:
    """A progress bar; if no bar is displayed, `update` does nothing."""

    def __init__(self, progress: "rich.progress.Progress | None" = None, description: str = "") -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None, facts="") if progress else None

    def update(self, *, completed: float | None = None, total: float | None = None, facts: str = "") -> None:
        """Update the bar; `facts` is a short text displayed next to it."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, total=total, facts=facts)


class Console:
    """Prints the messages of a command.

    Args:
        quiet: if True, print only warnings and errors.
        verbose: if True, print details too.
        silent: if True, print nothing, because another process prints the same messages.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self.verbose = verbose
        self.is_terminal = sys.stderr.isatty()
        self._rich: rich.console.Console | None = None

    def info(self, text: str) -> None:
        """Print a message, unless `-q` was given."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """Print a message if `-v` was given."""
        if self.verbose:
            self._line(text)

    def warn(self, text: str) -> None:
        """Print a warning, even if `-q` was given."""
        if not self.silent:
            self._line(f"Warning: {text}")

    @contextmanager
    def bar(self, description: str) -> Iterator[Bar]:
        """Yield a progress bar with the count and the time left, displayed only on a terminal and without `-q`."""
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
        """Flush stderr."""
        sys.stderr.flush()

    def _terminal(self) -> "rich.console.Console":
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True)
        return self._rich

    def _line(self, text: str) -> None:
        if self._rich is not None:  # rich prints above a bar that is on the screen
            self._rich.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
