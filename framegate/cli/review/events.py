"""`framegate events`: list, query and export the episodes of a run; replay rules."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, TypeAlias

import msgspec

from framegate.cli.console.arguments import add_place, given_time, place_faults
from framegate.cli.console.terminal import counted
from framegate.cli.help import ending
from framegate.cli.review.results import entries_of
from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import Channel, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.client.when import TIME
from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.config.events import sounds_asked
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Change, Changes
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.projector import projected
from framegate.pipeline.review.search import Episode, EpisodeFilter, every, find, flat, gaps
from framegate.pipeline.review.user_sql import rows
from framegate.pipeline.run.ended import data_folder, open_store
from framegate.pipeline.run.filters import stored_filters
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, written_whole

LIMIT: Final = 100
ROWS: Final = 10_000  # of a Parquet file, written at a time
_PATIENCE_S: Final = 60.0
ResultOrEnd: TypeAlias = Result | tuple[str, End]
_ENTRIES: Final[Channel[Any]] = Channel(
    keys.results,
    lambda source, at, data: records.decode_versioned(data, Result),  # noqa: ARG005
    lambda source, at, end: (source, end),  # noqa: ARG005
)


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "events",
        description="List episodes, the newest last, as a table or as JSON, or query them "
        "with SQL. An episode is one period in which a rule was true.",
        epilog=ending(
            "framegate events",
            "framegate events --since 1h --rule visitor --label person",
            'framegate events --sql "select rule, count(*) from episode group by rule"',
            page="review",
        ),
    )
    command.set_defaults(command=_events)
    add_place(command)
    _add_filter(command)
    command.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N",
        help=f"print the newest N episodes; 0: all ({LIMIT})",
    )  # fmt: skip
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one episode per line as JSON")
    form.add_argument(
        "--sql",
        metavar="SELECT",
        help="run one SELECT and print its rows; docs/review.md describes the tables",
    )
    verbs = command.add_subparsers(metavar="VERB")
    _add_replay(verbs)
    _add_export(verbs)


def _add_export(verbs: Any) -> None:
    command = verbs.add_parser(
        "export",
        help="export episodes as a Parquet file",
        description="Export episodes as a Parquet file, the oldest first, with the columns of "
        "the table `episode` and the verdict.",
        epilog=ending(
            "framegate events export --parquet episodes.parquet",
            "framegate events export --parquet gate.parquet --rule gate --since 30d",
            page="review",
        ),
    )
    command.set_defaults(command=_export)
    add_place(command)
    _add_filter(command)
    command.add_argument(
        "--parquet", type=Path, metavar="FILE", required=True, help="write FILE (needs pyarrow)"
    )
    add_overwrite(command)


def _add_filter(command: argparse.ArgumentParser) -> None:
    command.add_argument("--since", metavar="WHEN", help=f"only episodes that began since: {TIME}")
    command.add_argument("--until", metavar="WHEN", help="only episodes that began until this time")
    for option in ("rule", "source", "label"):
        command.add_argument(
            f"--{option}", action="append", default=[], metavar="NAME",
            help=f"only this {option}; may be repeated",
        )  # fmt: skip
    command.add_argument("--at", metavar="WHEN", help="only episodes that were open at this time")
    command.add_argument("--open", action="store_true", help="only open episodes")
    command.add_argument(
        "--muted",
        action="store_true",
        help="only episodes that a filter muted, which are left out otherwise",
    )


def _events(parsed: argparse.Namespace) -> Exit:
    if parsed.limit < 0:
        raise ConfigFaults([f"--limit must be at least 0, got {parsed.limit}"])
    wanted = _wanted(parsed)
    with _database(parsed) as database:
        for gap in gaps(database):
            to_user.warning("%s", gap)
        if parsed.sql is not None:
            return _by_sql(database, parsed.sql)
        if parsed.limit:
            episodes = reversed(find(database, wanted, parsed.limit)[0])
        else:
            episodes = every(database, wanted)
        is_empty = True
        table = EpisodeTable()
        for episode in episodes:
            is_empty = False
            if parsed.json:
                print(msgspec.json.encode(episode).decode())
            else:
                print("\n".join(table.lines(episode)))
        if is_empty:
            to_user.warning("there are no such episodes%s", _near_name(database, wanted))
    return Exit.DONE


def _near_name(database: Connection, wanted: EpisodeFilter) -> str:
    """Return a hint at the first rule, source or label of the filter that no episode has."""
    filters = {"rule": wanted.rules, "source": wanted.sources, "label": wanted.labels}
    for column, names in filters.items():
        if not names:
            continue
        stored = database.execute(f"SELECT DISTINCT {column} FROM episode").fetchall()
        known = [name for (name,) in stored if name is not None]
        for name in names:
            if name not in known:
                return did_you_mean(name, known)
    return ""


def _wanted(parsed: argparse.Namespace) -> EpisodeFilter:
    return EpisodeFilter(
        sources=tuple(parsed.source),
        rules=tuple(parsed.rule),
        labels=tuple(parsed.label),
        since=given_time("--since", parsed.since),
        until=given_time("--until", parsed.until),
        open=parsed.open,
        at=given_time("--at", parsed.at),
        muted=parsed.muted,
    )


_ARROW: Final = {"TEXT": "string", "INTEGER": "int64", "REAL": "float64"}


def _export(parsed: argparse.Namespace) -> Exit:
    faults = output_faults("--parquet", parsed.parquet, Inputs({}), parsed.overwrite)
    if find_spec("pyarrow") is None:
        faults.append(
            "--parquet needs the package pyarrow, which is missing; run: pip install pyarrow"
        )
    if faults:
        raise ConfigFaults(faults)
    import pyarrow
    from pyarrow import parquet

    with (
        _database(parsed) as database,
        written_whole("--parquet", parsed.parquet, parsed.overwrite) as new,
    ):
        columns, episodes = flat(database, _wanted(parsed))
        fields = [(name, getattr(pyarrow, _ARROW[kind])()) for name, kind in columns.items()]
        schema = pyarrow.schema(fields)
        with parquet.ParquetWriter(new, schema) as file:
            while batch := list(islice(episodes, ROWS)):
                values = [list(column) for column in zip(*batch, strict=True)]
                file.write_table(pyarrow.table(values, schema=schema))
    print(parsed.parquet)
    return Exit.DONE


@contextmanager
def _database(parsed: argparse.Namespace) -> Iterator[Connection]:
    """Open a run's database, or one made from the streams of a store. ConfigFaults."""
    store = url_said(parsed.store)
    faults = place_faults(parsed)
    if faults:
        raise ConfigFaults(faults)
    if store is not None:
        with closing(projected(store)) as projection:
            yield projection.database
        return
    with opened(data_folder(parsed.data) / FILE) as database:
        yield database


def _by_sql(database: Connection, sql: str) -> Exit:
    """Print the names of the columns, and each row as a line of tab-separated values."""
    names, result = rows(database, sql)
    print("\t".join(names))
    for row in result:
        print("\t".join("" if value is None else str(value) for value in row))
    return Exit.DONE


class EpisodeTable:
    """Return episodes as lines of text, 80 columns wide if names are short."""

    def __init__(self) -> None:
        self._day = ""
        self._wide = {"source": 8, "rule": 8, "what": 14}

    def lines(self, episode: Episode) -> Iterator[str]:
        """Yield the lines of one episode, after new headings and a new day if there are any."""
        began = datetime.fromtimestamp(episode.began.captured)
        cells = {"source": episode.source, "rule": episode.rule, "what": _subject(episode)}
        wider = {name: max(wide, len(cells[name])) for name, wide in self._wide.items()}
        if not self._day or wider != self._wide:
            self._wide = wider
            names = {"source": "source", "rule": "rule", "what": "what"}
            yield self._line("time", names, "lasted", "how")
        if f"{began:%Y-%m-%d}" != self._day:
            self._day = f"{began:%Y-%m-%d}"
            yield f"-- {self._day}"
        lasted = "" if episode.when == "crosses" else lasting(episode.seconds)
        yield self._line(f"{began:%H:%M:%S}", cells, lasted, _notes(episode))

    def _line(self, clock: str, cells: dict[str, str], lasted: str, how: str) -> str:
        padded = "  ".join(f"{cells[name]:<{wide}}" for name, wide in self._wide.items())
        return f"{clock:<8}  {padded}  {lasted:>8}  {how}".rstrip()


def lasting(seconds: float) -> str:
    """Return a duration as 4.5 s, 3:05 min or 1:30 h."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"


def _subject(episode: Episode) -> str:
    tracks = ", ".join(f"#{track}" for track in episode.tracks[:3])
    if len(episode.tracks) > 3:
        tracks += f" +{len(episode.tracks) - 3}"
    value = ""
    if episode.value is not None and not episode.tracks:
        value = f"{episode.value:g}"
    parts = (episode.label, tracks, episode.direction, value)
    return " ".join(part for part in parts if part) or "-"


def _notes(episode: Episode) -> str:
    """Return how the episode ended, and what is special about it."""
    notes = []
    if episode.ended_by is None:
        notes.append("open")
    elif episode.when != "crosses" or episode.ended_by != "over":
        notes.append(episode.ended_by.replace("_", " "))
    if episode.unsure:
        notes.append("unsure")
    if episode.bridged:
        notes.append("bridged")
    if episode.muted:
        notes.append(f"muted by {episode.muted}")
    if episode.verdict:
        notes.append(f"judged {episode.verdict}")
    return ", ".join(notes)


# -- `framegate events replay`: apply rules to stored results.


def _add_replay(verbs: Any) -> None:
    """Add the verb to the command `events`."""
    command = verbs.add_parser(
        "replay",
        help="test rules on stored results; nothing is stored",
        description="Judge stored results with the rules of a file, exactly as a run would, "
        "and print the episodes. Filters that were added to the run in the data folder apply to "
        "all results; with --store, only those of the file apply.",
        epilog=ending(
            "framegate events replay --rules pipeline.toml",
            "framegate events replay --rules new.toml --since 1d --rule gate --json",
            page="events",
        ),
    )
    command.set_defaults(command=_replay)
    command.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="file with a table [events] (default: ./pipeline.toml)",
    )
    add_place(command)
    command.add_argument("--since", metavar="WHEN", help=f"only results since: {TIME}")
    for option, what in (("source", "this source"), ("rule", "this rule")):
        command.add_argument(
            f"--{option}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"only {what}; may be repeated",
        )
    command.add_argument("--json", action="store_true", help="print one change per line as JSON")


def _replay(parsed: argparse.Namespace) -> Exit:
    config = read_config(*find_config(parsed.rules))
    events = config.events
    faults = []
    if not events.rules:
        faults.append(f"{parsed.rules or 'pipeline.toml'}: the file has no [events.rules]")
    faults += [
        f"--rule {name!r}: there is no such rule{did_you_mean(name, events.rules)}"
        for name in parsed.rule
        if name not in events.rules
    ]
    store = url_said(parsed.store)
    faults += place_faults(parsed)
    since = 0.0
    try:
        since = given_time("--since", parsed.since) or since
    except ConfigFaults as error:
        faults += error.faults
    if faults:
        raise ConfigFaults(faults)
    from framegate.stages.events.replay import replay

    episodes: Counter[tuple[str, str]] = Counter()
    heard: set[str] = set()
    with open_store(parsed.data, store) as opened:
        follower = Follower(parsed.source or None, "earliest", False, _ENTRIES, once=True)
        with Subscription[Any](Reader(opened.url, follower, _PATIENCE_S)) as stored:
            filters = stored_filters(opened.folder, config.filters)
            outputs = replay(events, _entries(stored, since, heard), filters)
            for change in _changes(outputs):
                if parsed.rule and change.rule not in parsed.rule:
                    continue
                if change.step == "start":
                    episodes[change.source, change.rule] += 1
                if parsed.json:
                    print(msgspec.json.encode(change).decode())
                elif (change.when, change.step) != ("crosses", "end"):
                    print(line(change))
    if not parsed.json:
        for (source, rule), count in sorted(episodes.items()):
            print(f"{source}: {rule}: {counted(count, 'episode')}")
    chosen = parsed.rule or list(events.rules)
    deaf = [name for name in sounds_asked(events) if not heard and name in chosen]
    for name in deaf:
        to_user.warning(
            "rule %s: these results contain no sounds; only a run with a rule about sounds stores "
            "them",
            name,
        )
    if not episodes:
        to_user.warning("these rules would have produced no episode")
    return Exit.DONE


def _entries(stored: Subscription[Any], since: float, heard: set[str]) -> Iterator[ResultOrEnd]:
    """Yield results since a time, and ends; report results that were removed before.

    heard  receives the names of sources whose results have sounds
    """
    for entry in entries_of(stored):
        if isinstance(entry, Result):
            if entry.captured < since:
                continue
            if entry.sounds is not None:
                heard.add(entry.source)
        yield entry


def _changes(outputs: Iterable[tuple[str, Position, Changes]]) -> Iterator[Change]:
    for _, _, changes in outputs:
        yield from changes.changes


def line(change: Change) -> str:
    """Return a change as a line of at most 80 columns if its names are short."""
    if change.step == "start":
        at, lasted = change.began, ""
    else:
        at, lasted = change.last, f"{change.seconds:.1f} s"
    clock = f"{datetime.fromtimestamp(at.captured):%m-%d %H:%M:%S}"
    value = "" if change.value is None else f"{change.value:g}"
    tracks = ", ".join(f"#{track}" for track in change.tracks[-2:])
    parts = (change.label, tracks, change.direction, value)
    subject = " ".join(part for part in parts if part)
    how = (change.ended_by or "").replace("_", " ")
    head = f"{clock}  {change.source:<8}  {change.rule:<8}  {change.step:<6}  {subject:<12}  "
    return f"{head}{lasted:>8}  {how}".rstrip()
