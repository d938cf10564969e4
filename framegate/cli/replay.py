"""`framegate events replay`: apply rules to stored results."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from framegate.cli.arguments import add_data
from framegate.cli.help import ending
from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import Channel, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.client.when import moment
from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.config.events import sounds_asked
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Change, Changes
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, ResultsTrimmed, did_you_mean
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.run.ended import OpenedStore, open_store
from framegate.pipeline.system.logs import to_user

_PATIENCE_S: Final = 60.0
_WHEN: Final = "a time (2026-11-27T10:30, 10:30, or 15m for 15 minutes ago)"

ResultOrEnd: TypeAlias = Result | tuple[str, End]
_ENTRIES: Final[Channel[Any]] = Channel(
    keys.results,
    lambda source, at, data: records.decode_versioned(data, Result),  # noqa: ARG005
    lambda source, at, end: (source, end),  # noqa: ARG005
)


def add_replay(verbs: Any) -> None:
    """Add the verb to the command `events`."""
    command = verbs.add_parser(
        "replay",
        help="test rules on stored results; nothing is stored",
        description="Judge stored results with the rules of a file, exactly as a run would, "
        "and print the episodes.",
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
    add_data(command)
    command.add_argument("--store", metavar="URL", help="the run's store, or env:NAME; not with -d")
    command.add_argument("--since", metavar="WHEN", help=f"only results since: {_WHEN}")
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
    events = read_config(*find_config(parsed.rules)).events
    faults = []
    if not events.rules:
        faults.append(f"{parsed.rules or 'pipeline.toml'}: the file has no [events.rules]")
    faults += [
        f"--rule {name!r}: there is no such rule{did_you_mean(name, events.rules)}"
        for name in parsed.rule
        if name not in events.rules
    ]
    store = url_said(parsed.store)
    if store is not None and parsed.data is not None:
        faults.append("give --store or -d, not both")
    since = _since(parsed.since, faults)
    if faults:
        raise ConfigFaults(faults)
    from framegate.stages.events.evaluate import replay

    counted: Counter[tuple[str, str]] = Counter()
    heard: set[str] = set()
    with open_store(parsed.data) if store is None else OpenedStore(store) as opened:
        follower = Follower(parsed.source or None, "earliest", False, _ENTRIES, once=True)
        with Subscription[Any](Reader(opened.url, follower, _PATIENCE_S)) as stored:
            for change in _changes(replay(events, _entries(stored, since, heard))):
                if parsed.rule and change.rule not in parsed.rule:
                    continue
                if change.step == "start":
                    counted[change.source, change.rule] += 1
                if parsed.json:
                    print(msgspec.json.encode(change).decode())
                elif (change.when, change.step) != ("crosses", "end"):
                    print(line(change))
    if not parsed.json:
        for (source, rule), count in sorted(counted.items()):
            print(f"{source}: {rule}: {count} episodes")
    chosen = parsed.rule or list(events.rules)
    deaf = [name for name in sounds_asked(events) if not heard and name in chosen]
    for name in deaf:
        to_user.warning(
            "rule %s: these results contain no sounds; only a run with a rule about sounds stores "
            "them",
            name,
        )
    if not counted:
        to_user.warning("these rules would have produced no episode")
    return Exit.DONE


def _since(text: str | None, faults: list[str]) -> float:
    if text is None:
        return 0.0
    try:
        when = moment(text, time.time())
    except ValueError:
        when = Position(0, 0)
    if isinstance(when, Position):
        faults.append(f"--since must be {_WHEN}, got {text!r}")
        return 0.0
    return when


def _entries(stored: Subscription[Any], since: float, heard: set[str]) -> Iterator[ResultOrEnd]:
    """Yield results and ends; report results that were removed before they were read.

    heard  receives the names of sources whose results have sounds
    """
    while True:
        try:
            entry = next(stored)
        except StopIteration:
            return
        except ResultsTrimmed as gap:
            to_user.warning("%s", gap)
            continue
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
