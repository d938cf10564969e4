"""Privacy masks: what of a frame's bytes is made blank before anybody can read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import Polygon

_BLACK, _BLACK_FULL_RANGE, _NO_COLOUR = 16, 0, 128
_DIGITS = 6  # of a pixel: 3.0000000000000004 of them are three

FromTo = tuple[int, int]  # samples of a row, or bytes: the first, and the one after the last
Blanking = tuple[slice, memoryview]  # bytes of a frame, and what is written there


class Masks:
    """The masks of a source: blanks its frames, whatever their size. One thread."""

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        self._polygons = polygons
        self._form: Form | None = None
        self._runs: Sequence[Blanking] = ()

    def blank(self, pixels: memoryview, form: Form) -> None:
        """Make black in a frame's bytes each pixel that a polygon touches, wholly or in part.

        A sample of colour goes where any of its up to four pixels goes: less is never blanked than
        was drawn, and beside it at most a row and a column of pixels lose their colour.

        pixels  writable bytes, form.nbytes or more, as `Frame.write` filled them
        """
        if form != self._form:
            self._form, self._runs = form, blank_runs(self._polygons, form)
        for where, blank in self._runs:
            pixels[where] = blank


def blank_runs(polygons: Sequence[Polygon], form: Form) -> list[Blanking]:
    """Return which bytes of a frame of this form masks blank, in rising order, and by what."""
    width, height = form.width, form.height
    rows = covered(polygons, width, height)
    half = [
        _merged((first // 2, -(-end // 2)) for row in rows[top : top + 2] for first, end in row)
        for top in range(0, height, 2)
    ]
    black = _BLACK_FULL_RANGE if form.full_range else _BLACK
    luma, across = width * height, -(-width // 2)
    # Rows that are blank from end to end become one run.
    runs = [(black, *run) for run in _merged(_in_plane(rows, width, 0))]
    for start in (luma, luma + len(half) * across):
        runs += [(_NO_COLOUR, *run) for run in _merged(_in_plane(half, across, start))]
    longest = max((end - first for _, first, end in runs), default=0)
    blank = {level: memoryview(bytes([level]) * longest) for level in (black, _NO_COLOUR)}
    return [(slice(first, end), blank[level][: end - first]) for level, first, end in runs]


def covered(polygons: Sequence[Polygon], width: int, height: int) -> list[list[FromTo]]:
    """Return for each row which pixels polygons touch, apart and in rising order.

    A pixel is touched by the inside if an edge goes through it, or else if its middle is inside; by
    the even-odd rule, where edges cross.
    """
    rows: list[list[FromTo]] = [[] for _ in range(height)]
    for polygon in polygons:
        points = [(round(x * width, _DIGITS), round(y * height, _DIGITS)) for x, y in polygon]
        crossings: list[list[float]] = [[] for _ in range(height)]
        for one, other in zip(points, [*points[1:], points[0]], strict=True):
            (x, top), (end_x, bottom) = sorted((one, other), key=lambda point: point[1])
            slope = (end_x - x) / (bottom - top) if bottom > top else 0.0
            for row in range(math.floor(top), math.ceil(bottom)):
                ends = [x + slope * (y - top) for y in (max(top, row), min(bottom, row + 1))]
                if top == bottom:
                    ends = [x, end_x]
                rows[row].append(_touched(min(ends), max(ends)))
                if top <= row + 0.5 < bottom:
                    crossings[row].append(x + slope * (row + 0.5 - top))
        for row, met in enumerate(crossings):
            met.sort()
            rows[row] += [_touched(*pair) for pair in zip(met[::2], met[1::2], strict=True)]
    return [_merged(row) for row in rows]


def _touched(left: float, right: float) -> FromTo:
    return math.floor(round(left, _DIGITS)), math.ceil(round(right, _DIGITS))


def _in_plane(rows: Sequence[Sequence[FromTo]], across: int, start: int) -> Iterator[FromTo]:
    """Yield what is named row by row as bytes of a frame in which a plane begins at `start`."""
    for number, row in enumerate(rows):
        at = start + number * across
        yield from ((at + first, at + end) for first, end in row)


def _merged(named: Iterable[FromTo]) -> list[FromTo]:
    """Return the same samples, each named once, in rising order; who names none is left out."""
    merged: list[FromTo] = []
    for first, end in sorted(samples for samples in named if samples[0] < samples[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((first, end))
    return merged
