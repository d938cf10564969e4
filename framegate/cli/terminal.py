"""Text of commands on a terminal: progress of long work, lines, questions.

Progress goes to stderr. On a terminal it is one line at the bottom, which disappears when the work
is done; printed text is above it. Elsewhere it is a line every few seconds.
"""

from __future__ import annotations

import getpass
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import fill
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from framegate.pipeline.telemetry.view import span

LINES_S = 5.0  # between two lines, where there is no terminal


class Meter:
    """Shows progress on stderr while its block lasts; see pipeline.progress. One thread."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (
                SpinnerColumn(),
                _What(),
                BarColumn(bar_width=8, table_column=Column(no_wrap=True)),
                _TimeLeft(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[more]}", markup=False, table_column=Column(no_wrap=True)),
            )
            self._bar = Progress(
                *columns,
                console=self._console,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what goes into a pipe or file stays there
            )
        self._what = ""
        self._began = self._said = 0.0

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Free the terminal for the block, for example for a question."""
        if self._bar is not None:
            self._bar.stop()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.start()

    def __call__(self, what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
        """Show how far the work is; see pipeline.progress."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
            self._said = now if total is not None else float("-inf")  # it may not say more
            if self._bar is not None:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(what, total=total, more=more)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, more=more)
        elif now - self._said >= LINES_S:
            self._said = now
            print(as_line(what, done, total, more, now - self._began), file=sys.stderr, flush=True)


def as_line(what: str, done: int, total: int | None, more: str, elapsed_s: float) -> str:
    """Return the progress in words."""
    of = "" if total is None else f": {done} of {total}"
    left = left_s(done, total, elapsed_s)
    parts = [f"{what}{of}", more, "" if left is None else f"about {span(left)} left"]
    return ", ".join(part for part in parts if part)


def left_s(done: int, total: int | None, elapsed_s: float) -> float | None:
    """Return the expected remaining seconds at the speed so far; None if unknown."""
    return None if total is None or not done else (total - done) * elapsed_s / done


class _What(ProgressColumn):
    """The work, cut at the width: with two lines, the one above the bar would stay."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _TimeLeft(ProgressColumn):
    """The count and the remaining time, as as_line writes them."""

    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        said = as_line("", int(task.completed), total, "", task.elapsed or 0.0)
        return Text(said.removeprefix(": "))


def say(text: str, head: str = "") -> None:
    """Print one line of text after `head`; on a terminal, break it between words where it is too
    long, with the next lines indented as far as `head` is wide.
    """
    line = f"{head}{text}".rstrip()
    columns = shutil.get_terminal_size().columns
    if len(line) >= columns and sys.stdout.isatty():
        line = fill(
            text,
            columns - 1,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    print(line, flush=True)


class Person:
    """The user at the terminal; without a terminal every answer is the default."""

    def __init__(self, is_there: bool) -> None:
        self.is_there = is_there

    def says(self, question: str, usual: str = "") -> str:
        """Ask, and return one line; `usual` for an empty one, at end of input, or without a
        terminal.
        """
        if not self.is_there:
            return usual
        try:
            return input(f"{question}{f' [{usual}]' if usual else ''}: ").strip() or usual
        except EOFError:
            print()
            return usual

    def agrees(self, question: str) -> bool:
        """Ask for a yes; without a terminal the answer is no."""
        return self.is_there and self.says(f"{question} [Y/n]").lower() in ("", "y", "yes")

    def secret(self, question: str) -> str:
        """Ask for text that the terminal does not show; "" without a terminal."""
        return getpass.getpass(f"{question}: ") if self.is_there else ""
