"""The window of one tracked object: its path, its stops and its scores, in bounded memory.

Pure functions. Times are whole milliseconds of media time, and places are tenths of a pixel, so
that a window is small and has the same bytes on every machine.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple, TypeAlias, get_args

import msgspec

from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.contracts.visits import (
    MAX_COLOURS,
    MAX_POINTS,
    MAX_VALUES,
    STILL_HEIGHTS,
    STILL_MS,
    VERSION,
    Colour,
    PathPoint,
    Visit,
)
from framegate.stages.detections import SeenObject
from framegate.stages.windows.evidence import SEEN, TENTHS, TrackEvidence

_FIRST_SPACING_MS: Final = 200  # between two steps of a path; doubled whenever the path is full
_COLOURS: Final[tuple[Colour, ...]] = get_args(Colour)  # in the order of models.colours.NAMES
_SUMS: Final = "<i4"
_MAX_FEATURED: Final = 1 << 20  # later looks change a mean little, and the sums must not overflow
# NumPy is imported where it computes: a configuration loads this module as well.
_LEAST_SHARE: Final = 0.1  # of the pixels of an object, for a colour that its visit names

Foot: TypeAlias = tuple[int, int]


class PathStep(NamedTuple):
    """A step of a path: milliseconds since its beginning, foot, width and height of the box."""

    ms: int
    x: int
    y: int
    width: int
    height: int


class ObjectWindow(msgspec.Struct, frozen=True, array_like=True):
    """The window of one track.

    number      number of the track
    label       class in the last frame with it
    began       first frame in which it was published; None: it was not so far
    last        last frame in which it was published; None while it is
    away        last frame in which detect had it; None while detect has it
    evidence    that of the looks at it, published or not
    path        at most MAX_POINTS steps, the first and the last box among them
    spacing_ms  least time between two steps, except before the last
    still_at    place of the foot in which it stays
    still_ms    time since when, after `began`
    dwell_ms    time for which it stood still in earlier places
    stops       number of earlier places in which it stood still
    looks       frames in which a network saw it
    total       sum of the scores of these
    top         greatest of them
    sounds      labels that were heard meanwhile
    colours     pixels of each colour of models.colours.NAMES, over its looks
    features    sum of the features of its looks, little-endian int32; empty: none
    featured    number of looks in that sum, at most _MAX_FEATURED
    model       model that computed the features
    """

    number: int
    label: str
    began: StoredMoment | None = None
    last: StoredMoment | None = None
    away: StoredMoment | None = None
    evidence: TrackEvidence = TrackEvidence()
    path: tuple[PathStep, ...] = ()
    spacing_ms: int = _FIRST_SPACING_MS
    still_at: Foot = (0, 0)
    still_ms: int = 0
    dwell_ms: int = 0
    stops: int = 0
    looks: int = 0
    total: float = 0.0
    top: float = 0.0
    sounds: tuple[str, ...] = ()
    colours: tuple[int, ...] = ()
    features: bytes = b""
    featured: int = 0
    model: str = ""


def watched(window: ObjectWindow | None, detected: Object, compared: TrackEvidence) -> ObjectWindow:
    """Return the window after a frame in which detect has the object, published or not.

    window    None: the track is new
    compared  evidence of the window after the comparison of the frame with earlier looks
    """
    assert detected.track is not None
    if window is None:
        window = ObjectWindow(detected.track, detected.label, evidence=compared)
    evidence = compared.after(detected)
    if evidence is window.evidence and window.away is None:
        return window
    return msgspec.structs.replace(window, evidence=evidence, away=None)


def published(window: ObjectWindow, detected: Object, now: StoredMoment) -> ObjectWindow:
    """Return the window after a frame in which the object is published."""
    if window.began is None:
        step = _step(detected, 0)
        foot = step.x, step.y
        after = msgspec.structs.replace(
            window, label=detected.label, began=now, path=(step,), still_at=foot
        )
        return _with_score(after, detected)
    if detected.origin == "carried" and window.last is None:
        return window
    step = _step(detected, now.ms - window.began.ms)
    foot = step.x, step.y
    still_at, still_ms = window.still_at, window.still_ms
    dwell_ms, stops = window.dwell_ms, window.stops
    way = max(abs(foot[0] - still_at[0]), abs(foot[1] - still_at[1]))
    if way > STILL_HEIGHTS * step.height:
        stay_ms = step.ms - still_ms
        if stay_ms >= STILL_MS:
            dwell_ms += stay_ms
            stops += 1
        still_at, still_ms = foot, step.ms
    path, spacing_ms = _extended(window.path, step, window.spacing_ms)
    after = msgspec.structs.replace(
        window, label=detected.label, last=None, path=path, spacing_ms=spacing_ms,
        still_at=still_at, still_ms=still_ms, dwell_ms=dwell_ms, stops=stops,
    )  # fmt: skip
    return _with_score(after, detected)


def absent(window: ObjectWindow, before: StoredMoment, is_there: bool) -> ObjectWindow:
    """Return the window after a frame in which the object is not published.

    before    the frame before
    is_there  detect has the object, so its track continues
    """
    last, away = window.last, window.away
    if window.began is not None:
        last = last or before
    if not is_there:
        away = away or before
    if last is window.last and away is window.away:
        return window
    return msgspec.structs.replace(window, last=last, away=away)


def looked(window: ObjectWindow, seen: SeenObject, model: str) -> ObjectWindow:
    """Return the window after a look, with the colours and the feature of the object.

    model  model that computed its feature
    """
    counts = window.colours or (0,) * len(seen.colours)
    colours = tuple(map(operator.add, counts, seen.colours))
    if not seen.feature:
        return msgspec.structs.replace(window, colours=colours)
    import numpy as np

    feature = np.frombuffer(seen.feature, np.int8)
    if len(window.features) == 4 * len(feature) and window.model == model:
        if window.featured >= _MAX_FEATURED:
            return msgspec.structs.replace(window, colours=colours)
        featured = window.featured + 1
        features = (np.frombuffer(window.features, _SUMS) + feature).tobytes()
    else:  # the first look, or another model
        featured = 1
        features = feature.astype(_SUMS).tobytes()
    return msgspec.structs.replace(
        window, colours=colours, features=features, featured=featured, model=model
    )


def visit(window: ObjectWindow, last: StoredMoment, source: str, size: tuple[int, int]) -> Visit:
    """Return the visit of a track that has ended and was published.

    last  the last frame with it
    size  width and height of the picture, pixels
    """
    width, height = size[0] * TENTHS, size[1] * TENTHS
    began, path = window.began, window.path
    assert began is not None
    dwell_ms, stops = window.dwell_ms, window.stops
    stay_ms = last.ms - began.ms - window.still_ms
    if path and stay_ms >= STILL_MS:
        dwell_ms += stay_ms
        stops += 1
    scores = 0.0, 0.0
    if window.looks:
        scores = round(window.total / window.looks, 4), window.top
    sides = 0.0, 0.0
    if path:
        median_width = median(step.width for step in path)
        median_height = median(step.height for step in path)
        sides = round(median_width / width, 4), round(median_height / height, 4)
    return Visit(
        v=VERSION,
        id=f"{source}/{began.epoch}-{began.seq}/{window.number}",
        source=source,
        track=window.number,
        label=window.label,
        began=began.moment,
        last=last.moment,
        path=tuple(_point(step, width, height) for step in path),
        size=sides,
        speed=_speed(path, width, height),
        dwell_s=dwell_ms / 1000,
        stops=stops,
        scores=scores,
        looks=window.looks,
        colours=_main_colours(window.colours),
        feature=_mean_feature(window),
        feature_model=window.model,
        sounds=window.sounds,
    )


def _main_colours(counts: Sequence[int]) -> dict[Colour, float]:
    """Return the shares of the colours with most pixels, the largest first."""
    whole = sum(counts)
    ranked = sorted(zip(counts, _COLOURS, strict=False), key=lambda each: -each[0])
    shares = {name: round(count / whole, 2) for count, name in ranked[:MAX_COLOURS] if count}
    return {name: share for name, share in shares.items() if share >= _LEAST_SHARE}


def _mean_feature(window: ObjectWindow) -> bytes:
    """Return the mean of the features of its looks, int8."""
    if not window.featured:
        return b""
    import numpy as np

    mean = np.rint(np.frombuffer(window.features, _SUMS) / window.featured)
    return mean[:MAX_VALUES].astype(np.int8).tobytes()


def _with_score(window: ObjectWindow, detected: Object) -> ObjectWindow:
    if detected.origin not in SEEN:
        return window
    return msgspec.structs.replace(
        window,
        looks=window.looks + 1,
        total=round(window.total + detected.score, 4),
        top=max(window.top, detected.score),
    )


def _step(detected: Object, ms: int) -> PathStep:
    left, top, right, bottom = [round(edge * TENTHS) for edge in detected.box]
    return PathStep(ms, (left + right) // 2, bottom, right - left, bottom - top)


def _extended(
    path: tuple[PathStep, ...], step: PathStep, spacing_ms: int
) -> tuple[tuple[PathStep, ...], int]:
    """Return the path with a new last step, and the least time between two steps.

    The last step is replaced while it is close to the step before it. A path that is full loses
    every second step, so that its steps cover the whole visit evenly.
    """
    if len(path) >= 2 and path[-1].ms - path[-2].ms < spacing_ms:
        return (*path[:-1], step), spacing_ms
    if len(path) < MAX_POINTS:
        return (*path, step), spacing_ms
    return (*path[:-1:2], step), 2 * spacing_ms


def _point(step: PathStep, width: int, height: int) -> PathPoint:
    return PathPoint(step.ms / 1000, _part(step.x, width), _part(step.y, height))


def _part(place: int, whole: int) -> float:
    return round(min(max(place / whole, 0.0), 1.0), 4)


def _speed(path: Sequence[PathStep], width: int, height: int) -> float:
    """Return the median speed between two steps, parts of the picture per second."""
    speeds = []
    for before, after in itertools.pairwise(path):
        seconds = (after.ms - before.ms) / 1000
        if seconds > 0:
            way = math.hypot((after.x - before.x) / width, (after.y - before.y) / height)
            speeds.append(way / seconds)
    if not speeds:
        return 0.0
    return round(median(speeds), 4)
