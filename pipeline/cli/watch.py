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

from framegate.pipeline.cli.counts_view import count_lines
from framegate.pipeline.errors import Exit, StoreLost
from framegate.pipeline.run.rpc import find_run
from framegate.pipeline.telemetry.view import View, Viewer, as_table

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


def _look_twice(viewer: Viewer, names: list[str]) -> list[View]:
    """What a single look cannot say is a rate."""
    _look(viewer, names)
    time.sleep(EVERY_S)
    return _look(viewer, names)


def _show_table(viewer: Viewer, names: list[str], once: bool, folder: Path | None) -> None:
    """folder: of the run, if it is on this host; only it knows what its workers counted."""
    console = Console(highlight=False)

    def shown(views: list[View]) -> Group:
        lines = count_lines(folder) if folder else []
        return Group(as_table(views, console.width), *map(escape, lines))

    if once:
        console.print(shown(_look_twice(viewer, names)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(shown(_look(viewer, names)), refresh=True)
            time.sleep(EVERY_S)


def _print_lines(viewer: Viewer, names: list[str], once: bool) -> None:
    look = _look_twice if once else _look
    while True:
        line = msgspec.json.encode([asdict(view) for view in look(viewer, names)])
        print(line.decode(), flush=True)
        if once:
            return
        time.sleep(EVERY_S)
