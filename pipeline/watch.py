"""`framegate watch`: a run seen from another terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from pipeline.counts_view import count_lines
from pipeline.errors import Exit, StoreLost
from pipeline.running import find_run
from pipeline.view import View, Viewer, as_table

EVERY_S = 1.0


def watch(
    store: str | None, folder: Path | None, names: list[str], as_json: bool, once: bool
) -> Exit:
    """Show the sources of a run once a second, until it ends or Ctrl-C."""
    run = find_run(folder) if store is None else None
    viewer = Viewer(run.store if run else store or "")
    try:
        if as_json:
            _print_lines(viewer, names, once)
        else:
            _show_table(viewer, names, once, Path(run.folder) if run else None)
    except KeyboardInterrupt:
        pass
    except StoreLost:
        if once:
            raise
        print("framegate: the run's store is gone: the run ended", file=sys.stderr)
    finally:
        viewer.close()
    return Exit.DONE


def _look(viewer: Viewer, names: list[str]) -> list[View]:
    return viewer.look(names or viewer.sources())


def _show_table(viewer: Viewer, names: list[str], once: bool, folder: Path | None) -> None:
    """folder: of the run, if it is on this host; only it knows what its workers counted."""
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            lines = count_lines(folder) if folder else []
            live.update(Group(as_table(_look(viewer, names)), *map(escape, lines)), refresh=True)
            if once:
                return
            time.sleep(EVERY_S)


def _print_lines(viewer: Viewer, names: list[str], once: bool) -> None:
    while True:
        line = msgspec.json.encode([asdict(view) for view in _look(viewer, names)])
        print(line.decode(), flush=True)
        if once:
            return
        time.sleep(EVERY_S)
