"""The terminal of `framegate run`: a live table at its foot, and the lines of all processes."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from framegate.pipeline.telemetry.source_table import as_table
from framegate.pipeline.telemetry.source_view import View

ECHOED: Final = 4  # free columns: an echoed "^C^C" would wrap and damage the lines above the table
_STDERR: Final = 2
_END: Final = b"\0\n"  # never part of a message


class Screen:
    """A terminal with a table at its foot. Any thread.

    A thread that writes to it takes its turn, because the next table is drawn over the last lines.
    """

    def __init__(self, terminal: TextIO) -> None:
        """Wrap a terminal; use `screen_on_stderr`."""
        self._console = Console(file=terminal, highlight=False)
        self._turn = threading.Lock()

    @property
    def width(self) -> int:
        """Return the columns of the terminal."""
        return self._console.width

    def print_line(self, message: str) -> None:
        """Print a message, above the table if there is one."""
        with self._turn:
            self._console.print(Text(message), soft_wrap=True)

    def print_table(self, views: Sequence[View]) -> None:
        """Print a table that stays."""
        with self._turn:
            self._console.print(as_table(views, self._console.width))

    @contextlib.contextmanager
    def table(self) -> Iterator[Callable[[Sequence[View]], None]]:
        """Show a table for the length of a block, which gets a function that draws it again."""
        console = self._console
        live = Live(  # stdout and stderr stay: lines on stderr reach the screen through the pipe
            console=console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

        def draw(views: Sequence[View]) -> None:
            size = ConsoleDimensions(*os.get_terminal_size(console.file.fileno()))
            table = as_table(views, size.width - ECHOED, size.height - 1)
            with self._turn:
                console.size = size
                live.update(table, refresh=True)

        with self._turn:
            live.start()
        try:
            yield draw
        finally:
            with self._turn:
                live.stop()


@contextlib.contextmanager
def screen_on_stderr() -> Iterator[Screen]:
    """Make stderr a screen for the length of a block.

    Workers, libraries in C and this process write to descriptor 2 at any time. So it becomes a pipe
    for the length of the block, and a thread prints the lines from the pipe above the table.
    """
    with (
        open(os.dup(_STDERR), "w", encoding="utf-8", errors="replace") as terminal,
        _whole_at_ctrl_c(terminal.fileno()),
    ):
        screen = Screen(terminal)
        reading, writing = os.pipe()
        os.dup2(writing, _STDERR)
        above = threading.Thread(target=_put_above, args=(reading, screen), daemon=True)
        above.start()
        try:
            yield screen
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), _STDERR)
            os.write(writing, _END)  # ends the thread even if another process keeps the pipe open
            os.close(writing)
            above.join()


@contextlib.contextmanager
def _whole_at_ctrl_c(terminal: int) -> Iterator[None]:
    """Keep the output that the terminal has not read when the user presses Ctrl-C.

    The kernel discards it by default (termios, NOFLSH), which may cut a table and its cursor
    commands. In the background nothing is changed, because that would stop this process.
    """
    before = None
    with contextlib.suppress(OSError, termios.error):  # not our terminal, or closed
        if os.tcgetpgrp(terminal) == os.getpgrp():
            before = termios.tcgetattr(terminal)
            local = before[3] | termios.NOFLSH
            termios.tcsetattr(terminal, termios.TCSANOW, [*before[:3], local, *before[4:]])
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            if before is not None and os.tcgetpgrp(terminal) == os.getpgrp():
                termios.tcsetattr(terminal, termios.TCSANOW, before)


def _put_above(reading: int, screen: Screen) -> None:
    with open(reading, "rb") as lines:
        for line in lines:
            message = line.removesuffix(_END).decode(errors="replace").rstrip("\n")
            if message:
                screen.print_line(message)
            if line.endswith(_END):
                return
