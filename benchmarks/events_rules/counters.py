"""Line counters, all with one door: tracks and lines in, crossings out.

Ours is the judge of a run, over results that say these boxes. supervision's is the wheel's
(Roboflow, MIT). The other two are re-implementations for this measurement, from reading how they
decide: Intel DL Streamer's gvaanalytics (15423aa, 2025) and NVIDIA's nvdsanalytics by an older
public copy; what runs today may differ.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.events_rules.tracks import Box, Crossings, Line, Tracks, foot
from framegate.pipeline.config.events import EventsConfig, LineConfig, RuleConfig
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Object, Result
from framegate.stages.events.evaluate import RuleJudge
from framegate.stages.events.state import EventsState

Counting = Callable[[Tracks, Sequence[Line]], Crossings]


def results_of(tracks: Tracks) -> list[Result]:
    """The frames of tracks as they would be published."""
    return [
        Result(
            1, "cam", 1, n, n / tracks.fps, n / tracks.fps, "file", 0.0, *tracks.size, "detected",
            "whole", "none", "changed", _objects(frame), ("labels@0",), 0.0, 0,
        )
        for n, frame in enumerate(tracks.frames)
    ]  # fmt: skip


def _objects(frame: Any) -> tuple[Object, ...]:
    return tuple(
        Object(track, "person", 0, 0.9, box, "detected") for track, box in sorted(frame.items())
    )


def ours(tracks: Tracks, lines: Sequence[Line], handover: bool = True) -> Crossings:
    """Framegate's, with every key by default."""
    config = EventsConfig(
        handover=handover,
        lines={f"l{n}": LineConfig(line, pixels=True) for n, line in enumerate(lines)},
        rules={f"r{n}": RuleConfig("crosses", line=f"l{n}") for n in range(len(lines))},
    )
    judge, state = RuleJudge(config, "cam"), EventsState()
    found: Crossings = Counter()
    told: list[Change] = []
    for result in results_of(tracks):
        changes, state = judge.judge(result, state)
        told += changes.changes if changes is not None else ()
    changes, state = judge.end(End(1, len(tracks.frames), True, epoch=1), state)
    told += changes.changes if changes is not None else ()
    for one in told:
        if one.step == "start" and one.direction is not None:
            found[one.tracks[-1], int(one.rule[1:]), one.direction] += 1
    return found


def without_handover(tracks: Tracks, lines: Sequence[Line]) -> Crossings:
    """Framegate's with handover = false."""
    return ours(tracks, lines, handover=False)


def supervision(anchors: str, threshold: int) -> Counting:
    """LineZone of the wheel. anchors: corners (its default) or foot."""

    def count(tracks: Tracks, lines: Sequence[Line]) -> Crossings:
        import numpy as np
        import supervision as sv

        position = sv.Position
        corners = (
            position.TOP_LEFT, position.TOP_RIGHT, position.BOTTOM_LEFT, position.BOTTOM_RIGHT,
        )  # fmt: skip
        wanted = corners if anchors == "corners" else (position.BOTTOM_CENTER,)
        zones = [sv.LineZone(sv.Point(*a), sv.Point(*b), wanted, threshold) for a, b in lines]
        found: Crossings = Counter()
        for frame in tracks.frames:
            numbers = sorted(frame)
            detections = sv.Detections(
                np.array([frame[n] for n in numbers], np.float64).reshape(-1, 4),
                class_id=np.zeros(len(numbers), int),
                tracker_id=np.array(numbers, int),
            )
            for n, zone in enumerate(zones):
                came, left = zone.trigger(detections)
                for track, into, out in zip(numbers, came, left, strict=True):
                    # Its "in" is from the right of the line to the left.
                    found[track, n, "out"] += bool(into)
                    found[track, n, "in"] += bool(out)
        return +found

    return count


def gvaanalytics(anchor: str) -> Counting:
    """DL Streamer's tripwire: consecutive whole-pixel points, and a proper intersection of the two
    segments: one that only touches is none.
    """

    def point(box: Box) -> tuple[int, int]:
        x = (box[0] + box[2]) / 2
        return int(x), int(box[3] if anchor == "foot" else (box[1] + box[3]) / 2)

    def count(tracks: Tracks, lines: Sequence[Line]) -> Crossings:
        found: Crossings = Counter()
        last: dict[int, tuple[int, int]] = {}
        for frame in tracks.frames:
            for track, box in frame.items():
                now = point(box)
                before = last.get(track)
                last[track] = now
                if before is None:
                    continue
                for n, (a, b) in enumerate(lines):
                    d1, d2 = _turn(a, b, before), _turn(a, b, now)
                    d3, d4 = _turn(before, now, a), _turn(before, now, b)
                    if d1 * d2 < 0 and d3 * d4 < 0:
                        found[track, n, "in" if d2 > 0 else "out"] += 1
        return found

    return count


_MODES: Final = {
    "strict": (6000.0, 0.8, 20),
    "balanced": (3000.0, 0.5, 10),
    "loose": (1000.0, 0.0, 3),
}


def nvdsanalytics(mode: str) -> Counting:
    """NVIDIA's line crossing: from the mean of the oldest four of the last ten sightings to now; it
    must have moved so many pixels, at an angle to the line that its mode allows, after so many
    sightings; each track counts once at a line, for ever.
    """
    moved, cosine, least = _MODES[mode]

    def count(tracks: Tracks, lines: Sequence[Line]) -> Crossings:
        found: Crossings = Counter()
        history: dict[int, deque[tuple[float, float]]] = {}
        sightings: Counter[int] = Counter()
        done: set[tuple[int, int]] = set()
        for frame in tracks.frames:
            for track, box in frame.items():
                now = foot(box)
                past = history.setdefault(track, deque(maxlen=10))
                past.append(now)
                sightings[track] += 1
                if sightings[track] <= least:
                    continue
                oldest = list(past)[:4]
                before = (
                    sum(x for x, _ in oldest) / len(oldest),
                    sum(y for _, y in oldest) / len(oldest),
                )
                step = (now[0] - before[0], now[1] - before[1])
                if step[0] ** 2 + step[1] ** 2 <= moved:
                    continue
                for n, (a, b) in enumerate(lines):
                    if (track, n) in done:
                        continue
                    d1, d2 = _turn(a, b, before), _turn(a, b, now)
                    if d1 * d2 >= 0 or _turn(before, now, a) * _turn(before, now, b) >= 0:
                        continue
                    along = (b[0] - a[0], b[1] - a[1])
                    across = (-along[1], along[0]) if d2 > 0 else (along[1], -along[0])
                    size = math.hypot(*across) * math.hypot(*step)
                    if (across[0] * step[0] + across[1] * step[1]) / max(size, 1e-9) < cosine:
                        continue
                    done.add((track, n))
                    found[track, n, "in" if d2 > 0 else "out"] += 1
        return found

    return count


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


COUNTERS: Final[dict[str, Counting]] = {
    "framegate": ours,
    "framegate, handover = false": without_handover,
    "supervision, default (four corners)": supervision("corners", 1),
    "supervision, foot, threshold 1": supervision("foot", 1),
    "supervision, foot, threshold 2": supervision("foot", 2),
    "supervision, foot, threshold 3": supervision("foot", 3),
    "gvaanalytics, default (centre)": gvaanalytics("center"),
    "gvaanalytics, foot": gvaanalytics("foot"),
    "nvdsanalytics, strict": nvdsanalytics("strict"),
    "nvdsanalytics, balanced": nvdsanalytics("balanced"),
    "nvdsanalytics, loose": nvdsanalytics("loose"),
}
