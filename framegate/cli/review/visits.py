"""`framegate visits`: search the visits of a run, mark them, and make a rule of the marks."""

from __future__ import annotations

import argparse
import sqlite3
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.console.arguments import add_data
from framegate.cli.help import ending
from framegate.cli.review.events import lasting
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.likeness import MIN_MARKS
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_search import VOCABULARY
from framegate.pipeline.review.visits import (
    FoundVisit,
    VisitQuery,
    likeness_of,
    mark_visit,
    rule_text,
    search,
)
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.system.logs import to_user

LIMIT: Final = 30


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "visits",
        description="Search visits: tracked objects from their first to their last frame. The best "
        "come first.",
        epilog=ending(
            'framegate visits --words "car, left, stops, after 22:00"',
            "framegate visits --like entrance/1-7312/4",
            "framegate visits --marks van",
            page="visits",
            more=textwrap.fill(f"words: {VOCABULARY}", 79),
        ),
    )
    command.set_defaults(command=_visits)
    add_data(command)
    command.add_argument(
        "--words", metavar="WORDS", default="", help="words with commas between; all must match"
    )
    command.add_argument("--like", metavar="ID", default="", help="the nearest to this visit")
    command.add_argument(
        "--marks", metavar="NAME", default="", help="those that are like the marked visits"
    )
    command.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"print at most N visits ({LIMIT})"
    )
    command.add_argument("--json", action="store_true", help="print one visit per line as JSON")
    verbs = command.add_subparsers(metavar="VERB")
    _add_mark(verbs)
    _add_rule(verbs)


def _add_mark(verbs: Any) -> None:
    command = verbs.add_parser(
        "mark",
        help="mark a visit as alike or not alike",
        description=f"Mark a visit for a name. From {MIN_MARKS} visits that are alike, "
        "`--marks NAME` finds others like them.",
        epilog=ending(
            "framegate visits mark van entrance/1-7312/4",
            "framegate visits mark van entrance/1-9100/6 --not",
            page="visits",
        ),
    )
    command.set_defaults(command=_mark)
    add_data(command)
    command.add_argument("name", metavar="NAME", help="name of the marks")
    command.add_argument("visit", metavar="ID", help="id of the visit")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--not", dest="is_other", action="store_true", help="it is not alike")
    how.add_argument("--undo", action="store_true", help="remove the mark")


def _add_rule(verbs: Any) -> None:
    command = verbs.add_parser(
        "rule",
        help="print a rule about visits that are like the marked ones",
        description="Print a rule for pipeline.toml, with an episode for each visit that is like "
        "the marked ones. `framegate events replay` tries it on stored results.",
        epilog=ending("framegate visits rule van", page="visits"),
    )
    command.set_defaults(command=_rule)
    add_data(command)
    command.add_argument("name", metavar="NAME", help="name of the marks")


def _visits(parsed: argparse.Namespace) -> Exit:
    if parsed.limit < 1:
        raise ConfigFaults([f"--limit must be at least 1, got {parsed.limit}"])
    with opened(_file(parsed)) as database:
        query = VisitQuery(
            parsed.words, parsed.like, parsed.marks, bool(parsed.marks), parsed.limit
        )
        answer = search(VisitIndex(), database, query)
    for each in answer.found:
        if parsed.json:
            print(msgspec.json.encode(each).decode())
        else:
            print(line(each))
    if not answer.found:
        to_user.warning("none of %d visits matches", answer.searched)
    elif answer.matching > len(answer.found):
        to_user.warning("the first %d of %d visits that match", len(answer.found), answer.matching)
    return Exit.DONE


def line(found: FoundVisit) -> str:
    """Return a visit as a line."""
    visit = found.visit
    notes: list[str] = [*visit.colours]
    if visit.stops:
        notes.append(f"stood {lasting(visit.dwell_s)}")
    if found.mark is not None:
        notes.append("marked" if found.mark else "marked as not alike")
    began = datetime.fromtimestamp(visit.began.captured)
    head = f"{began:%Y-%m-%d %H:%M:%S}  {visit.label:<10}  {lasting(visit.seconds):>8}"
    return f"{head}  {found.strength:4.2f}  {visit.id}  {', '.join(notes)}".rstrip()


def _mark(parsed: argparse.Namespace) -> Exit:
    is_alike: bool | None = not parsed.is_other
    if parsed.undo:
        is_alike = None
    file = _file(parsed)
    with opened(file):  # a missing database is refused, not made
        pass
    try:
        marks = mark_visit(file, parsed.name, parsed.visit, is_alike, time.time())
    except sqlite3.Error as error:
        raise ConfigFaults([f"the mark cannot be stored now: {error}"]) from error
    print(f"{marks.name}: {marks.alike} alike, {marks.others} not alike")
    if marks.alike < MIN_MARKS:
        to_user.warning("mark %d more as alike for --marks", MIN_MARKS - marks.alike)
    return Exit.DONE


def _rule(parsed: argparse.Namespace) -> Exit:
    with opened(_file(parsed)) as database:
        likeness = likeness_of(VisitIndex(), database, parsed.name)
    print(rule_text(parsed.name, likeness), end="")
    return Exit.DONE


def _file(parsed: argparse.Namespace) -> Path:
    return data_folder(parsed.data) / FILE
