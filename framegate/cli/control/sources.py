"""`framegate add`, `remove`, `sources`: change and list the sources of a run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.text import Text

from framegate.cli.console.arguments import (
    add_data,
    add_run,
    add_source_keys,
    source_keys,
    typed_url,
)
from framegate.cli.help import ending
from framegate.pipeline.config.sources import SourceConfig, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.run.ended import OpenedStore, open_store
from framegate.pipeline.run.folder import RunSource, read_run
from framegate.pipeline.run.rpc import (
    ANSWER_S,
    Add,
    GetSources,
    Remove,
    SourceList,
    ask,
    find_run,
)
from framegate.pipeline.run.source_forms import file_faults, run_source
from framegate.pipeline.system.clocks import span
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.telemetry.source_table import STYLES, fitted, rate, warnings
from framegate.pipeline.telemetry.source_view import View, Viewer


def register(commands: Any) -> None:
    """Add the three commands to the command line."""
    _register_add(commands)
    _register_remove(commands)
    _register_sources(commands)


def _register_add(commands: Any) -> None:
    command = commands.add_parser(
        "add",
        description="Add sources to an active run. They stay, also after --resume, until they "
        "are removed. All are added, or none.",
        epilog=ending(
            "framegate add gate=rtsp://camera.example/stream",
            "framegate add gate=- -d data",
            "framegate add clip.mp4 --frames max_fps=5",
            page="cameras",
        ),
    )
    command.set_defaults(command=_add)
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="file, glob or URL, or NAME=SOURCE; NAME=- reads the URL from standard "
        "input, to keep its password off the command line",
    )
    add_run(command)
    add_source_keys(command)
    command.add_argument(
        "--pace", choices=("realtime", "fast"), default="fast", help="pace of files; see run"
    )
    command.add_argument(
        "--take-over", action="store_true", help="take over sources that another run owns"
    )


def _add(parsed: argparse.Namespace) -> Exit:
    keys = source_keys(parsed)
    run = find_run(parsed.data)
    sources = []
    for name, place in named_sources(parsed.sources, opens_folders=True).items():
        url = typed_url(name) if place == "-" else place
        source = SourceConfig(url=url, pace=parsed.pace, **keys)
        sources.append(run_source(name, source, by="add"))
    if faults := file_faults(sources):
        raise ConfigFaults(list(faults.values()))
    ask(Path(run.folder), Add(sources, parsed.take_over))
    print(f"added: {', '.join(source.name for source in sources)}")
    return Exit.DONE


# -- `framegate remove`


def _register_remove(commands: Any) -> None:
    command = commands.add_parser(
        "remove",
        description="Stop decoding these sources, finish their decoded frames, and release "
        "them for other runs. Their results stay in the store. The command waits "
        "until this is done.",
        epilog=ending("framegate remove gate", page="cameras"),
    )
    command.set_defaults(command=_remove)
    command.add_argument("sources", nargs="+", metavar="NAME", help="names of sources")
    add_run(command)


def _remove(parsed: argparse.Namespace) -> Exit:
    run = find_run(parsed.data)
    names = list(dict.fromkeys(parsed.sources))
    ask(Path(run.folder), Remove(names))
    print(f"removed: {', '.join(names)}")
    return Exit.DONE


# -- `framegate sources`


RATE_S = 1.0  # between the two looks that make a rate


def _register_sources(commands: Any) -> None:
    command = commands.add_parser(
        "sources",
        description="Show each source's state, rate and frames: decoded = published + dropped "
        "+ in flight. The rate is measured over one second; an ended run has "
        "none.",
        epilog=ending("framegate sources", "framegate sources -d data --json", page="cameras"),
    )
    command.set_defaults(command=_sources)
    add_data(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _sources(parsed: argparse.Namespace) -> Exit:
    with open_store(parsed.data) as opened:
        listed = _source_list(opened)
        names = [source.name for source in listed.sources]
        viewer = Viewer(opened.url, opened.ended)
        try:
            views = viewer.look(names)
            if not opened.ended:
                time.sleep(RATE_S)
                views = viewer.look(names)
        finally:
            viewer.close()
    if parsed.json:
        rows = zip(listed.sources, views, states_of(listed, views), strict=True)
        print(msgspec.json.encode([as_json(*row) for row in rows]).decode())
    else:
        _print(listed, views)
    if opened.ended:
        to_user.warning("%s", opened.how_it_goes_on())
    return Exit.DONE


def _source_list(opened: OpenedStore) -> SourceList:
    """Return the run's sources, from the active run or from the data folder of an ended one."""
    assert opened.folder is not None
    if opened.ended:
        run = read_run(opened.folder)
        if run is None:
            return SourceList(())
        return SourceList(run.sources)
    answer = ask(opened.folder, GetSources(), ANSWER_S)
    assert isinstance(answer, SourceList)
    return answer


def states_of(listed: SourceList, views: Sequence[View]) -> list[str]:
    """Return the state of each source; some states are known to the run alone."""
    states: dict[str, str] = {view.source: view.state for view in views}
    states |= {source.name: "removing" for source in listed.sources if source.ending}
    states |= dict.fromkeys(listed.parked, "failed")
    states |= dict.fromkeys(listed.lost, "taken over")
    return [states[view.source] for view in views]


def as_json(source: RunSource, view: View, state: str) -> dict[str, Any]:
    """Return a source as the JSON output has it."""
    fps = None if view.fps is None else round(view.fps, 2)
    return {
        "source": source.name,
        "place": source.place(),
        "live": source.live,
        "by": source.by,
        "model": source.model or None,
        "state": state,
        "since": view.since,
        "fault": view.fault,
        "fps": fps,
        "decoded": view.decoded,
        "published": view.published,
        "failed": view.failed,
        "dropped": view.drops,
        "in_flight": view.in_flight,
        "reconnects": view.reconnects,
        "clock_off_s": round(view.clock_off_s, 3),
        "url_fault": view.url_fault,
    }


def _print(listed: SourceList, views: Sequence[View]) -> None:
    console = Console(highlight=False)
    if not listed.sources:
        console.print("the run has no source; add one: framegate add NAME=URL")
        return
    table = as_table(listed, views, console.width)
    console.print(table)
    console.print(accounts(views))


def as_table(listed: SourceList, views: Sequence[View], width: int | None = None) -> Group:
    """Return the sources as a table, at most `width` columns wide; None: without a limit."""
    pairs = list(zip(listed.sources, views, strict=True))
    states = zip(states_of(listed, views), views, strict=True)
    columns = {
        "source": [Text(view.source) for view in views],
        "state": [_state(state, view) for state, view in states],
        "fps": [Text(rate(view.fps)) for view in views],
        "decoded": [Text(str(view.decoded)) for view in views],
        "published": [_published(view) for view in views],
        "dropped": [Text(by_reason(view.drops)) for view in views],
        "in flight": [Text(str(view.in_flight)) for view in views],
        "reconnects": [_reconnects(source, view) for source, view in pairs],
    }
    return Group(
        fitted(columns, (), ("reconnects", "in flight", "dropped", "decoded"), width),
        Text(),
        *(_place(source, view) for source, view in pairs),
    )


def _place(source: RunSource, view: View) -> Text:
    """Return a source's origin, and its fault if it has one."""
    text = Text(f"{source.name}: {source.place()}", overflow="fold")
    if view.fault:
        text.append(f": {view.fault}", "red")
    for words in warnings(view):
        text.append(f"\n{source.name}: {words}", "yellow")
    return text


def _reconnects(source: RunSource, view: View) -> Text:
    if not source.live:
        return Text("-")
    return Text(str(view.reconnects))


def _published(view: View) -> Text:
    text = Text(str(view.published))
    if view.failed:
        text.append(f"\n{view.failed} failed")
    return text


def _state(state: str, view: View) -> Text:
    text = Text(state, STYLES.get(state, "yellow"))
    if view.since is not None:
        text.append(f" for {span(max(0.0, time.time() - view.since))}")
    return text


def by_reason(drops: Mapping[str, int]) -> str:
    """Return the numbers of dropped frames, a line per reason."""
    return "\n".join(f"{n} {reason}" for reason, n in sorted(drops.items()) if n) or "0"


def accounts(views: Sequence[View]) -> str:
    """Return the accounting of all decoded frames; it is exact at any moment."""
    decoded = sum(view.decoded for view in views)
    published = sum(view.published for view in views)
    dropped = sum(view.dropped for view in views)
    in_flight = sum(view.in_flight for view in views)
    return f"{decoded} decoded = {published} published + {dropped} dropped + {in_flight} in flight"
