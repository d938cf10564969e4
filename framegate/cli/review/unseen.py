"""`framegate unseen`: list what was not watched, not recorded, or not judged."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.console.arguments import add_data, given_time
from framegate.cli.help import ending
from framegate.cli.review.events import lasting
from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.review.unseen import (
    WHY_NOT_WATCHED,
    Unseen,
    UnseenTime,
    known_sources,
    unseen_in,
)
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.system.logs import to_user

DAY_S: Final = 86400.0
SHOWN: Final = 30  # times that are printed
_KINDS: Final = {
    "not_watched": "not watched",
    "not_recorded": "not recorded",
    "rule_unknown": "rule unknown",
}
_CAUSES: Final = {"age": "days", "bytes": "bytes", "space": "free_bytes"}


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "unseen",
        description="List when sources were not watched or not recorded, and when rules could not "
        "be judged, with the reasons.",
        epilog=ending(
            "framegate unseen",
            "framegate unseen --since 7d --source door",
            "framegate unseen -d data --json",
            page="review",
        ),
    )
    command.set_defaults(command=_unseen)
    command.add_argument(
        "--since", metavar="WHEN", default="1d", help=f"begin of the span: {TIME} (1d)"
    )
    command.add_argument("--until", metavar="WHEN", help="end of the span (default: now)")
    command.add_argument(
        "--source", action="append", default=[], metavar="NAME", help="only this source; repeatable"
    )
    command.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_data(command)


def _unseen(parsed: argparse.Namespace) -> Exit:
    now = time.time()
    since = given_time("--since", parsed.since) or 0.0
    until = given_time("--until", parsed.until)
    if until is None:
        until = now
    if since >= until:
        raise ConfigFaults(["--since, --until: the end must be after the start"])
    folder: Path = data_folder(parsed.data)
    known = known_sources(folder)
    faults = [
        f"--source {name}: nothing is known of this source{did_you_mean(name, known)}"
        for name in parsed.source
        if name not in known
    ]
    if faults:
        raise ConfigFaults(faults)
    seen = unseen_in(folder, since, until, now, parsed.source)
    if not seen.knows:
        raise ConfigFaults(
            [f"{folder}: there are neither episodes nor recordings; a run with visits or rules "
             "stores when its sources were watched, and one with [record] sources what was not "
             "recorded"]
        )  # fmt: skip
    if parsed.json:
        print(msgspec.json.encode(seen).decode())
        return Exit.DONE
    for line in _lines(seen):
        print(line)
    if "episodes" not in seen.knows:
        to_user.warning(
            "no watched times are stored, so it is not known when sources were not watched"
        )
    return Exit.DONE


def _lines(seen: Unseen) -> Iterator[str]:
    """Yield the sums, the newest times, and what has no time."""
    if not seen.sums:
        yield "nothing is known to be missing in this span"
    else:
        yield f"{'source':<12}  {'in all':>10}  {'times':>6}  what"
    for each in seen.sums:
        still = ""
        if each.is_open:
            still = "  still"
        words = _words(each.kind, each.rule, each.why, "")
        yield f"{each.source:<12}  {lasting(each.seconds):>10}  {each.times:>4} x  {words}{still}"
    if seen.times:
        yield ""
        yield f"{'from':<19}  {'lasted':>10}  {'source':<12}  what"
    for time_ in seen.times[:SHOWN]:
        yield _line(time_)
    if len(seen.times) > SHOWN:
        yield f"earlier times are left out; --json prints {len(seen.times)}"
    for trim in seen.removed:
        yield (
            f"{trim.source}: recordings up to {_moment(trim.until)} were removed by "
            f"[record] {_CAUSES[trim.cause]}"
        )
    for lost in seen.lost:
        yield f"outputs were removed from the store before they were read: {lost}"


def _line(time_: UnseenTime) -> str:
    lasted = "still"
    if time_.until is not None:
        lasted = lasting(time_.until - time_.since)
    words = _words(time_.kind, time_.rule, time_.why, time_.detail)
    return f"{_moment(time_.since)}  {lasted:>10}  {time_.source:<12}  {words}"


def _words(kind: str, rule: str, why: str, detail: str) -> str:
    words = _KINDS[kind]
    if rule:
        words += f" ({rule})"
    if why:
        if " " not in why:  # a code; a sentence can name a key
            why = WHY_NOT_WATCHED.get(why, why.replace("_", " "))
        words += f": {why}"
    if detail:
        words += f" ({detail})"
    return words


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}"
