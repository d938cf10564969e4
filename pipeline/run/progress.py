"""Show the progress of `framegate run`: a live table on a terminal, log lines elsewhere.

The lines report each change of a source once, and a summary of all sources every minute. Both forms
end with a line about the number of frames, the place of the results, and the command to continue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.system.clocks import span
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.telemetry.source_lines import as_line, in_sum
from framegate.pipeline.telemetry.source_view import View, Viewer

if TYPE_CHECKING:
    from framegate.pipeline.run.screen import Screen

log = logging.getLogger(__name__)

TABLE_S = 1.0
CHANGES_S = 5.0
SUM_S = 60.0
SUMMARY_S = 2.0
_PREFIX = "framegate: "


@contextlib.contextmanager
def open_screen(is_quiet: bool) -> Iterator[Screen | None]:
    """Open the terminal for a table; None if stderr is no terminal, or `is_quiet`.

    Enter the block before the first worker starts.
    """
    if is_quiet or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield None
        return
    # What draws takes 0.05 s of CPU time to load, and a service has no terminal.
    from framegate.pipeline.run.screen import screen_on_stderr

    with screen_on_stderr() as screen:
        yield screen


@dataclass(frozen=True)
class RunOutputs:
    """The places of a run's outputs, and the options to continue it.

    store        URL of the store; "" if it is in the data folder
    videos       folder of the saved videos
    resume_with  arguments that `--resume` or `--slot` needs again
    slot         name of the fleet's slot that the run is; "": it is none
    """

    folder: Path
    store: str = ""
    videos: Path | None = None
    resume_with: tuple[str, ...] = ()
    slot: str = ""


class Progress:
    """The display of a run on stderr, with a summary at its end.

    A thread queries the store, so a store that hangs does not block the event loop.
    """

    def __init__(self, url: str, screen: Screen | None, outputs: RunOutputs | None) -> None:
        """Prepare the display.

        screen   for a table; None: log lines only
        outputs  for the last line; None in a run inside a program, which has no last line
        """
        self._names: list[str] = []
        self._viewer = Viewer(url)
        self._screen = screen
        self._outputs = outputs
        self._began = time.monotonic()
        self._before: dict[str, int] = {}
        self._reported: set[str] = set()

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Show these sources from now on. Call it in the event loop."""
        self._names = [source.name for source in sources]

    async def show(self) -> None:
        """Show the run until cancelled, then the summary."""
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
        with screen.table() as draw:
            while True:
                with contextlib.suppress(FramegateError):
                    views = await self._look()
                    self._report_detectors(views)
                    draw(views)
                await asyncio.sleep(TABLE_S)

    async def _show_lines(self) -> None:
        shown: dict[str, tuple[str, bool]] = {}
        summed_mono = time.monotonic()
        while True:
            await asyncio.sleep(CHANGES_S)
            with contextlib.suppress(FramegateError):
                views = await self._look()
                self._report_detectors(views)
                for view in changed(views, shown):
                    log.info("%s", as_line(view))
                if time.monotonic() - summed_mono >= SUM_S:
                    summed_mono = time.monotonic()
                    log.info("%s", in_sum(views))

    def _report_detectors(self, views: Sequence[View]) -> None:
        """Report what detects in a source when it has its first result, once for equal lines."""
        names: dict[str, list[str]] = {}
        for view in views:
            if view.detector is not None and view.source not in self._reported:
                self._reported.add(view.source)
                names.setdefault(view.detector, []).append(view.source)
        width = None
        if self._screen is not None:
            width = self._screen.width
        for detector, sources in names.items():
            to_user.info("%s", detector_line(sources, detector, width))

    async def _summary(self) -> None:
        self._viewer.forget()
        views = [self._over_all(view) for view in await self._look()]
        self._report_detectors(views)
        if self._screen is not None:
            self._screen.print_table(views)
        else:
            for view in views:
                log.info("in total: %s", as_line(view))
        for view in views:
            if view.advice is not None:
                to_user.info("%s: %s", view.source, view.advice)
        if views and self._outputs is not None:
            frames = sum(v.published - self._before.get(v.source, 0) for v in views)
            seconds = time.monotonic() - self._began
            width = None
            if self._screen is not None:
                width = self._screen.width
            to_user.info("%s", closing(views, frames, seconds, self._outputs, width))

    def _over_all(self, view: View) -> View:
        """Return the view with its rate over the whole time of this process, as a stopped one."""
        frames = view.published - self._before.get(view.source, 0)
        state = view.state
        if state == "running":
            state = "stopped"
        return replace(view, fps=frames / (time.monotonic() - self._began), state=state)


def changed(views: Sequence[View], shown: dict[str, tuple[str, bool]]) -> list[View]:
    """Return the views with a new state or a new fault, and update `shown`.

    shown: by source, the state and whether it had a fault
    """
    states = {v.source: (v.state, v.fault is not None) for v in views}
    changes = [v for v in views if shown.get(v.source) != states[v.source]]
    shown.clear()
    shown.update(states)
    return changes


def detector_line(sources: Sequence[str], detector: str, width: int | None = None) -> str:
    """Return the line that names the detector of these sources.

    width  columns of the terminal; a longer line is wrapped between two words
    """
    line = f"detector of {', '.join(sources)}: {detector}"
    if width is None:
        return line
    wrapped = textwrap.fill(
        _PREFIX + line,
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.removeprefix(_PREFIX)


def closing(
    views: Sequence[View],
    frames: int,
    seconds: float,
    outputs: RunOutputs,
    width: int | None = None,
) -> str:
    """Return the last line of a run: its frames, the place of its results, how to continue.

    frames   published in `seconds`, all sources together
    width    columns of the terminal; a longer line is split into its parts
    """
    count = f"{frames} frames"
    if frames == 1:
        count = "1 frame"
    if len(views) > 1:
        count += f" of {len(views)} sources"
    count += f" in {span(seconds)}"
    if frames and seconds >= 1:
        count += f" ({frames / seconds:.1f} a second)"
    parts = [count]
    folder = shown_path(outputs.folder)
    if any(v.published for v in views):  # otherwise the folder is removed
        if outputs.store:
            parts.append(f"results in {shown(outputs.store)}")
        else:
            parts.append(f"results with: framegate results -d {folder}")
        if outputs.videos:
            parts.append(f"videos in {shown_path(outputs.videos)}")
        if not {v.state for v in views} <= {"finished", "failed", "removed"}:
            words = ["--resume"]
            if outputs.slot:
                words = ["--slot", outputs.slot]
            arguments = [shlex.quote(argument) for argument in outputs.resume_with]
            command = ["framegate", "run", *words, "-d", folder, *arguments]
            parts.append(f"continue with: {' '.join(command)}")
    line = "; ".join(parts)
    if width is not None and len(_PREFIX) + len(line) > width:
        return "\n  ".join(parts)
    return line


def shown_path(path: Path) -> str:
    """Return a path for a command: relative to the current directory or to home if inside it."""
    path = path.absolute()
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if path.is_relative_to(base) and path != base:
            return prefix + shlex.quote(str(path.relative_to(base)))
    return shlex.quote(str(path))
