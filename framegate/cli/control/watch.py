"""`framegate watch` and `snapshot`: show a run's sources, and save a picture of one.

`telemetry/source_table` has the columns, `telemetry/source_view` the values.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import structs
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from framegate.cli.console.arguments import add_place, add_run, place_faults
from framegate.cli.help import ending
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    FramegateError,
    RunRefused,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.queries import AskCounts, CacheCounts
from framegate.pipeline.fleet.served_by import FleetNow, ServedBy, read_fleet
from framegate.pipeline.run.ended import OpenedStore, open_store
from framegate.pipeline.run.rpc import (
    GetCounts,
    GetStore,
    NoRun,
    Running,
    StageCounts,
    ask,
    find_run,
)
from framegate.pipeline.store.redis_client import store_errors
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, write_whole
from framegate.pipeline.telemetry.recording_sound_sinks import Beside, in_lines, look_beside
from framegate.pipeline.telemetry.source_table import as_table
from framegate.pipeline.telemetry.source_view import View, Viewer


def register(commands: Any) -> None:
    """Add the two commands to the command line."""
    _register_watch(commands)
    _register_snapshot(commands)


def _register_watch(commands: Any) -> None:
    command = commands.add_parser(
        "watch",
        description="Show a live table of a run's sources: state, frames per second, latency, "
        "objects, drops. For an ended run, show its final state.",
        epilog=ending(
            "framegate watch",
            "framegate watch entrance -d data",
            "framegate watch --json --once",
            page="running",
        ),
    )
    command.set_defaults(command=_watch)
    command.add_argument("sources", nargs="*", metavar="NAME", help="sources (default: all)")
    add_place(command)
    command.add_argument("--json", action="store_true", help="print one line of JSON per second")
    command.add_argument("--once", action="store_true", help="print once and exit")


def _register_snapshot(commands: Any) -> None:
    command = commands.add_parser(
        "snapshot",
        description="Save the last published frame of a source as a JPEG, with its objects "
        "drawn. It uses the run's HTTP port.",
        epilog=ending(
            "framegate snapshot entrance",
            "framegate snapshot entrance -o door.jpg --plain --overwrite",
            page="running",
        ),
    )
    command.set_defaults(command=_snapshot)
    command.add_argument("source", metavar="NAME", help="name of the source")
    add_run(command)
    command.add_argument(
        "-o",
        dest="file",
        type=Path,
        metavar="FILE",
        help="file to write (default: NAME.jpg); -: standard output",
    )
    command.add_argument("--plain", action="store_true", help="without boxes and labels")
    add_overwrite(command)


def _watch(parsed: argparse.Namespace) -> Exit:
    faults = place_faults(parsed)
    if faults:
        raise ConfigFaults(faults)
    return watch(url_said(parsed.store), parsed.data, parsed.sources, parsed.json, parsed.once)


def _snapshot(parsed: argparse.Namespace) -> Exit:
    return snapshot(parsed.source, parsed.data, parsed.file, parsed.plain, parsed.overwrite)


# -- Counts of a run's questions to the heavy model, and of its look-ups in the cache.


PATIENCE_S = 3.0


def counts_of(folder: Path | None) -> StageCounts:
    """Return the counts of the run in a folder; empty if it has ended or is unknown."""
    unknown = StageCounts({}, {})
    if folder is None:
        return unknown
    try:
        counts = ask(folder, GetCounts(), PATIENCE_S)
    except (ConfigFaults, RunRefused):
        return unknown
    assert isinstance(counts, StageCounts)
    return counts


def as_lines(counts: StageCounts) -> Iterator[str]:
    """Yield the counts in words, stage by stage."""
    for stage, asks in counts.asks.items():
        if asks != AskCounts():
            yield f"{stage}: {in_words(asks)}"
    for stage, cache in counts.cache.items():
        if cache.hits + cache.misses + cache.skipped:
            yield f"{stage}: {look_ups_in_words(cache)}"


def in_words(asks: AskCounts) -> str:
    """Return answers, breaker, failures by reason, sent bytes and budgets in words."""
    parts = [f"{asks.answered} answers, {asks.joined} of them shared", f"breaker {asks.breaker}"]
    if asks.answered:
        parts.append(f"{1e3 * asks.waited_s / asks.answered:.0f} ms a question")
    parts += [f"{n} {reason}" for reason, n in sorted(asks.degraded.items())]
    if asks.sent_bytes:
        parts.append(f"{asks.sent_bytes / 1e6:.1f} MB up")
    if asks.left:
        budgets = [f"{source} {left:.1f}" for source, left in sorted(asks.left.items())]
        parts.append(f"questions left: {', '.join(budgets)}")
    return "; ".join(parts)


def look_ups_in_words(cache: CacheCounts) -> str:
    """Return the share of hits, refused entries, and sources without the cache, in words."""
    looked_up = cache.hits + cache.misses
    parts = [
        f"{cache.hits / max(1, looked_up):.1%} of {looked_up} inputs were exact repetitions, "
        "answered from memory"
    ]
    if cache.refused:
        parts.append(f"{cache.refused} refused")
    if cache.off:
        parts.append(f"hits are rare: off in {cache.off} of {cache.sources} sources")
    return "; ".join(parts)


EVERY_S = 1.0


def watch(
    store: str | None, folder: Path | None, names: list[str], as_json: bool, once: bool
) -> Exit:
    """Show the sources of a run once a second, until it ends or Ctrl-C; an ended run once."""
    with open_store(folder, store) as opened:
        viewer = Viewer(opened.url, opened.ended)
        try:
            _show(viewer, names, as_json, once, opened)
        except KeyboardInterrupt:
            pass
        finally:
            viewer.close()
        if opened.ended:
            to_user.warning("%s", opened.how_it_goes_on())
    return Exit.DONE


def _show(viewer: Viewer, names: list[str], as_json: bool, once: bool, opened: OpenedStore) -> None:
    """Show the sources until the run ends. Wait while its store is started again."""
    show = _print_lines if as_json else _show_table
    while True:
        try:
            show(viewer, names, once, opened)
            return
        except (StoreLost, StoreBusy):
            if once:
                raise
            if opened.folder is None:  # only the store is known
                print("framegate: the store is gone; the run may have ended", file=sys.stderr)
                return
            if not _is_active(opened.folder):
                print("framegate: the run has ended", file=sys.stderr)
                return
        time.sleep(EVERY_S)


def _is_active(folder: Path) -> bool:
    try:
        ask(folder, GetStore(), PATIENCE_S)
    except NoRun:
        return False
    except RunRefused:  # it is there, and has not replied in time
        return True
    return True


def _look(viewer: Viewer, names: list[str]) -> list[View]:
    """Return the views of these sources; without names, of all that were not removed."""
    views = viewer.look(names or viewer.sources())
    return [view for view in views if names or view.state != "removed"]


def _look_twice(viewer: Viewer, names: list[str]) -> list[View]:
    """Look twice, because a rate needs two looks."""
    _look(viewer, names)
    time.sleep(EVERY_S)
    return _look(viewer, names)


def _served_by(opened: OpenedStore, views: list[View]) -> dict[str, ServedBy]:
    """Return the slot of each source; none without a fleet, for an ended run, and for a reader who
    may not read the plan.
    """
    now = FleetNow()
    if not opened.ended:
        with suppress(StoreRefused):
            now = read_fleet(opened.url)
    return {view.source: now.served_by(view.source) for view in views}


def _away_lines(views: list[View], served: Mapping[str, ServedBy]) -> list[str]:
    """Return a line for each reason why slots do not serve sources, which it names."""
    sources: dict[str, list[str]] = {}
    for view in views:
        why = served[view.source].away
        if why and view.state not in ("finished", "failed", "removed"):
            sources.setdefault(why, []).append(view.source)
    return [f"away: {', '.join(names)}: {why}" for why, names in sources.items()]


def _look_beside(
    viewer: Viewer, views: list[View], opened: OpenedStore
) -> tuple[StageCounts, dict[str, Beside]]:
    active_folder = None if opened.ended else opened.folder
    counts = counts_of(active_folder)
    names = [view.source for view in views]
    with store_errors(opened.url):
        beside = look_beside(viewer.client, opened.folder, names, counts.sinks, counts.hears)
    return counts, beside


def _show_table(viewer: Viewer, names: list[str], once: bool, opened: OpenedStore) -> None:
    """Show a table; only an active run on this host reports the counts of its workers."""
    console = Console(highlight=False)
    is_single = once or opened.ended

    def shown(views: list[View]) -> Group:
        counts, beside = _look_beside(viewer, views, opened)
        folded = []
        away = _away_lines(views, _served_by(opened, views))
        for line in [*away, *in_lines(beside, time.time()), *as_lines(counts)]:
            folded += wrap(line, console.width)
        height = None if is_single else console.height - 1 - len(folded)
        return Group(as_table(views, console.width, height), *map(escape, folded))

    if is_single:
        look = _look if opened.ended else _look_twice
        console.print(shown(look(viewer, names)))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(shown(_look(viewer, names)), refresh=True)
            time.sleep(EVERY_S)


def _print_lines(viewer: Viewer, names: list[str], once: bool, opened: OpenedStore) -> None:
    look = _look_twice if once and not opened.ended else _look
    while True:
        views = look(viewer, names)
        _, beside = _look_beside(viewer, views, opened)
        served = _served_by(opened, views)
        rows = [
            {**asdict(view), **asdict(beside[view.source]), **structs.asdict(served[view.source])}
            for view in views
        ]
        print(msgspec.json.encode(rows).decode(), flush=True)
        if once or opened.ended:
            return
        time.sleep(EVERY_S)


# -- `framegate snapshot`: the current picture of a source.


ANSWER_S = 20.0
STDOUT = Path("-")

# The run is on this host, so a proxy of the environment is never used.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class NoPicture(FramegateError):
    """Raised if a source has no picture now; the message has the reason."""


@dataclass(frozen=True)
class Snapshot:
    """A JPEG, its age since it was published, and the state of its source if that has a fault."""

    jpeg: bytes
    age_s: float
    state: str | None

    def in_words(self, source: str) -> str:
        """Return the age of the picture, and the source's state, in words."""
        taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - self.age_s))
        text = f"{source}: a picture of {self.age_s:.1f} s ago ({taken})"
        if self.state is not None:
            text += f", the last one: the source is {self.state}"
        return text


def snapshot(
    source: str, folder: Path | None, file: Path | None, plain: bool, overwrite: bool = False
) -> Exit:
    """Write the picture to `file` (default SOURCE.jpg; `-`: standard output).

    Its age goes to stderr. Returns SOURCE_FAILED if the source is lost or failed.
    """
    path = file or Path(f"{source}.jpg")
    run = find_run(folder)
    if file != STDOUT and (faults := output_faults("-o", path, Inputs({}), overwrite)):
        raise ConfigFaults(faults)
    picture = fetch(run, source, plain)
    if file == STDOUT:
        sys.stdout.buffer.write(picture.jpeg)
        sys.stdout.buffer.flush()
    else:
        write_whole("-o", path, picture.jpeg, overwrite)
        print(path)
    print(f"framegate: {picture.in_words(source)}", file=sys.stderr)
    return Exit.DONE if picture.state is None else Exit.SOURCE_FAILED


def fetch(run: Running, source: str, plain: bool, width: int | None = None) -> Snapshot:
    """Fetch a source's picture, at most `width` wide. NoPicture if there is none now; ConfigFaults
    for a run without HTTP and for an unknown source.
    """
    if run.http is None:
        raise ConfigFaults(
            [
                f"the run in {run.folder} has no HTTP port, so there are no pictures; start it "
                "with --http"
            ]
        )
    if not is_name(source):
        raise ConfigFaults([f"source {source!r}: a name must be {NAME_RULE}"])
    options: dict[str, int] = {}
    if plain:
        options["plain"] = 1
    if width:
        options["width"] = width
    url = f"http://{run.http}/snapshot/{source}.jpg?{urlencode(options)}"
    try:
        try:
            return _picture(url, "")
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            return _picture(url, run.http_token)
    except urllib.error.HTTPError as error:
        reason = error.read().decode(errors="replace").strip()
        if error.code == 404:
            raise ConfigFaults([reason]) from error
        raise NoPicture(reason) from error
    except OSError as error:
        raise NoPicture(f"http://{run.http}: the run sent no picture: {error}") from error


def _picture(url: str, token: str) -> Snapshot:
    # It loads starlette, for which no other command should wait.
    from framegate.pipeline.web.pictures.picture_routes import AGE, STATE

    headers = {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with _open(urllib.request.Request(url, headers=headers), timeout=ANSWER_S) as answer:
        return Snapshot(answer.read(), float(answer.headers[AGE]), answer.headers.get(STATE))
