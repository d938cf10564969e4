"""Find what was not seen: sources that were not watched or not recorded, rules that were unknown.

The answer comes from the database of episodes (`watched`, `unknown`, `lost`, which `projector`
fills from the store), from the index of recordings (gaps, removed files), and from the counters of
dropped frames.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import msgspec

from framegate.pipeline.recording.index import Index, Trim
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.projection import Watched
from framegate.pipeline.review.search import MAX_STRETCHES, SeenSpan, seen_in

UnseenKind = Literal["not_watched", "not_recorded", "rule_unknown"]

MAX_TIMES: Final = 1000
NO_RUN: Final = "no_run"  # why: no process served the source
WHY_NOT_WATCHED: Final = {
    "closed": "the connection was closed",
    "damaged": "its stream was damaged",
    "died": "its decoder died",
    "ended": "it ended, was removed, or its run was stopped",
    "missing": "the camera has no such stream",
    "no_memory": "the host had no memory for it",
    "no_run": "its run was killed, or its host was away",
    "no_video_stream": "its stream has no video",
    "not_video": "its stream is no video",
    "permission": "the camera refused the login",
    "sizes": "its picture size changed too often",
    "stalled": "no frames arrived",
    "time_jump": "its time stamps jumped",
    "unreachable": "no connection to the camera",
    "unsupported_codec": "its codec is not supported",
}
"""The reasons of times that were not watched, in words; pages have the same ones in tools.js."""

LATE_S: Final = 150.0  # watched times are stored once a minute, so the newest ones are not known
SHORT_S: Final = 1.0  # a shorter pause between two epochs is no time that was not watched


class UnseenTime(msgspec.Struct, frozen=True):
    """A time in which something of a source was not seen.

    source  name of the source
    kind    not_watched: no frames were processed, because the camera was away or no run was active;
            not_recorded: packets arrived and were not recorded; rule_unknown: a rule could not be
            judged
    since   begin, UNIX seconds
    until   end, UNIX seconds; null: it is not over
    rule    name of the rule that could not be judged; empty: not about a rule
    why     reason. not_recorded: such as disk_full. not_watched: a reason of a camera, such as
            unreachable, permission or stalled; ended: the source ended or was removed, or its run
            was stopped; no_run: no process served it, because the run was killed or its host was
            away. Empty: not known
    detail  the last fault of the camera in this time, and its place; empty: none is known
    """

    source: str
    kind: UnseenKind
    since: float
    until: float | None
    rule: str = ""
    why: str = ""
    detail: str = ""


class UnseenSum(msgspec.Struct, frozen=True):
    """All times of a source with the same kind, rule and reason.

    source   name of the source
    kind     as in UnseenTime
    rule     as in UnseenTime
    why      as in UnseenTime
    times    number of times
    seconds  their duration within the span; one that is not over counts up to now
    is_open  whether one of them is not over
    """

    source: str
    kind: UnseenKind
    rule: str
    why: str
    times: int
    seconds: float
    is_open: bool


class DroppedFrames(msgspec.Struct, frozen=True):
    """Frames of a source that arrived and were dropped since its run began.

    source  name of the source
    why     replaced: a newer frame took the place, because the machine was behind; burst: more
            frames arrived at once than may wait
    frames  number of dropped frames
    """

    source: str
    why: str
    frames: int


class Unseen(msgspec.Struct, frozen=True):
    """The times, removals and drops of a span in which something was not seen.

    since    begin of the span, UNIX seconds
    until    its end
    knows    which records exist: `episodes` (also: when sources were watched), `recordings`
    sums     times by source, kind, rule and reason; the longest first
    times    the newest times, the newest first, at most 1000
    more     whether earlier times are left out of `times`. With 5000 connections of cameras in the
             span or more, times that were not watched before them are in no sum either
    removed  removed recordings of each source, by cause; the newest removed file ended at `until`
    lost     outputs of rules that were removed from the store before they were read
    dropped  dropped frames since the run began, by source and reason
    """

    since: float
    until: float
    knows: list[str]
    sums: list[UnseenSum]
    times: list[UnseenTime]
    more: bool
    removed: list[Trim]
    lost: list[str]
    dropped: list[DroppedFrames]


def unseen_in(
    data: Path,
    since: float,
    until: float,
    now: float,
    sources: Collection[str] = (),
    active: Collection[str] | None = None,
    drops: Mapping[str, Mapping[str, int]] | None = None,
) -> Unseen:
    """Return what was not seen between two times, UNIX seconds.

    data     the run's folder
    sources  only these; empty: all
    active   sources that should be watched now; None: all that were watched before
    drops    dropped frames by source and reason

    DatabaseRefused, sqlite3.OperationalError, RecordingLost.
    """
    until = min(until, now)
    knows = []
    times: list[UnseenTime] = []
    removed: list[Trim] = []
    lost: list[str] = []
    begin = since
    if (data / FILE).is_file():
        knows.append("episodes")
        with opened(data / FILE) as database:
            seen = seen_in(database, since, until)
            first = _first_watched(database)
            watched, begin = _watched(database, since, until)
        times += not_watched(watched, first, begin, until, now, active)
        times += _unknown(seen)
        lost = seen.lost
    if (data / FOLDER).is_dir():
        knows.append("recordings")
        with closing(Index(data, makes=False)) as index:
            times += _not_recorded(index, since, until)
            removed = index.trims()
    if sources:
        times = [each for each in times if each.source in sources]
        removed = [each for each in removed if each.source in sources]
        lost = [each for each in lost if each.partition(":")[0] in sources]
    times.sort(key=lambda each: (-each.since, each.source, each.kind, each.rule))
    return Unseen(
        since=since,
        until=until,
        knows=knows,
        sums=sums_of(times, until),
        times=times[:MAX_TIMES],
        more=len(times) > MAX_TIMES or begin > since,
        removed=removed,
        lost=lost,
        dropped=_dropped(drops or {}, sources),
    )


def _first_watched(database: sqlite3.Connection) -> dict[str, float]:
    return dict(database.execute("SELECT source, MIN(first) FROM watched GROUP BY source"))


def _watched(
    database: sqlite3.Connection, since: float, until: float
) -> tuple[list[Watched], float]:
    """Return the newest watched times of a span, with the last one of each source before them, by
    source and time; and the time from which they are complete.
    """
    rows = database.execute(
        "SELECT source, epoch, first, last, why FROM watched WHERE last >= ? AND first <= ?"
        " ORDER BY last DESC LIMIT ?",
        (since, until, MAX_STRETCHES),
    )
    watched = [Watched(*row) for row in rows]
    if len(watched) == MAX_STRETCHES:
        since = max(since, watched[-1].last)
    before = database.execute(
        "SELECT source, epoch, first, max(last), why FROM watched WHERE last < ? GROUP BY source",
        (since,),
    )
    watched += [Watched(*row) for row in before]
    return sorted(watched, key=lambda each: (each.source, each.first)), since


def known_sources(data: Path) -> list[str]:
    """Return the names of the sources of which a run's folder knows something. DatabaseRefused."""
    names: set[str] = set()
    if (data / FILE).is_file():
        with opened(data / FILE) as database:
            names |= set(_first_watched(database))
    if (data / FOLDER).is_dir():
        with closing(Index(data, makes=False)) as index:
            names |= {state.source for state in index.recorders.states()}
            names |= {each.source for each in index.recorded()}
    return sorted(names)


def not_watched(
    watched: Iterable[Watched],
    first: Mapping[str, float],
    since: float,
    until: float,
    now: float,
    active: Collection[str] | None,
) -> list[UnseenTime]:
    """Return the times between watched ones, from the first time that a source was ever watched.

    watched  within the span and the last before it, by source and time
    first    first time that each source was watched, UNIX seconds
    active   sources that should be watched now; None: all
    """
    of_source: dict[str, list[Watched]] = {name: [] for name in first}
    for each in watched:
        of_source.setdefault(each.source, []).append(each)
    times = []
    for name, stretches in of_source.items():
        at = max(since, first.get(name, since))
        latest: Watched | None = None
        for each in stretches:
            if each.first - at >= SHORT_S:
                times.append(_away(name, at, each.first, latest))
            if latest is None or each.last >= latest.last:
                latest = each
            at = max(at, each.last)
        is_expected = active is None or name in active
        if until - at >= SHORT_S and now - at > LATE_S and is_expected:
            end = None
            if now - until > LATE_S:
                end = until
            times.append(_away(name, at, end, latest))
    return times


def _away(source: str, since: float, until: float | None, before: Watched | None) -> UnseenTime:
    """Return a time that was not watched. before: the watched time before it"""
    if before is None or before.why is None:
        return UnseenTime(source, "not_watched", since, until)
    reason, _, detail = before.why.partition(": ")
    return UnseenTime(source, "not_watched", since, until, why=reason or NO_RUN, detail=detail)


def _unknown(seen: SeenSpan) -> list[UnseenTime]:
    return [
        UnseenTime(each.source, "rule_unknown", each.since, each.until, rule=each.rule)
        for each in seen.unknown
    ]


def _not_recorded(index: Index, since: float, until: float) -> list[UnseenTime]:
    """Return the gaps of all recordings, cut to the span, and what cannot be recorded now."""
    names = sorted({loss.source for loss in index.recorders.losses(since)})
    gaps: list[RecordingGap] = []
    for name in names:
        gaps += index.recorders.gaps(name, since, until)
    times = [
        UnseenTime(
            gap.source, "not_recorded", max(gap.since, since), min(gap.until, until), why=gap.why
        )
        for gap in gaps
    ]
    times += [
        UnseenTime(state.source, "not_recorded", max(state.since, since), None, why=state.why)
        for state in index.recorders.states()
        if state.why is not None and state.since < until
    ]
    return times


def sums_of(times: Iterable[UnseenTime], until: float) -> list[UnseenSum]:
    """Return the sums of times, the longest first. until: end of those that are not over"""
    groups: dict[tuple[str, UnseenKind, str, str], list[UnseenTime]] = defaultdict(list)
    for each in times:
        groups[each.source, each.kind, each.rule, each.why].append(each)
    sums = []
    for key, some in groups.items():
        seconds = math.fsum(_seconds(each, until) for each in some)
        is_open = any(each.until is None for each in some)
        sums.append(UnseenSum(*key, times=len(some), seconds=seconds, is_open=is_open))
    return sorted(sums, key=lambda each: (-each.seconds, each.source, each.kind, each.rule))


def _seconds(time: UnseenTime, until: float) -> float:
    if time.until is not None:
        until = time.until
    return max(0.0, until - time.since)


def _dropped(
    drops: Mapping[str, Mapping[str, int]], sources: Collection[str]
) -> list[DroppedFrames]:
    dropped: list[DroppedFrames] = []
    for source in sorted(drops):
        if sources and source not in sources:
            continue
        reasons = sorted(drops[source].items())
        dropped += [DroppedFrames(source, why, frames) for why, frames in reasons if frames]
    return dropped
