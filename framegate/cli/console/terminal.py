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

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from framegate.pipeline.system.clocks import span

LINES_S = 5.0  # between two lines, where there is no terminal


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, with an s unless the number is 1."""
    return f"{number} {noun}" + "s" * (number != 1)


class Meter:
    """Shows progress on stderr while its block lasts. One thread.

    It is an `OnProgress` of pipeline/contracts/progress.py.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (
                SpinnerColumn(),
                _Work(),
                BarColumn(bar_width=8, table_column=Column(no_wrap=True)),
                _TimeLeft(table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[more]}", markup=False, table_column=Column(no_wrap=True)),
            )
            self._bar = Progress(
                *columns,
                console=self._console,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # output to a pipe or file stays there
            )
        self._work = ""
        self._began_mono = 0.0
        self._printed_mono = 0.0

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
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
        """Show how far the work is; see pipeline/contracts/progress.py."""
        now = time.monotonic()
        if what != self._work:
            self._begin(what, total, more, now)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, more=more)
        elif now - self._printed_mono >= LINES_S:
            self._printed_mono = now
            line = as_line(what, done, total, more, now - self._began_mono)
            print(line, file=sys.stderr, flush=True)

    def _begin(self, work: str, total: int | None, more: str, now: float) -> None:
        self._work = work
        self._began_mono = now
        self._printed_mono = now
        if total is None:  # this may be its only call, so its line is printed at once
            self._printed_mono = float("-inf")
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(work, total=total, more=more)


def as_line(work: str, done: int, total: int | None, more: str, elapsed_s: float) -> str:
    """Return the progress in words."""
    parts = [work]
    if total is not None:
        parts[0] += f": {done} of {total}"
    if more:
        parts.append(more)
    left = left_s(done, total, elapsed_s)
    if left is not None:
        parts.append(f"about {span(left)} left")
    return ", ".join(part for part in parts if part)


def left_s(done: int, total: int | None, elapsed_s: float) -> float | None:
    """Return the expected remaining seconds at the speed so far; None if unknown."""
    if total is None or not done:
        return None
    return (total - done) * elapsed_s / done


class _Work(ProgressColumn):
    """The work, cut at the width: rich removes only the last line of a bar of two lines."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _TimeLeft(ProgressColumn):
    """The count and the remaining time, as as_line writes them."""

    def render(self, task: Task) -> Text:
        total = None if task.total is None else int(task.total)
        line = as_line("", int(task.completed), total, "", task.elapsed or 0.0)
        return Text(line.removeprefix(": "))


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
        prompt = f"{question} [{usual}]: " if usual else f"{question}: "
        try:
            return input(prompt).strip() or usual
        except EOFError:
            print()
            return usual

    def agrees(self, question: str) -> bool:
        """Ask for a yes; without a terminal the answer is no."""
        return self.is_there and self.says(f"{question} [Y/n]").lower() in ("", "y", "yes")

    def secret(self, question: str) -> str:
        """Ask for text that the terminal does not show; "" without a terminal."""
        if not self.is_there:
            return ""
        return getpass.getpass(f"{question}: ")
