"""Privacy masks: blank parts of a frame before any reader can see them.

The decoder's thread does so while it writes a frame into its slot (`ingest/decoder`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import Polygon

_BLACK = 16
_BLACK_FULL_RANGE = 0
_NO_COLOUR = 128
_DIGITS = 6  # of a pixel; 3.0000000000000004 pixels are three

FromTo = tuple[int, int]  # samples of a row, or bytes: the first, and the first after the last
Blanking = tuple[slice, memoryview]  # bytes of a frame, and their new content


class Masks:
    """The masks of a source, for frames of any size. One thread.

    polygons  areas that are blanked; another thread may replace them
    """

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        self.polygons = polygons
        self._known: tuple[Form, Sequence[Polygon]] | None = None
        self._runs: Sequence[Blanking] = ()

    def blank(self, pixels: memoryview, form: Form) -> None:
        """Make every pixel black that a polygon touches, even in part.

        A sample of colour is removed if any of its up to four pixels is masked. So nothing inside a
        polygon stays visible, and at most a row and a column of pixels beside it lose their colour.

        pixels  writable bytes, at least form.nbytes, as `Frame.write` filled them
        """
        polygons = self.polygons
        if self._known is None or self._known[0] != form or self._known[1] is not polygons:
            self._known = form, polygons
            self._runs = blank_runs(polygons, form)
        for where, blank in self._runs:
            pixels[where] = blank


def blank_runs(polygons: Sequence[Polygon], form: Form) -> list[Blanking]:
    """Return the bytes of a frame that masks blank, in rising order, and their new content."""
    width = form.width
    height = form.height
    rows = covered(polygons, width, height)
    colour_rows = [_halved(rows[top : top + 2]) for top in range(0, height, 2)]
    black = _BLACK_FULL_RANGE if form.full_range else _BLACK
    luma = width * height
    across = -(-width // 2)
    # Rows that are blank from end to end become one run.
    runs = [(black, *run) for run in _merged(_in_plane(rows, width, 0))]
    for start in (luma, luma + len(colour_rows) * across):
        runs += [(_NO_COLOUR, *run) for run in _merged(_in_plane(colour_rows, across, start))]
    longest = max((end - first for _, first, end in runs), default=0)
    blank = {level: memoryview(bytes([level]) * longest) for level in (black, _NO_COLOUR)}
    return [(slice(first, end), blank[level][: end - first]) for level, first, end in runs]


def _halved(rows: Sequence[Sequence[FromTo]]) -> list[FromTo]:
    """Return the samples of colour, one for two by two pixels, that these one or two rows touch."""
    samples: list[FromTo] = []
    for row in rows:
        samples += [(first // 2, -(-end // 2)) for first, end in row]
    return _merged(samples)


def covered(polygons: Sequence[Polygon], width: int, height: int) -> list[list[FromTo]]:
    """Return for each row the pixels that polygons touch, disjoint and in rising order.

    A pixel is touched if an edge crosses it or if its centre is inside the polygon. Where edges
    cross, the even-odd rule decides.
    """
    rows: list[list[FromTo]] = [[] for _ in range(height)]
    for polygon in polygons:
        points = [(round(x * width, _DIGITS), round(y * height, _DIGITS)) for x, y in polygon]
        crossings: list[list[float]] = [[] for _ in range(height)]  # x where edges cross the middle
        for start, end in zip(points, [*points[1:], points[0]], strict=True):
            (x, top), (end_x, bottom) = sorted((start, end), key=lambda point: point[1])
            slope = (end_x - x) / (bottom - top) if bottom > top else 0.0
            for row in range(math.floor(top), math.ceil(bottom)):
                ends = [x + slope * (y - top) for y in (max(top, row), min(bottom, row + 1))]
                if top == bottom:
                    ends = [x, end_x]
                rows[row].append(_touched(min(ends), max(ends)))
                if top <= row + 0.5 < bottom:
                    crossings[row].append(x + slope * (row + 0.5 - top))
        for row, xs in enumerate(crossings):
            xs.sort()
            rows[row] += [_touched(*pair) for pair in zip(xs[::2], xs[1::2], strict=True)]
    return [_merged(row) for row in rows]


def _touched(left: float, right: float) -> FromTo:
    return math.floor(round(left, _DIGITS)), math.ceil(round(right, _DIGITS))


def _in_plane(rows: Sequence[Sequence[FromTo]], across: int, start: int) -> Iterator[FromTo]:
    """Yield samples of rows as bytes of a frame whose plane begins at `start`."""
    for number, row in enumerate(rows):
        at = start + number * across
        yield from ((at + first, at + end) for first, end in row)


def _merged(runs: Iterable[FromTo]) -> list[FromTo]:
    """Return the union of these runs, disjoint and in rising order; empty runs are left out."""
    merged: list[FromTo] = []
    for first, end in sorted(run for run in runs if run[0] < run[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((first, end))
    return merged
