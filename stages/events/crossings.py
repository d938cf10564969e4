"""Which tracks crossed which lines: the side is that of the smoothed foot, the path is what it was.

A track has a side of each line. Once its smoothed foot is on the other one, it is believed when it
is far enough beyond, or long enough, or when the track ends there; it crossed if its path since it
was on its side meets the line an odd number of times: who walks round the end of the line did not.
Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models.events.geometry import Coordinates, Meetings
from framegate.stages.events.episodes import mark
from framegate.stages.events.rules import Rule, Rulebook
from framegate.stages.events.state import (
    SIXTEENTHS,
    EventsState,
    Now,
    Passing,
    Track,
    share_of,
)
from framegate.stages.events.tracks import TracksSeen, anchors, is_sighting, with_sides

_replace = msgspec.structs.replace

_BAND: Final = 0.05  # of the height of a box: so far beyond a line, it is believed
_LEAST_PX: Final = 1.5
_LONG_MS: Final = 400  # so long, too
_SIGHTINGS: Final = 2  # of which there are so many


class Crossing(NamedTuple):
    """A track that crossed a line, for the direction: from left to right, or not."""

    rule: Rule
    passing: Passing
    track: Track
    is_in: bool


class Crossed(NamedTuple):
    """What a frame did: tracks with their sides, who may be about to cross, and who did."""

    tracks: tuple[Track, ...]
    passings: tuple[Passing, ...]
    crossings: list[Crossing]


class _Paths(NamedTuple):
    """Of this frame's tracks (T) and the lines' rules (L)."""

    away: Coordinates
    raw_side: Meetings
    meets: Meetings
    share: Coordinates


def cross(
    book: Rulebook, state: EventsState, seen: TracksSeen, gone: tuple[Track, ...], now: Now
) -> Crossed:
    """What this frame's tracks do to the lines. gone: tracks that are given up with it."""
    known = {(one.key, seen.handed.get(one.track, one.track)): one for one in state.passings}
    crossings = _of_ended(book, known, gone, now)
    present = seen.tracks[: len(seen.objects)]
    absent = {track.number for track in seen.tracks[len(present) :]}
    passings = [one for (_, number), one in known.items() if number in absent]
    if not present:
        return Crossed(seen.tracks, tuple(passings), crossings)
    paths = _paths(book, seen, now)
    sides = np.array([track.sides for track in present], np.int64).reshape(len(present), -1)
    smooth = np.where(paths.away >= 0, 1, -1)
    if not known and not paths.meets.any() and (smooth == sides).all():
        return Crossed(seen.tracks, (), crossings)
    after = np.where(sides == 0, smooth, sides)
    waiting = np.zeros(sides.shape, np.bool_)
    row = {track.number: i for i, track in enumerate(present)}
    column = {key: j for j, key in enumerate(book.lines)}
    for key, number in known:
        if number in row and key in column:
            waiting[row[number], column[key]] = True
    busy = (sides != 0) & ((smooth != sides) | (paths.meets > 0) | waiting)
    ranks: dict[str, int] = {}
    for i, j in zip(*(each.tolist() for each in busy.nonzero()), strict=True):
        rule, track = book.wires[j], present[i]
        step = _FootStep(
            int(sides[i, j]), int(smooth[i, j]), int(paths.raw_side[i, j]), float(paths.away[i, j]),
            int(paths.meets[i, j]), float(paths.share[i, j]),
        )  # fmt: skip
        passing = known.get((rule.key, track.number))
        if passing is None:
            rank = ranks.get(rule.key, 0)
            ranks[rule.key] = rank + 1
            passing = Passing(
                rule.key, track.number, rank, now.at, 0, False, -1, 0, (0, 0, 0, 0), ()
            )
        else:
            passing = _replace(passing, track=track.number)
        is_seen = is_sighting(seen.objects[i]) and seen.objects[i].score >= rule.said.min_score
        passing = _stepped(passing, step, track, seen.before[i], is_seen, now)
        if step.smooth == step.side and step.raw == step.side:
            continue
        if _is_believed(passing, step, track) and track.sightings >= rule.said.min_sightings:
            after[i, j] = step.smooth
            if passing.meets % 2 and _counts(book, rule, track, step.smooth, now):
                crossings.append(Crossing(rule, passing, track, step.smooth > 0))
            continue
        passings.append(passing)
    with_new = tuple(
        track if track.sides == new else with_sides(track, new)
        for track, new in zip(present, map(tuple, after.tolist()), strict=True)
    )
    return Crossed((*with_new, *seen.tracks[len(present) :]), tuple(passings), crossings)


class _FootStep(NamedTuple):
    side: int
    smooth: int
    raw: int
    away: float
    meets: int
    share: float


def _stepped(
    passing: Passing, step: _FootStep, track: Track, before: Track | None, is_seen: bool, now: Now
) -> Passing:
    """The passing with a step of its track more."""
    if step.meets and before is not None:
        passed_ms = now.ms - before.last_ms
        passing = _replace(
            passing,
            met=mark(now, (1 - step.share) * passed_ms),
            meets=passing.meets + step.meets,
            bridged=passed_ms > now.frame_ms,
            box=share_of(track.raw, now.result.width, now.result.height),
            models=now.result.models,
        )
    sightings = passing.sightings + is_seen if step.raw != step.side else 0
    since_ms = -1
    if step.smooth != step.side:
        since_ms = passing.since_ms if passing.since_ms >= 0 else now.ms
    return _replace(passing, since_ms=since_ms, sightings=sightings)


def _is_believed(passing: Passing, step: _FootStep, track: Track) -> bool:
    """Whether it is on the other side: far enough, or long enough."""
    if step.smooth == step.side or step.raw != step.smooth or not passing.sightings:
        return False
    height = (track.raw[3] - track.raw[1]) / SIXTEENTHS
    if abs(step.away) >= max(_BAND * height, _LEAST_PX):
        return True
    is_long = track.last_ms - passing.since_ms >= _LONG_MS
    return is_long and passing.sightings >= _SIGHTINGS


def _counts(book: Rulebook, rule: Rule, track: Track, side: int, now: Now) -> bool:
    wanted = rule.said.direction
    return (
        rule.is_about(track.label)
        and wanted in ("both", "in" if side > 0 else "out")
        and book.is_due(rule, now.at.captured)
    )


def _of_ended(
    book: Rulebook, known: dict[tuple[str, int], Passing], gone: tuple[Track, ...], now: Now
) -> list[Crossing]:
    """Tracks that ended on the other side crossed, if they were seen there often enough."""
    ended = {track.number: track for track in gone}
    crossings = []
    for (key, number), passing in known.items():
        rule, track = book.by_key.get(key), ended.get(number)
        if rule is None or track is None or passing.sightings < _SIGHTINGS:
            continue
        side = -track.sides[book.lines.index(key)]
        if passing.meets % 2 and _counts(book, rule, track, side, now):
            crossings.append(Crossing(rule, passing, track, side > 0))
    return crossings


def _paths(book: Rulebook, seen: TracksSeen, now: Now) -> _Paths:
    """Where the tracks of this frame went, of every rule about a line."""
    scene = book.scene(now.result.width, now.result.height)
    present = seen.tracks[: len(seen.objects)]
    shape = (len(present), len(book.wires))
    found = _Paths(
        np.empty(shape), np.empty(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
    )
    raws = [track.raw for track in present]
    smooths = [track.smooth for track in present]
    before = [(last or track).raw for last, track in zip(seen.before, present, strict=True)]
    for at, columns, lines in scene.wires:
        points = anchors([*smooths, *raws, *before], at)
        away = lines.distances(points).reshape(3, len(present), -1)
        sides = np.where(away[1:] >= 0, 1, -1)
        found.away[:, columns] = away[0]
        found.raw_side[:, columns] = sides[0]
        if lines.are_straight and not (sides[0] != sides[1]).any():
            continue  # none was met
        _, now_at, was_at = points.reshape(3, len(present), 2)
        meets, share = lines.meets(was_at, now_at)
        found.meets[:, columns] = meets
        found.share[:, columns] = share
    return found
