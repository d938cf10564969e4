"""What `framegate run` shows while it runs: a live table on a terminal, lines elsewhere.

As lines: what changes, once, and one summary a minute for all sources together. Both end with one
line that says what came, where it is, and how to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.telemetry.view import View, Viewer, as_line, as_table, in_sum, span

log = logging.getLogger(__name__)

TABLE_S = 1.0
CHANGES_S = 5.0
SUM_S = 60.0
SUMMARY_S = 2.0
ECHOED = 4  # columns that a table leaves: "^C^C" would wrap, and what is above be torn
_STDERR = 2
_SAID = "framegate: "
_END = b"\0\n"  # what nobody says


@dataclass(frozen=True)
class Screen:
    """A terminal with a table at its foot. Whoever puts something on it holds `turn`: the table is
    drawn over what was drawn last, and of two threads at once one would take the other's for it.
    """

    console: Console
    turn: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def open_screen(quiet: bool) -> Iterator[Screen | None]:
    """The terminal, to show a table at its foot; None where stderr is none, or it is to be quiet.

    Workers, libraries in C and this process say what they have to say on descriptor 2, in the
    middle of a table as well. So it is a pipe meanwhile, and a thread puts what comes out of that,
    line by line, above the table. Enter it before the first worker is started.
    """
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield None
        return
    with (
        open(os.dup(_STDERR), "w", encoding="utf-8", errors="replace") as terminal,
        _whole_at_ctrl_c(terminal.fileno()),
    ):
        screen = Screen(Console(file=terminal, highlight=False))
        reading, writing = os.pipe()
        os.dup2(writing, _STDERR)
        above = threading.Thread(target=_put_above, args=(reading, screen), daemon=True)
        above.start()
        try:
            yield screen
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), _STDERR)
            os.write(writing, _END)  # else the thread would wait for whoever holds the pipe open
            os.close(writing)
            above.join()


@contextlib.contextmanager
def _whole_at_ctrl_c(terminal: int) -> Iterator[None]:
    """Have the kernel keep, at a Ctrl-C, what the terminal has not read yet.

    It throws that away else (termios, NOFLSH): half a table, and where the cursor was to go. Not
    in the background, where a change of the terminal would stop this process.
    """
    before = None
    with contextlib.suppress(OSError, termios.error):  # not our terminal, or gone
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
            if said := line.removesuffix(_END).decode(errors="replace").rstrip("\n"):
                with screen.turn:
                    screen.console.print(Text(said), soft_wrap=True)
            if line.endswith(_END):
                return


@dataclass(frozen=True)
class RunOutputs:
    """Where the outputs of a run are, and how to continue it.

    store        a URL, "" for the one in the data folder
    resume_with  words of the command line that `--resume` needs again
    """

    folder: Path
    store: str = ""
    videos: Path | None = None
    resume_with: tuple[str, ...] = ()


class Progress:
    """Shows a run on stderr until cancelled, then once more as a summary.

    The store is asked apart from the event loop: one that hangs holds nothing up.
    """

    def __init__(self, url: str, screen: Screen | None, kept: RunOutputs | None) -> None:
        """screen: to show a table on, None: lines only. kept: None for a run in a program, which
        has no last line.
        """
        self._names: list[str] = []
        self._viewer = Viewer(url)
        self._screen, self._kept = screen, kept
        self._began = time.monotonic()
        self._before: dict[str, int] = {}

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Show these sources from now on. The event loop."""
        self._names = [source.name for source in sources]

    async def show(self) -> None:
        """Show until cancelled."""
        with contextlib.suppress(FramegateError):
            self._before = {v.source: v.published for v in await self._look()}
        try:
            if self._screen is not None:
                await self._show_table(self._screen)
            else:
                await self._show_lines()
        finally:
            with contextlib.suppress(FramegateError, TimeoutError):
                await asyncio.wait_for(self._summary(), SUMMARY_S)
            self._viewer.close()

    async def _look(self) -> list[View]:
        return await in_thread(self._viewer.look, self._names)

    async def _show_table(self, screen: Screen) -> None:
        console = screen.console
        live = Live(  # what this process says goes above through the pipe, as all else does
            console=console, auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        with screen.turn:
            live.start()
        try:
            while True:
                with contextlib.suppress(FramegateError):
                    views = await self._look()
                    size = ConsoleDimensions(*os.get_terminal_size(console.file.fileno()))
                    table = as_table(views, size.width - ECHOED, size.height - 1)
                    with screen.turn:
                        console.size = size
                        live.update(table, refresh=True)
                await asyncio.sleep(TABLE_S)
        finally:
            with screen.turn:
                live.stop()

    async def _show_lines(self) -> None:
        shown: dict[str, tuple[str, bool]] = {}
        summed_mono = time.monotonic()
        while True:
            await asyncio.sleep(CHANGES_S)
            with contextlib.suppress(FramegateError):
                views = await self._look()
                for view in changed(views, shown):
                    log.info("%s", as_line(view))
                if time.monotonic() - summed_mono >= SUM_S:
                    summed_mono = time.monotonic()
                    log.info("%s", in_sum(views))

    async def _summary(self) -> None:
        self._viewer.forget()
        views = [self._over_all(view) for view in await self._look()]
        if self._screen is not None:
            with self._screen.turn:
                self._screen.console.print(as_table(views, self._screen.console.width))
        else:
            for view in views:
                log.info("in total: %s", as_line(view))
        if views and self._kept is not None:
            frames = sum(v.published - self._before.get(v.source, 0) for v in views)
            seconds = time.monotonic() - self._began
            width = None if self._screen is None else self._screen.console.width
            to_user.info("%s", closing(views, frames, seconds, self._kept, width))

    def _over_all(self, view: View) -> View:
        """Return the view with its rate over the whole time of this process, which has ended."""
        fps = (view.published - self._before.get(view.source, 0)) / (time.monotonic() - self._began)
        return replace(view, fps=fps, state="stopped" if view.state == "running" else view.state)


def changed(views: Sequence[View], shown: dict[str, tuple[str, bool]]) -> list[View]:
    """Return the views in another state than was shown, or with a fault now; updates `shown`.

    shown: state, and whether there was a fault, by source
    """
    states = {v.source: (v.state, v.fault is not None) for v in views}
    news = [v for v in views if shown.get(v.source) != states[v.source]]
    shown.clear()
    shown.update(states)
    return news


def closing(
    views: Sequence[View], frames: int, seconds: float, kept: RunOutputs, width: int | None = None
) -> str:
    """The last line of a run: what came of it, where that is, and how to go on.

    frames: published in these seconds, of all views
    width: of the terminal; what is longer has a line for each part, so that none is cut
    """
    speed = f" ({frames / seconds:.1f} a second)" if frames and seconds >= 1 else ""
    of = f" of {len(views)} sources" if len(views) > 1 else ""
    parts = [f"{frames} frame{'' if frames == 1 else 's'}{of} in {span(seconds)}{speed}"]
    folder = shown_path(kept.folder)
    ends = {"finished", "failed", "removed"}
    if any(v.published for v in views):  # else the folder goes
        stored = f"in {shown(kept.store)}" if kept.store else f"with: framegate results -d {folder}"
        parts.append(f"results {stored}")
        parts += [f"videos in {shown_path(kept.videos)}"] if kept.videos else []
        if not {v.state for v in views} <= ends:
            again = "".join(f" {shlex.quote(word)}" for word in kept.resume_with)
            parts.append(f"continue with: framegate run --resume -d {folder}{again}")
    line = "; ".join(parts)
    return line if width is None or len(line) + len(_SAID) <= width else "\n  ".join(parts)


def shown_path(path: Path) -> str:
    """A path as one would type it: from here, or from home, where it lies below."""
    path = path.absolute()
    for base, before in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base) and path != base:
            return before + shlex.quote(str(path.relative_to(base)))
    return shlex.quote(str(path))
