"""`framegate sources`: the sources of a run that goes on, how they are, where their frames are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.asking import Listed, TheSources, WhatSources, ask
from pipeline.errors import Exit
from pipeline.running import ANSWER_S, find_run
from pipeline.view import STYLES, View, Viewer, rate

RATE_S = 1.0


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "sources",
        help="show the sources of a run that goes on, and account for their frames",
        description="Each source's state, rate and frames: decoded = published + dropped + in "
        "flight. Looks twice, a second apart, for the rate.",
    )
    command.set_defaults(command=_sources)
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    command.add_argument("--json", action="store_true", help="as JSON")


def _sources(parsed: argparse.Namespace) -> Exit:
    run = find_run(parsed.data)
    answer = ask(Path(run.folder), WhatSources(), ANSWER_S)
    assert isinstance(answer, TheSources)
    names = [source.name for source in answer.sources]
    viewer = Viewer(run.store)
    try:
        viewer.look(names)
        time.sleep(RATE_S)
        views = viewer.look(names)
    finally:
        viewer.close()
    if parsed.json:
        lines = [as_json(source, view) for source, view in zip(answer.sources, views, strict=True)]
        print(msgspec.json.encode(lines).decode())
    else:
        _print(answer.sources, views)
    return Exit.DONE


def as_json(source: Listed, view: View) -> dict[str, Any]:
    """One source for programs."""
    return {
        "source": source.name,
        "place": source.place,
        "live": source.live,
        "by": source.by,
        "model": source.model or None,
        "state": state_of(source, view),
        "since": view.since,
        "fault": view.fault,
        "fps": None if view.fps is None else round(view.fps, 2),
        "decoded": view.decoded,
        "published": view.published,
        "failed": view.failed,
        "dropped": view.drops,
        "in_flight": view.in_flight,
        "reconnects": view.reconnects,
    }


def state_of(source: Listed, view: View) -> str:
    """The state, with what only the run knows."""
    if source.lost:
        return "taken over"
    return "removing" if source.removing else view.state


def _print(sources: Sequence[Listed], views: Sequence[View]) -> None:
    console = Console(highlight=False)
    if not sources:
        console.print("the run has no source; framegate add NAME=URL gives it one")
        return
    table = Table(expand=False)
    table.add_column("source", overflow="fold")
    table.add_column("state", overflow="fold")
    for name in ("fps", "decoded", "published", "dropped", "in flight", "reconnects"):
        table.add_column(name, justify="right")
    for source, view in zip(sources, views, strict=True):
        table.add_row(
            Text(f"{source.name}\n{source.place}"),
            _state(source, view),
            rate(view.fps),
            str(view.decoded),
            f"{view.published}\n{view.failed} failed" if view.failed else str(view.published),
            by_reason(view.drops),
            str(view.in_flight),
            str(view.reconnects) if source.live else "-",
        )
    console.print(table)
    console.print(accounts(views))


def _state(source: Listed, view: View) -> Text:
    state = state_of(source, view)
    text = Text(state, STYLES.get(state, "yellow"))
    if view.since is not None:
        text.append(f" {_span(time.time() - view.since)}")
    if view.fault:
        text.append(f"\n{view.fault}", "default")
    return text


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def by_reason(drops: Mapping[str, int]) -> str:
    """Dropped frames in words."""
    return "\n".join(f"{n} {reason}" for reason, n in sorted(drops.items()) if n) or "0"


def accounts(views: Sequence[View]) -> str:
    """Where all decoded frames are; it closes at any moment."""
    decoded, published, dropped, in_flight = (
        sum(getattr(view, name) for view in views)
        for name in ("decoded", "published", "dropped", "in_flight")
    )
    return f"{decoded} decoded = {published} published + {dropped} dropped + {in_flight} in flight"
