"""Compare the events that cameras report with the objects that Framegate tracks.

A camera is represented by the episodes of rules with `state = "reported"`, one rule per event, our
side by the visits, and the episodes of rules about objects, which exist before the visit ends. Both
have times of the same frames. Periods of both sides that are at most SLACK_S apart belong together.
"""

from __future__ import annotations

import bisect
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

import msgspec

SLACK_S: Final = 5.0  # a camera reports late, and keeps a state for seconds after the motion
SETTLES_S: Final = 60.0  # after a report; a visit is stored some seconds after its last frame
HOUR_S: Final = 3600.0
LONGEST_S: Final = 86_400.0  # of a period that began before the span
MOST_ROWS: Final = 20_000  # of each side
_MOVES_S: Final = 1.0  # a visit that moved for less is no motion: a parked car is a visit, too

ComparedEvent = Literal["motion", "person", "vehicle", "animal"]
LABELS: Final[Mapping[ComparedEvent, frozenset[str]]] = {
    "person": frozenset({"person"}),
    "vehicle": frozenset({"car", "truck", "bus", "motorcycle", "bicycle", "train", "boat"}),
    "animal": frozenset(
        {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
    ),
}
"""The classes of objects that are an event. Motion is every object that moves."""
_EVENTS: Final[tuple[ComparedEvent, ...]] = get_args(ComparedEvent)
_MARKS: Final = ", ".join("?" * len(_EVENTS))


class Disagreement(msgspec.Struct, frozen=True):
    """A period that only the camera or only Framegate reported.

    source  name of the source
    event   the event that is compared
    only    camera: it reported the event, and no object of Framegate was there. framegate: an
            object was there, and the camera reported nothing
    began   begin, UNIX seconds
    last    end, UNIX seconds
    epoch   epoch of its first frame
    pts     time stamp of its first frame, in seconds
    label   class of the object; "": the camera reported it
    id      id of the camera's episode, or of the visit
    """

    source: str
    event: ComparedEvent
    only: Literal["camera", "framegate"]
    began: float
    last: float
    epoch: int
    pts: float
    label: str
    id: str


class ComparedHour(msgspec.Struct, frozen=True):
    """The numbers of what began in an hour, of one event of a source.

    hour             its begin, UNIX seconds
    reported         number of reports of the camera
    camera_only      those without an object of Framegate
    objects          number of objects of Framegate
    framegate_only   those that the camera did not report
    """

    source: str
    event: ComparedEvent
    hour: float
    reported: int
    camera_only: int
    objects: int
    framegate_only: int


class CameraComparison(msgspec.Struct, frozen=True):
    """The events of cameras beside the objects of Framegate.

    hours          hours with a report or an object, the newest first
    disagreements  the newest disagreements, the newest first
    more           number of older disagreements, which are left out
    sources        sources that are compared: their camera has reported something so far
    is_whole       false: there were more than 20,000 periods, and the oldest are missing
    """

    hours: list[ComparedHour]
    disagreements: list[Disagreement]
    more: int
    sources: list[str]
    is_whole: bool


class _ReportedSpan(NamedTuple):
    began: float
    last: float
    id: str
    label: str
    epoch: int
    pts: float
    moves: bool = True


class _Side:
    """Periods of one side that are about one event, for questions about overlaps."""

    def __init__(self, periods: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._lasts: list[float] = []  # the greatest end so far
        last = float("-inf")
        for began, ended in sorted(periods):
            last = max(last, ended)
            self._begins.append(began)
            self._lasts.append(last)

    def meets(self, began: float, last: float) -> bool:
        """Return whether a period is at most SLACK_S apart from one of these."""
        place = bisect.bisect_right(self._begins, last + SLACK_S)
        return place > 0 and self._lasts[place - 1] >= began - SLACK_S


def compare(
    database: sqlite3.Connection,
    since: float,
    until: float,
    limit: int,
    now: float,
    sources: Sequence[str] = (),
) -> CameraComparison:
    """Compare both sides between two times, UNIX seconds.

    limit    greatest number of disagreements in the answer
    now      present time: what began less than SETTLES_S before is left out
    sources  the sources to compare; empty: all

    A camera is compared from its first report on, and only while it answered.
    """
    until = min(until, now - SETTLES_S)
    first = _first_reports(database)
    hours: dict[tuple[float, str, ComparedEvent], list[int]] = {}
    disagreements: list[Disagreement] = []
    is_whole = True
    compared = sorted({source for source, _ in first if not sources or source in sources})
    for source in compared:
        reports = _reports(database, source, since, until)
        objects = _objects(database, source, since, until)
        present = [*objects, *_present(database, source, since, until, now)]
        unknown = _Side(_unknown(database, source, since, until, now))
        is_whole = is_whole and max(len(reports), len(objects)) < MOST_ROWS
        for event in (event for event in _EVENTS if (source, event) in first):
            ours = [each for each in present if _is_about(each, event)]
            theirs = [each for each in reports if each.label == event]
            judged = _judged(theirs, ours, unknown, first[source, event])
            for period, is_ours, is_alone in judged:
                if not since <= period.began <= until:
                    continue
                key = (period.began // HOUR_S * HOUR_S, source, event)
                counts = hours.setdefault(key, [0, 0, 0, 0])
                counts[2 * is_ours] += 1
                counts[2 * is_ours + 1] += is_alone
                if is_alone:
                    disagreements.append(_disagreement(source, event, period, is_ours))
    disagreements.sort(key=lambda each: (-each.began, each.id))
    rows = [
        ComparedHour(source, event, hour, *hours[hour, source, event])
        for hour, source, event in sorted(hours, key=lambda key: (-key[0], *key[1:]))
    ]
    more = max(0, len(disagreements) - limit)
    return CameraComparison(rows, disagreements[:limit], more, compared, is_whole)


def _judged(
    theirs: Sequence[_ReportedSpan], ours: Sequence[_ReportedSpan], unknown: _Side, first: float
) -> Iterator[tuple[_ReportedSpan, bool, bool]]:
    """Yield each period, whether it is ours, and whether the other side has none for it."""
    our_side = _Side((each.began, each.last) for each in ours)
    their_side = _Side((each.began, each.last) for each in theirs)
    for period in theirs:
        yield period, False, not our_side.meets(period.began, period.last)
    for period in ours:
        is_visit = bool(period.id)
        if is_visit and period.last >= first and not unknown.meets(period.began, period.last):
            yield period, True, not their_side.meets(period.began, period.last)


def _is_about(period: _ReportedSpan, event: ComparedEvent) -> bool:
    if event == "motion":
        return period.moves
    return period.label in LABELS[event]


def _disagreement(
    source: str, event: ComparedEvent, period: _ReportedSpan, is_ours: bool
) -> Disagreement:
    only: Literal["camera", "framegate"] = "camera"
    label = ""
    if is_ours:
        only = "framegate"
        label = period.label
    return Disagreement(
        source, event, only, period.began, period.last, period.epoch, period.pts, label,
        period.id,
    )  # fmt: skip


# -- The rows of both sides.


def _first_reports(database: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """Return the time of the first report of each event, by source and event."""
    rows = database.execute(
        "SELECT source, label, min(began_captured) FROM episode INDEXED BY by_label"
        f" WHERE label IN ({_MARKS}) AND \"when\" = 'state' GROUP BY source, label",
        _EVENTS,
    )
    return {(source, label): first for source, label, first in rows}


def _reports(
    database: sqlite3.Connection, source: str, since: float, until: float
) -> list[_ReportedSpan]:
    """Return the reports of a camera in a span, and those before it that may reach into it."""
    query = (
        "SELECT began_captured, max(last_captured, iif(ended_by IS NULL, ?, 0)), id, label,"
        " began_epoch, began_media_s FROM episode INDEXED BY by_source"
        f" WHERE source = ? AND label IN ({_MARKS}) AND \"when\" = 'state'"
    )
    return _spans(database, query, (until, source, *_EVENTS), since, until)


def _objects(
    database: sqlite3.Connection, source: str, since: float, until: float
) -> list[_ReportedSpan]:
    """Return the visits of a source in a span, and those before it that may reach into it."""
    query = (
        "SELECT began_captured, last_captured, id, label, began_epoch, began_media_s,"
        " last_media_s - began_media_s - dwell_s >= ? FROM visits INDEXED BY visits_by_time"
        " WHERE source = ?"
    )
    return _spans(database, query, (_MOVES_S, source), since, until)


def _present(
    database: sqlite3.Connection, source: str, since: float, until: float, now: float
) -> list[_ReportedSpan]:
    """Return the episodes of rules about objects. They have no id: the visits are counted."""
    query = (
        "SELECT began_captured, iif(ended_by IS NULL, ?, last_captured), '', label, 0, 0.0"
        " FROM episode INDEXED BY by_source WHERE source = ? AND label IS NOT NULL"
        " AND \"when\" NOT IN ('state', 'like')"
    )
    return _spans(database, query, (now, source), since, until)


def _spans(
    database: sqlite3.Connection,
    query: str,
    values: Sequence[object],
    since: float,
    until: float,
) -> list[_ReportedSpan]:
    """Return the newest rows of a query that may be about a span.

    query  of columns as in _ReportedSpan, up to the last condition but the time
    """
    rows = database.execute(
        f"{query} AND began_captured BETWEEN ? AND ? ORDER BY began_captured DESC LIMIT ?",
        (*values, since - LONGEST_S, until + SLACK_S, MOST_ROWS),
    )
    return [_ReportedSpan(*row) for row in rows]


def _unknown(
    database: sqlite3.Connection, source: str, since: float, until: float, now: float
) -> list[tuple[float, float]]:
    """Return the times in which the events of the camera were unknown."""
    rows = database.execute(
        "SELECT since, coalesce(until, ?) FROM unknown WHERE source = ?"
        " AND since <= ? AND coalesce(until, ?) >= ? AND rule IN (SELECT DISTINCT rule FROM episode"
        f" INDEXED BY by_label WHERE source = ? AND \"when\" = 'state' AND label IN ({_MARKS}))",
        (now, source, until + SLACK_S, now, since - LONGEST_S, source, *_EVENTS),
    )
    return list(rows)
