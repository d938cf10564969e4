"""Which tracks crossed which lines: the side is that of the smoothed foot, the path is what it was.

A track has a side of each line. Once its smoothed foot is on the other one, it is believed when it
is far enough beyond, or long enough, or when the track ends there; it crossed if its path since it
was on its side meets the line an odd number of times: who walks round the end of the line did not.
That is the path of the smoothed foot, as a trembling one may step round an end that it does not
walk round; where the track ends, that of the foot as it was, as the smoothed one is not there yet.
Of a track that ends two sightings are wanted; one is enough if frames are so rare that there was no
time for two, and at its speed it would soon be far enough.
Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from framegate.models.geometry import Lines
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
from framegate.stages.events.tracks import TracksSeen, anchor, is_sighting, with_sides

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


def cross(
    book: Rulebook, state: EventsState, seen: TracksSeen, gone: tuple[Track, ...], now: Now
) -> Crossed:
    """What this frame's tracks do to the lines. gone: tracks that are given up with it."""
    known = {(one.key, seen.handed.get(one.track, one.track)): one for one in state.passings}
    crossings = _of_ended(book, known, gone, now)
    present = seen.tracks[: len(seen.objects)]
    absent = {track.number for track in seen.tracks[len(present) :]}
    passings = [one for (_, number), one in known.items() if number in absent]
    if not known and all(map(_has_not_moved, present, seen.before)):
        return Crossed(seen.tracks, (), crossings)
    waiting = {number for _, number in known}
    scene = book.scene(now.result.width, now.result.height)
    ranks: dict[str, int] = {}
    tracks: list[Track] = []
    for i, track in enumerate(present):
        last, sides = seen.before[i], track.sides
        smooth_sides, raw_sides = scene.sides(track.smooth), scene.sides(track.raw)
        if smooth_sides == raw_sides == sides and track.number not in waiting and scene.is_straight:
            tracks.append(track)  # as most do in most frames: it is where it was
            continue
        for j, side in enumerate(track.sides):
            smooth, raw = smooth_sides[j], raw_sides[j]
            if side == 0:
                sides = (*sides[:j], smooth, *sides[j + 1 :])
                continue
            lines, number = scene.line_of[j]
            is_there = smooth == side and raw == side and lines.is_straight[number]
            rule = book.wires[j]
            passing = known.get((rule.key, track.number)) if track.number in waiting else None
            if is_there and passing is None:
                continue
            meets, share, smooth_meets = _meetings(lines, number, rule, last, track)
            if passing is None and smooth == side and not meets:
                continue
            if passing is None:
                rank = ranks.get(rule.key, 0)
                ranks[rule.key] = rank + 1
                passing = Passing(
                    rule.key, track.number, rank, now.at, 0, False, -1, 0, (0, 0, 0, 0), ()
                )
            else:
                passing = _replace(passing, track=track.number)
            away = lines.distances(*anchor(track.smooth, rule.at))[number]
            step = _FootStep(side, smooth, raw, away, meets, share, smooth_meets)
            one = seen.objects[i]
            is_seen = is_sighting(one) and one.score >= rule.said.min_score
            passing = _stepped(passing, step, track, last, is_seen, now)
            if raw != side and now.frame_ms * _SIGHTINGS > _LONG_MS:
                goes_on = _goes_on(lines, number, rule, track, raw)
                passing = _replace(passing, goes_on=goes_on)
            if smooth == side and raw == side:
                continue
            if _is_believed(passing, step, track) and track.sightings >= rule.said.min_sightings:
                sides = (*sides[:j], smooth, *sides[j + 1 :])
                if passing.smooth_meets % 2 and _counts(book, rule, track, smooth, now):
                    crossings.append(Crossing(rule, passing, track, smooth > 0))
                continue
            passings.append(passing)
        tracks.append(track if sides is track.sides else with_sides(track, sides))
    return Crossed((*tracks, *seen.tracks[len(present) :]), tuple(passings), crossings)


def _has_not_moved(track: Track, before: Track | None) -> bool:
    """Whether a track stands where it stood, with a side of each line."""
    return (
        before is not None
        and track.raw == before.raw
        and track.smooth == before.smooth
        and 0 not in track.sides
    )


class _FootStep(NamedTuple):
    side: int
    smooth: int
    raw: int
    away: float
    meets: int
    share: float
    smooth_meets: int


def _stepped(
    passing: Passing, step: _FootStep, track: Track, before: Track | None, is_seen: bool, now: Now
) -> Passing:
    """The passing with a step of its track more."""
    is_met = step.meets or (step.smooth_meets and not passing.meets)
    if is_met and before is not None:
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
    smooth_meets = passing.smooth_meets + step.smooth_meets
    return _replace(passing, since_ms=since_ms, sightings=sightings, smooth_meets=smooth_meets)


def _is_believed(passing: Passing, step: _FootStep, track: Track) -> bool:
    """Whether it is on the other side: far enough, or long enough."""
    if step.smooth == step.side or step.raw != step.smooth or not passing.sightings:
        return False
    if abs(step.away) >= _band(track):
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
        if rule is None or track is None:
            continue
        number = book.lines.index(key)
        side = -track.sides[number]
        if passing.sightings < _SIGHTINGS and not (passing.sightings and passing.goes_on):
            continue
        if passing.meets % 2 and _counts(book, rule, track, side, now):
            crossings.append(Crossing(rule, passing, track, side > 0))
    return crossings


def _meetings(
    lines: Lines, number: int, rule: Rule, last: Track | None, track: Track
) -> tuple[int, float, int]:
    """How often the last step met a line: of the foot as it was seen, where on the step (0 to 1,
    of the smoothed foot where only that met it), and how often of the smoothed foot.
    """
    if last is None:
        return 0, 0.0, 0
    meets, share = lines.meets(number, anchor(last.raw, rule.at), anchor(track.raw, rule.at))
    smooth_meets, smooth_share = lines.meets(
        number, anchor(last.smooth, rule.at), anchor(track.smooth, rule.at)
    )
    return meets, share if meets else smooth_share, smooth_meets


def _goes_on(lines: Lines, number: int, rule: Rule, track: Track, side: int) -> bool:
    """Whether a track would be far enough on that side soon, at its speed."""
    (x, y), (u, v) = anchor(track.raw, rule.at), track.speed
    soon_s = _LONG_MS / 1000 / SIXTEENTHS
    return lines.distances(x + u * soon_s, y + v * soon_s)[number] * side >= _band(track)


def _band(track: Track) -> float:
    return max(_BAND * (track.raw[3] - track.raw[1]) / SIXTEENTHS, _LEAST_PX)
