"""Labelled tracks, what may be wrong with them, lines over them, and who crossed which for sure."""

from __future__ import annotations

import random
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

Box = tuple[float, float, float, float]
Line = tuple[tuple[float, float], tuple[float, float]]
Crossings = Counter[tuple[int, int, str]]
"""How often: by track, line and direction."""


@dataclass(frozen=True)
class Tracks:
    """Boxes (x1, y1, x2, y2 in pixels) by frame, counted from 0, and track."""

    name: str
    size: tuple[int, int]
    fps: float
    frames: tuple[Mapping[int, Box], ...]


SEQUENCES: Final = {
    "TUD-Stadtmitte": ((640, 480), 25.0),
    "TUD-Campus": ((640, 480), 25.0),
}
MAY_CHOOSE: Final = ("TUD-Stadtmitte", "TUD-Campus")
"""Tracks on which constants of ours were looked at; the others only judge."""


def read_wheel(wheel: Path, name: str, file: str = "gt.txt") -> Tracks:
    """A sequence of the wheel motmetrics (MIT); file: gt.txt, or test.txt, a tracker's output."""
    size, fps = SEQUENCES[name]
    with zipfile.ZipFile(wheel) as packed:
        text = packed.read(f"motmetrics/data/{name}/{file}").decode()
    return Tracks(name, size, fps, _frames(text))


def read_ground(
    wheel: Path, name: str
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Where feet are in the pictures of a sequence of the wheel, and on the ground in metres."""
    with zipfile.ZipFile(wheel) as packed:
        text = packed.read(f"motmetrics/data/{name}/gt.txt").decode()
    rows = [[float(one) for one in row.split(",")] for row in text.split()]
    feet = [(x + w / 2, y + h) for _, _, x, y, w, h, *_ in rows]
    return feet, [(row[7], row[8]) for row in rows]


def read_clip(data: Path, clip: str, size: tuple[int, int], fps: float) -> Tracks:
    """Labels of a clip of the test data, in the form of MOTChallenge."""
    return Tracks(
        clip, size, fps, _frames((data / "gt" / clip / "gt.txt").read_text(encoding="utf-8"))
    )


def _frames(text: str) -> tuple[dict[int, Box], ...]:
    rows: dict[int, dict[int, Box]] = {}
    for row in text.split():
        frame, track, x, y, w, h = (float(one) for one in row.split(",")[:6])
        rows.setdefault(int(frame) - 1, {})[int(track)] = (x, y, x + w, y + h)
    return tuple(rows.get(n, {}) for n in range(max(rows) + 1))


# -- What may be wrong with tracks.


def every(tracks: Tracks, step: int) -> Tracks:
    """One frame of so many."""
    return replace(tracks, frames=tracks.frames[::step], fps=tracks.fps / step)


def missing(tracks: Tracks, share: float, seed: int) -> Tracks:
    """Without so many boxes, drawn one by one."""
    rng = random.Random(seed)
    frames = tuple({k: b for k, b in f.items() if rng.random() >= share} for f in tracks.frames)
    return replace(tracks, frames=frames)


def with_gaps(tracks: Tracks, seed: int, seconds: float = 0.5, each_s: float = 2.0) -> Tracks:
    """Each track is away for half a second, once in two in the mean."""
    rng = random.Random(seed)
    until: dict[int, int] = {}
    frames = []
    for n, frame in enumerate(tracks.frames):
        kept = {}
        for track, box in frame.items():
            if n < until.get(track, 0):
                continue
            if rng.random() < 1 / (each_s * tracks.fps):
                until[track] = n + round(seconds * tracks.fps)
                continue
            kept[track] = box
        frames.append(kept)
    return replace(tracks, frames=tuple(frames))


def jittered(tracks: Tracks, share: float, seed: int) -> Tracks:
    """Each edge of each box off by normal noise of so much of its width and height."""
    rng = random.Random(seed)

    def off(box: Box) -> Box:
        w, h = box[2] - box[0], box[3] - box[1]
        a, b, c, d = (
            edge + rng.gauss(0, share * size) for edge, size in zip(box, (w, h, w, h), strict=True)
        )
        return a, b, max(c, a + 1), max(d, b + 1)

    frames = tuple({track: off(box) for track, box in f.items()} for f in tracks.frames)
    return replace(tracks, frames=frames)


def switched(tracks: Tracks, seed: int, each: float = 30.0, lost: int = 4) -> Tracks:
    """Each track gets another number once in so many frames in the mean, and is lost before."""
    rng = random.Random(seed)
    number: dict[int, int] = {}
    until: dict[int, int] = {}
    fresh = 1000
    frames = []
    for n, frame in enumerate(tracks.frames):
        kept = {}
        for track, box in frame.items():
            if n < until.get(track, 0):
                continue
            if rng.random() < 1 / each:
                fresh += 1
                number[track], until[track] = fresh, n + lost
                continue
            kept[number.get(track, track)] = box
        frames.append(kept)
    return replace(tracks, frames=tuple(frames))


class Condition(NamedTuple):
    """Something that is wrong with tracks."""

    name: str
    spoil: Callable[[Tracks, int], Tracks]


CONDITIONS: Final = (
    Condition("as_labelled", lambda tracks, seed: tracks),  # noqa: ARG005
    Condition("every_3rd", lambda tracks, seed: every(tracks, 3)),  # noqa: ARG005
    Condition("every_6th", lambda tracks, seed: every(tracks, 6)),  # noqa: ARG005
    Condition("15_percent_missing", lambda tracks, seed: missing(tracks, 0.15, seed)),
    Condition("gaps_of_half_a_second", with_gaps),
    Condition("jitter_3_percent", lambda tracks, seed: jittered(tracks, 0.03, seed)),
    Condition("jitter_6_percent", lambda tracks, seed: jittered(tracks, 0.06, seed)),
    Condition(
        "jitter_3_percent_and_gaps",
        lambda tracks, seed: with_gaps(jittered(tracks, 0.03, seed), seed),
    ),
)
SWITCHES: Final = Condition("made_id_switches", switched)


# -- Lines, and who crossed them.


def lines_over(tracks: Tracks) -> list[Line]:
    """Seven upright, seven level, through where feet are, and three short slanted ones."""
    feet = [foot(box) for frame in tracks.frames for box in frame.values()]
    width, height = tracks.size
    low, high = min(y for _, y in feet), max(y for _, y in feet)
    lines: list[Line] = []
    for part in range(1, 8):
        x, y = width * part / 8, low + (high - low) * part / 8
        lines += [((x, 0.0), (x, float(height))), ((0.0, y), (float(width), y))]
    middle, reach = (low + high) / 2, (high - low) / 2
    for part in (1, 2, 3):
        x = width * part / 4
        lines.append(((x - width / 10, middle - reach * 0.6), (x + width / 10, middle + reach)))
    return lines


def foot(box: Box) -> tuple[float, float]:
    """The middle of the lower edge."""
    return (box[0] + box[2]) / 2, box[3]


def paths(tracks: Tracks) -> dict[int, list[Box]]:
    """The boxes of each track, in order."""
    found: dict[int, list[Box]] = {}
    for frame in tracks.frames:
        for track, box in frame.items():
            found.setdefault(track, []).append(box)
    return found


def truth(tracks: Tracks, lines: Sequence[Line]) -> tuple[Crossings, set[tuple[int, int]]]:
    """Crossings of the exact paths of feet, and the (track, line) pairs that are no matter of
    opinion: there, a band of 5 % of the height beside the line tells the same.
    """
    crossings: Crossings = Counter()
    sure: set[tuple[int, int]] = set()
    for track, boxes in paths(tracks).items():
        for number, line in enumerate(lines):
            exact, banded = _exact(boxes, line), _banded(boxes, line)
            if exact != banded:
                continue
            sure.add((track, number))
            for direction, count in exact.items():
                crossings[track, number, direction] += count
    return +crossings, sure


def _exact(boxes: Sequence[Box], line: Line) -> Counter[str]:
    found: Counter[str] = Counter()
    for before, after in pairwise(map(foot, boxes)):
        if _meets(before, after, line):
            found["in" if _side(after, line) >= 0 else "out"] += 1
    return found


def _banded(boxes: Sequence[Box], line: Line) -> Counter[str]:
    """Sides count only beyond the band; the path since the last side tells whether it was met."""
    found: Counter[str] = Counter()
    side, met = 0, 0
    before = foot(boxes[0])
    for box in boxes:
        at = foot(box)
        met += _meets(before, at, line)
        before = at
        away = _side(at, line) / _length(line)
        if abs(away) < 0.05 * (box[3] - box[1]):
            continue
        now = 1 if away > 0 else -1
        if side and now != side and met % 2:
            found["in" if now > 0 else "out"] += 1
        if now != side or met % 2 == 0:
            met = 0
        side = now
    return found


def _meets(before: tuple[float, float], after: tuple[float, float], line: Line) -> bool:
    if (_side(before, line) >= 0) == (_side(after, line) >= 0):
        return False
    path = (before, after)
    return (_side(line[0], path) >= 0) != (_side(line[1], path) >= 0)


def _side(point: tuple[float, float], line: Line) -> float:
    (ax, ay), (bx, by) = line
    return (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)


def _length(line: Line) -> float:
    (ax, ay), (bx, by) = line
    return float(((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5)
