"""What `framegate run` shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from pipeline.errors import FramegateError
from pipeline.plan import Plan
from pipeline.view import View, Viewer, as_line, as_table

TABLE_S = 1.0
LINES_S = 5.0


class Progress:
    """Shows a run on stderr until cancelled, then once more as a summary."""

    def __init__(self, plan: Plan, url: str, quiet: bool) -> None:
        """quiet: no table, lines only (stdout carries results)."""
        self._names = [source.name for source in plan.sources]
        self._viewer = Viewer(url)
        self._table = sys.stderr.isatty() and not quiet
        self._console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()

    async def show(self) -> None:
        """Show until cancelled."""
        try:
            if self._table:
                await self._show_table()
            else:
                await self._show_lines()
        finally:
            with contextlib.suppress(FramegateError):
                self._summary()
            self._viewer.close()

    async def _show_table(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                with contextlib.suppress(FramegateError):
                    live.update(as_table(self._viewer.look(self._names)), refresh=True)
                await asyncio.sleep(TABLE_S)

    async def _show_lines(self) -> None:
        while True:
            await asyncio.sleep(LINES_S)
            with contextlib.suppress(FramegateError):
                for view in self._viewer.look(self._names):
                    self._console.print(as_line(view), markup=False, soft_wrap=True)

    def _summary(self) -> None:
        self._viewer.forget()
        whole = self._viewer.look(self._names)
        seconds = time.monotonic() - self._began
        if self._table:
            self._console.print(as_table([_averaged(view, seconds) for view in whole]))
        else:
            for view in whole:
                line = as_line(_averaged(view, seconds))
                self._console.print(line, markup=False, soft_wrap=True)


def _averaged(view: View, seconds: float) -> View:
    return replace(view, fps=view.published / seconds)
