"""Follow the tracks of results: positions, speeds, and new tracks that continue lost ones.

Pure functions of the tracks before and a result.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.visits import STILL_HEIGHTS
from framegate.stages.events.state import SIXTEENTHS, EventsState, Now, PixelBox, Track

FOOT: Final = (0.5, 1.0)  # of a box: the reference point of most rules
SMOOTH_MS: Final = 120.0
_SPEED_MS: Final = 500.0
_MAX_SIGHTINGS: Final = 1000
_EARLIER: Final = 4  # numbers of earlier tracks that a track keeps

# Hand-over: distance from the predicted position in heights, at first and added per second.
_REACH: Final = 0.3
_REACH_PER_S: Final = 0.25
_PREDICTED_MS: Final = 1000  # longest time for which the position is predicted from the speed
_RATIO: Final = (0.85, 1.18)  # allowed ratio of heights
_ALIKE: Final = (
    frozenset({"car", "truck", "bus", "train"}),
    frozenset({"bicycle", "motorcycle"}),
    frozenset({"cat", "dog", "horse", "sheep", "cow", "bear"}),
    frozenset({"backpack", "handbag", "suitcase"}),
)


def is_sighting(detected: Object) -> bool:
    """Return whether a network detected the object in this frame."""
    return detected.origin not in ("moved", "carried")


class TracksSeen(NamedTuple):
    """The tracks of a frame.

    tracks   all known tracks, those of this frame first, in the order of their numbers
    before   for each track of this frame: the track before; None: its path begins
    objects  for each track of this frame: its object
    handed   number of a lost track -> number of the new track that continues it
    """

    tracks: tuple[Track, ...]
    before: tuple[Track | None, ...]
    objects: tuple[Object, ...]
    handed: Mapping[int, int]


def follow(
    state: EventsState, now: Now, gap_ms: int, reconnect_ms: int, handover: bool
) -> tuple[TracksSeen, tuple[Track, ...]]:
    """Return the tracks after a frame, and the tracks that end with it.

    gap_ms        longest gap without a trace that is bridged
    reconnect_ms  the same across a break
    handover      new tracks may continue lost ones
    """
    objects = {each.track: each for each in now.result.objects if each.track is not None}
    known = {track.number: track for track in state.tracks}
    kept: list[Track] = []
    gone: list[Track] = []
    for number, track in known.items():
        if number in objects:
            continue
        if is_unseen(track, state, now, gap_ms, reconnect_ms):
            gone.append(track)
        else:
            kept.append(track)
    numbers = sorted(objects)
    new = [objects[number] for number in numbers if number not in known]
    handed: dict[int, int] = {}
    if handover and new and kept:
        handed = hand_over(new, kept, state.breaks, now)
    predecessors = {new_number: known[number] for number, new_number in handed.items()}
    tracks: list[Track] = []
    before: list[Track | None] = []
    for number in numbers:
        last = known.get(number) or predecessors.get(number)
        path_from = last
        if last is not None:
            is_broken = last.breaks != state.breaks or now.known_ms - last.known_ms > gap_ms
            if is_broken:
                path_from = None
        tracks.append(_after(last, path_from, objects[number], number, state, now))
        before.append(path_from)
    kept = [track for track in kept if track.number not in handed]
    shown = tuple(objects[number] for number in numbers)
    return TracksSeen((*tracks, *kept), tuple(before), shown, handed), tuple(gone)


def is_unseen(track: Track, state: EventsState, now: Now, gap_ms: int, reconnect_ms: int) -> bool:
    """Return whether a track that is not in this frame is gone for longer than is bridged."""
    limit_ms = gap_ms
    if track.breaks != state.breaks:
        limit_ms = max(gap_ms, reconnect_ms)
    return now.known_ms - track.known_ms > limit_ms


def _after(
    last: Track | None,
    path_from: Track | None,
    detected: Object,
    number: int,
    state: EventsState,
    now: Now,
) -> Track:
    """Return the track after its object in a frame.

    last       the track before
    path_from  the same, or None if the path begins with this frame
    """
    raw = _whole_box(detected, path_from, now)
    foot = _foot(raw)
    sighted = int(is_sighting(detected))
    sightings = sighted
    score = round(detected.score * 10_000) * sighted
    first_ms = now.ms
    fresh_ms = now.ms - state.broke_ms
    earlier: tuple[int, ...] = ()
    still_at = foot
    still_ms = now.ms
    if last is not None:
        sightings = min(last.sightings + sighted, _MAX_SIGHTINGS)
        score = last.score + sighted * round((score - last.score) / max(sightings, 1))
        earlier = last.earlier
        first_ms = last.first_ms
        fresh_ms = last.fresh_ms
        if last.number != number:
            earlier = (*earlier, last.number)[-_EARLIER:]
        if _is_near(foot, last.still_at, raw):
            still_at = last.still_at
            still_ms = last.still_ms
    smooth = raw
    speed = (0, 0)
    sides = (0,) * len(state.lines)
    if path_from is not None:
        sides = path_from.sides
        smooth, speed = _moved(path_from, raw, now)
    return Track(
        number, detected.label, raw, smooth, first_ms, now.ms, now.known_ms, state.breaks,
        sightings, speed, still_at, still_ms, sides, earlier, score, fresh_ms,
    )  # fmt: skip


def _moved(last: Track, raw: PixelBox, now: Now) -> tuple[PixelBox, tuple[int, int]]:
    """Return the smoothed box and the speed after a step to `raw`."""
    smooth = last.smooth
    speed = last.speed
    if raw == smooth and raw == last.raw and speed == (0, 0):
        return smooth, speed
    passed_ms = max(now.ms - last.last_ms, 1)
    box_share, speed_share = _smoothing(passed_ms)
    smooth = (
        round(smooth[0] + box_share * (raw[0] - smooth[0])),
        round(smooth[1] + box_share * (raw[1] - smooth[1])),
        round(smooth[2] + box_share * (raw[2] - smooth[2])),
        round(smooth[3] + box_share * (raw[3] - smooth[3])),
    )
    per_s = 1000 / passed_ms
    x, y = _foot(raw)
    last_x, last_y = _foot(last.raw)
    speed_x, speed_y = speed
    speed = (
        round(speed_x + speed_share * ((x - last_x) * per_s - speed_x)),
        round(speed_y + speed_share * ((y - last_y) * per_s - speed_y)),
    )
    return smooth, speed


@functools.lru_cache(256)
def _smoothing(passed_ms: int) -> tuple[float, float]:
    """Return the weight, 0..1, of a new box and of a new speed after this time."""
    return 1 - math.exp(-passed_ms / SMOOTH_MS), 1 - math.exp(-passed_ms / _SPEED_MS)


def _whole_box(detected: Object, last: Track | None, now: Now) -> PixelBox:
    """Return the box of an object. A box that the lower edge cuts keeps the height of `last`."""
    x1, y1, x2, y2 = [round(edge * SIXTEENTHS) for edge in detected.box]
    if last is not None and y2 >= (now.result.height - 1) * SIXTEENTHS and y1 > SIXTEENTHS:
        y2 = max(y2, y1 + last.raw[3] - last.raw[1])
    return x1, y1, x2, y2


def _foot(box: PixelBox) -> tuple[int, int]:
    return (box[0] + box[2]) // 2, box[3]


def _is_near(foot: tuple[int, int], position: tuple[int, int], box: PixelBox) -> bool:
    reach = STILL_HEIGHTS * (box[3] - box[1])
    return abs(foot[0] - position[0]) <= reach and abs(foot[1] - position[1]) <= reach


def hand_over(
    new: Sequence[Object], lost: Sequence[Track], breaks: int, now: Now
) -> dict[int, int]:
    """Return the new track that continues each lost track, as lost number -> new number.

    Both must be each other's nearest, with a similar class and height, and the new track must begin
    near the predicted position of the lost one. A track that left the picture is not continued.
    """
    distances: dict[tuple[int, int], float] = {}
    for detected, track in itertools.product(new, lost):
        if not _are_alike(detected.label, track.label) or _was_leaving(track, now):
            continue
        x1, y1, x2, y2 = detected.box
        height = (track.raw[3] - track.raw[1]) / SIXTEENTHS
        if not _RATIO[0] <= (y2 - y1) / max(height, 1e-6) <= _RATIO[1]:
            continue
        predicted_s = 0.0
        reach = _REACH
        if track.breaks == breaks:
            gap_ms = now.ms - track.last_ms
            known_ms = min(_PREDICTED_MS, track.last_ms - track.first_ms)
            predicted_s = min(gap_ms, known_ms) / 1000
            reach += _REACH_PER_S * min(gap_ms, _PREDICTED_MS) / 1000
        x, y = _foot(track.raw)
        distance = math.hypot(
            (x + track.speed[0] * predicted_s) / SIXTEENTHS - (x1 + x2) / 2,
            (y + track.speed[1] * predicted_s) / SIXTEENTHS - y2,
        )
        if distance <= height * reach:
            distances[track.number, detected.track or 0] = distance
    best_of_lost: dict[int, tuple[float, int]] = {}
    best_of_new: dict[int, tuple[float, int]] = {}
    for (lost_number, new_number), distance in distances.items():
        to_new = (distance, new_number)
        to_lost = (distance, lost_number)
        best_of_lost[lost_number] = min(best_of_lost.get(lost_number, to_new), to_new)
        best_of_new[new_number] = min(best_of_new.get(new_number, to_lost), to_lost)
    pairs = [(lost_number, best[1]) for lost_number, best in sorted(best_of_lost.items())]
    return {old: new for old, new in pairs if best_of_new[new][1] == old}


def _was_leaving(track: Track, now: Now) -> bool:
    """Return whether the track moved out over the left or right edge of the picture."""
    right_edge = (now.result.width - 1) * SIXTEENTHS
    leaves_left = track.raw[0] <= SIXTEENTHS and track.speed[0] < 0
    leaves_right = track.raw[2] >= right_edge and track.speed[0] > 0
    return leaves_left or leaves_right


def _are_alike(label: str, other: str) -> bool:
    return label == other or any(label in group and other in group for group in _ALIKE)


def anchor(box: PixelBox, at: tuple[float, float]) -> tuple[float, float]:
    """Return the reference point of a box in pixels.

    at  position in the box, 0..1 from its upper left corner
    """
    x1, y1, x2, y2 = box
    return (x1 + (x2 - x1) * at[0]) / SIXTEENTHS, (y1 + (y2 - y1) * at[1]) / SIXTEENTHS


def with_sides(track: Track, sides: tuple[int, ...]) -> Track:
    """Return the track with these sides of the lines."""
    return msgspec.structs.replace(track, sides=sides)
