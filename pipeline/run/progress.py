"""What `framegate run` shows while it runs: a live table on a terminal, lines elsewhere.

As lines: what changes, once, and one summary a minute for all sources together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from framegate.pipeline.errors import FramegateError
from framegate.pipeline.process import apart
from framegate.pipeline.spec import SourceSpec
from framegate.pipeline.telemetry.view import View, Viewer, as_line, as_table, in_sum

log = logging.getLogger(__name__)

TABLE_S = 1.0
CHANGES_S = 5.0
SUM_S = 60.0
SUMMARY_S = 2.0


class Progress:
    """Shows a run on stderr until cancelled, then once more as a summary.

    The store is asked apart from the event loop: one that hangs holds nothing up.
    """

    def __init__(self, url: str, quiet: bool) -> None:
        """quiet: no table, lines only (stdout carries results)."""
        self._names: list[str] = []
        self._viewer = Viewer(url)
        self._table = sys.stderr.isatty() and not quiet
        self._console = Console(stderr=True, highlight=False)
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
            if self._table:
                await self._show_table()
            else:
                await self._show_lines()
        finally:
            with contextlib.suppress(FramegateError, TimeoutError):
                await asyncio.wait_for(self._summary(), SUMMARY_S)
            self._viewer.close()

    async def _look(self) -> list[View]:
        return await apart(self._viewer.look, self._names)

    async def _show_table(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                with contextlib.suppress(FramegateError):
                    shown = as_table(await self._look(), self._console.width)
                    live.update(shown, refresh=True)
                await asyncio.sleep(TABLE_S)

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
        if self._table:
            self._console.print(as_table(views, self._console.width))
            return
        for view in views:
            log.info("%s", as_line(view))

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
