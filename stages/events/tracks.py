"""Which objects are there, where they stand, and which new track goes on with which that was lost.

Pure: the tracks before and a result in, the tracks after out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts.results import Object
from framegate.stages.events.state import SIXTEENTHS, EventsState, Now, PixelBox, Track

SMOOTH_MS: Final = 120.0
_SPEED_MS: Final = 500.0
_STILL: Final = 0.25  # of its height: who moves less stands still
STILL_MS: Final = 2000  # after which it does
_MOST_SIGHTINGS: Final = 1000
_EARLIER: Final = 4  # numbers of tracks before that are kept

# Hand-over: so many heights from where it was to be, and so many more a second that it is gone.
_REACH: Final = 0.3
_REACH_A_S: Final = 0.25
_FORESEEN_MS: Final = 1000  # for which its speed is believed, if it was seen for so long
_RATIO: Final = (0.85, 1.18)  # of heights
_ALIKE: Final = (
    frozenset({"car", "truck", "bus", "train"}),
    frozenset({"bicycle", "motorcycle"}),
    frozenset({"cat", "dog", "horse", "sheep", "cow", "bear"}),
    frozenset({"backpack", "handbag", "suitcase"}),
)


def is_sighting(one: Object) -> bool:
    """Whether a network saw it in this very frame."""
    return one.origin not in ("moved", "carried")


class TracksSeen(NamedTuple):
    """The tracks of a frame.

    tracks   all that are remembered, those of this frame first, in the order of their numbers
    before   of each of this frame its state before; None: it is new, or its path begins anew
    objects  of each of this frame, in the same order
    handed   number of a lost track -> number of the new one that goes on with it
    """

    tracks: tuple[Track, ...]
    before: tuple[Track | None, ...]
    objects: tuple[Object, ...]
    handed: Mapping[int, int]


def follow(
    state: EventsState, now: Now, gap_ms: int, reconnect_ms: int, handover: bool
) -> tuple[TracksSeen, tuple[Track, ...]]:
    """The tracks after a frame, and those that are given up.

    gap_ms        of no trace that is bridged
    reconnect_ms  the same over a break
    """
    objects = {one.track: one for one in now.result.objects if one.track is not None}
    known = {track.number: track for track in state.tracks}
    kept: list[Track] = []
    gone: list[Track] = []
    for number, track in known.items():
        if number not in objects:
            is_gone = is_unseen(track, state, now, gap_ms, reconnect_ms)
            (gone if is_gone else kept).append(track)
    numbers = sorted(objects)
    new = [objects[number] for number in numbers if number not in known]
    handed = hand_over(new, kept, state.breaks, now) if handover and new and kept else {}
    old = {new_number: known[number] for number, new_number in handed.items()}
    tracks, before = [], []
    for number in numbers:
        last = known.get(number) or old.get(number)
        is_path = (
            last is not None
            and last.breaks == state.breaks
            and now.known_ms - last.known_ms <= gap_ms
        )
        tracks.append(_after(last, objects[number], number, state, now, is_path))
        before.append(last if is_path else None)
    kept = [track for track in kept if track.number not in handed]
    shown = tuple(objects[number] for number in numbers)
    return TracksSeen((*tracks, *kept), tuple(before), shown, handed), tuple(gone)


def is_unseen(track: Track, state: EventsState, now: Now, gap_ms: int, reconnect_ms: int) -> bool:
    """Whether a track that is not in this frame is gone for longer than that is bridged."""
    limit_ms = gap_ms if track.breaks == state.breaks else max(gap_ms, reconnect_ms)
    return now.known_ms - track.known_ms > limit_ms


def _after(
    last: Track | None, one: Object, number: int, state: EventsState, now: Now, is_path: bool
) -> Track:
    """The track after the object of a frame; is_path: it goes on from where it was."""
    raw = _whole(one, last if is_path else None, now)
    x1, y1, x2, y2 = raw
    foot = _foot(raw)
    sightings, first_ms = int(is_sighting(one)), now.ms
    earlier: tuple[int, ...] = ()
    still_at, still_ms = foot, now.ms
    if last is not None:
        sightings = min(last.sightings + sightings, _MOST_SIGHTINGS)
        earlier, first_ms = last.earlier, last.first_ms
        if last.number != number:
            earlier = (*earlier, last.number)[-_EARLIER:]
        if _is_near(foot, last.still_at, raw):
            still_at, still_ms = last.still_at, last.still_ms
    if last is None or not is_path:
        nothing = (0,) * len(state.lines)
        return Track(
            number, one.label, raw, raw, first_ms, now.ms, now.known_ms, state.breaks, sightings,
            (0, 0), still_at, still_ms, nothing, earlier,
        )  # fmt: skip
    smooth, speed = last.smooth, last.speed
    if raw != smooth or raw != last.raw or speed != (0, 0):
        passed_ms = max(now.ms - last.last_ms, 1)
        part, quick = _parts(passed_ms)
        a, b, c, d = smooth
        smooth = (
            round(a + part * (x1 - a)),
            round(b + part * (y1 - b)),
            round(c + part * (x2 - c)),
            round(d + part * (y2 - d)),
        )
        was, a_s = _foot(last.raw), 1000 / passed_ms
        u, v = speed
        speed = (
            round(u + quick * ((foot[0] - was[0]) * a_s - u)),
            round(v + quick * ((foot[1] - was[1]) * a_s - v)),
        )
    return Track(
        number, one.label, raw, smooth, first_ms, now.ms, now.known_ms, state.breaks, sightings,
        speed, still_at, still_ms, last.sides, earlier,
    )  # fmt: skip


@functools.lru_cache(256)
def _parts(passed_ms: int) -> tuple[float, float]:
    """How far a place and a speed move to what is seen, after so long: 0..1."""
    return 1 - math.exp(-passed_ms / SMOOTH_MS), 1 - math.exp(-passed_ms / _SPEED_MS)


def _whole(one: Object, last: Track | None, now: Now) -> PixelBox:
    """The box of an object; where the picture's lower edge cuts it, with the height it had."""
    a, b, c, d = one.box
    x1, y1, x2, y2 = (
        round(a * SIXTEENTHS), round(b * SIXTEENTHS), round(c * SIXTEENTHS), round(d * SIXTEENTHS)
    )  # fmt: skip
    if last is not None and y2 >= (now.result.height - 1) * SIXTEENTHS and y1 > SIXTEENTHS:
        y2 = max(y2, y1 + last.raw[3] - last.raw[1])
    return x1, y1, x2, y2


def _foot(box: PixelBox) -> tuple[int, int]:
    return (box[0] + box[2]) // 2, box[3]


def _is_near(foot: tuple[int, int], there: tuple[int, int], box: PixelBox) -> bool:
    reach = _STILL * (box[3] - box[1])
    return abs(foot[0] - there[0]) <= reach and abs(foot[1] - there[1]) <= reach


def hand_over(
    new: Sequence[Object], lost: Sequence[Track], breaks: int, now: Now
) -> dict[int, int]:
    """Which lost track each new one goes on with, lost number -> new number: each other's nearest,
    of like class and height, within reach of where the lost one would be. Who was leaving the
    picture is gone.
    """
    reach: dict[tuple[int, int], float] = {}
    for one in new:
        x1, y1, x2, y2 = one.box
        for track in lost:
            if not _are_alike(one.label, track.label) or _was_leaving(track, now):
                continue
            height = (track.raw[3] - track.raw[1]) / SIXTEENTHS
            if not _RATIO[0] <= (y2 - y1) / max(height, 1e-6) <= _RATIO[1]:
                continue
            gap_ms = now.ms - track.last_ms
            known_ms = min(_FORESEEN_MS, track.last_ms - track.first_ms)
            believed = min(gap_ms, known_ms) / 1000 if track.breaks == breaks else 0.0
            x, y = _foot(track.raw)
            away = math.hypot(
                (x + track.speed[0] * believed) / SIXTEENTHS - (x1 + x2) / 2,
                (y + track.speed[1] * believed) / SIXTEENTHS - y2,
            )
            grown_ms = min(gap_ms, _FORESEEN_MS) if track.breaks == breaks else 0
            if away <= height * (_REACH + _REACH_A_S * grown_ms / 1000):
                reach[track.number, one.track or 0] = away
    best_of_lost: dict[int, tuple[float, int]] = {}
    best_of_new: dict[int, tuple[float, int]] = {}
    for (number, other), away in reach.items():
        best_of_lost[number] = min(best_of_lost.get(number, (away, other)), (away, other))
        best_of_new[other] = min(best_of_new.get(other, (away, number)), (away, number))
    return {
        number: other
        for number, (_, other) in sorted(best_of_lost.items())
        if best_of_new[other][1] == number
    }


def _was_leaving(track: Track, now: Now) -> bool:
    """Whether it went out over the left or right edge of the picture."""
    right = (now.result.width - 1) * SIXTEENTHS
    return (track.raw[0] <= SIXTEENTHS and track.speed[0] < 0) or (
        track.raw[2] >= right and track.speed[0] > 0
    )


def _are_alike(one: str, other: str) -> bool:
    return one == other or any(one in group and other in group for group in _ALIKE)


def anchor(box: PixelBox, at: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that stands for its object, in pixels.

    at  0..1 of the box, from its upper left corner
    """
    a, b, c, d = box
    return (a + (c - a) * at[0]) / SIXTEENTHS, (b + (d - b) * at[1]) / SIXTEENTHS


def with_sides(track: Track, sides: tuple[int, ...]) -> Track:
    """The track with other sides of lines."""
    return msgspec.structs.replace(track, sides=sides)
