"""The window head at work: the newest boxes judged by the last frames, one network call a frame.

Keys and values of past boxes are kept, so a frame costs its own boxes' projection and one round of
attention, whatever the window's length and stride (Hedegaard et al., "Continual Transformers", ICLR
2023: one output at a time, the same numbers as from the whole window). Causal: a frame is judged by
itself and by what came before. Ages count rows back, so a window has no absolute time in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov

from models import manifest
from models.arrays import read_only
from models.boxes import Boxes, FloatArray, IntArray
from models.nanodet_decode import sigmoid
from models.network import config, core
from models.nms import iou
from models.region_features import LENGTH, HalfArray, RegionFeatures
from models.window_rows import MOST, ROWS, WIDTH, FrameRow, WindowState, tile_grid, tiles_after

FILE: Final = "window-head"
MAX_AGE_S: Final = 10.0  # what was seen longer ago says nothing any more
_FILL: Final = (8, 16, MOST)  # boxes of a row for which the network is compiled
# The network's inputs: features and boxes of the newest row, then keys, values, boxes and ages of
# the past ones, then how many rows those are.
_SEEN: Final = ((4,), (), (), ())
_TAILS: Final = ((LENGTH,), *_SEEN, (WIDTH,), (WIDTH,), *_SEEN, (), ())
_FILLER: Final = (0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1, 1)
_WHOLE_NUMBERS: Final = (3, 4, 9, 10)
_SAME_PLACE: Final = 0.5
_PAST: Final = ROWS - 1

BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What the head says about a frame.

    state      of the window after it
    boxes      the candidates, same rows, with refined scores
    things     float32 (N,)  0..1, that there is an object at all
    novelty    0..2, how unlike the window's mean the frame looks: 1 less their cosine
    embedding  float32 (256,)  what the window looks like, unit length
    row        what the window keeps of the frame; None if nothing was looked at
    """

    state: WindowState
    boxes: Boxes
    things: FloatArray
    novelty: float
    embedding: FloatArray
    row: FrameRow | None


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What is known of a frame before the head.

    candidates  the detector's boxes above .1, fresh and carried
    ids         int32 (N,)         tracks of `bytetrack.step`, 0: none
    fresh       bool (N,)          whether the detector has just seen the box
    features    float16 (N, 256)   of the fresh boxes; other rows are not read
    looks       what each look at the frame shows; none: nothing was looked at
    size        (width, height) of the source
    pts         seconds, or None where unknown

    Raises ArrayMismatch.
    """

    candidates: Boxes
    ids: IntArray
    fresh: BoolArray
    features: HalfArray
    looks: Sequence[RegionFeatures]
    size: tuple[int, int]
    pts: float | None

    def __post_init__(self) -> None:
        n = len(self.candidates)
        object.__setattr__(self, "ids", read_only("ids", self.ids, np.int32, (n,)))
        object.__setattr__(self, "fresh", read_only("fresh", self.fresh, np.bool_, (n,)))
        features = read_only("features", self.features, np.float16, (n, LENGTH))
        object.__setattr__(self, "features", features)


class WindowHead:
    """The network, compiled; `name` is what results carry.

    Same input, same bits. Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(
        self, long_side: int = 416, threads: int = 1, cache_dir: Path | None = None
    ) -> None:
        """long_side: of the detector's input, which decides the tiles."""
        path, self.sha256 = manifest.verified(FILE)
        self.name = f"{FILE}@{self.sha256[:8]}"
        self.long_side = long_side
        self._model = core().read_model(path)
        self._options = config("f32", threads, cache_dir)
        self._sizes: dict[int, tuple[Any, list[npt.NDArray[Any]]]] = {}

    def warm_up(self) -> None:
        """Compiles all its sizes: at their first sight, each would cost a fraction of a second."""
        for n in _FILL:
            self._compiled(n)

    def step(self, state: WindowState, sight: Sight) -> Step:
        """Takes in one frame. A pure function of its arguments; see `Step`.

        The 32 candidates with the highest scores are judged; the others keep their scores, and so
        does a carried one that the window has never seen. What was carried keeps the judgement
        that it had.
        """
        rows = _young(state.rows, sight.pts)
        known = _found_again(sight, rows[-1]) if rows else np.full(len(sight.ids), -1)
        if not sight.looks:
            return _said(WindowState(rows), sight, known, None)
        taken = np.flatnonzero(sight.fresh | (known >= 0))
        best = np.argsort(-sight.candidates.scores[taken], kind="stable")[:MOST]
        taken = np.sort(taken[best])
        row = self._row(rows, sight, taken, known[taken])
        place = np.full(len(known), -1)
        place[taken] = np.arange(len(taken))
        return _said(WindowState((*rows, row)[-ROWS:]), sight, place, row)

    def _row(
        self, rows: tuple[FrameRow, ...], sight: Sight, taken: IndexArray, known: IndexArray
    ) -> FrameRow:
        """The frame's row: the boxes `taken`, of which `known` says where the last row has them."""
        boxes, carried = sight.candidates.take(taken), ~sight.fresh[taken]
        features = sight.features[taken]
        if carried.any():
            features[carried] = rows[-1].features[known[carried]]
        ids = sight.ids[taken]
        grid = (*tile_grid(*sight.size, self.long_side), LENGTH)
        before = rows[-1].tiles if rows else np.zeros(grid, np.float16)
        keys, values, things, refined = self._judged(rows[-_PAST:], boxes, ids, features, sight)
        if carried.any():
            things[carried] = rows[-1].things[known[carried]]
            refined[carried] = rows[-1].refined[known[carried]]
        return FrameRow(
            sight.pts,
            boxes.xyxy,
            boxes.scores,
            boxes.class_ids,
            ids,
            features,
            keys,
            values,
            things,
            refined,
            tiles_after(before, sight.looks, sight.size, self.long_side),
        )

    def _judged(
        self,
        past: tuple[FrameRow, ...],
        boxes: Boxes,
        ids: IntArray,
        features: HalfArray,
        sight: Sight,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Keys, values, objectness and scores of boxes: one call at the smallest size that fits."""
        n, m = len(boxes), sum(len(row) for row in past)
        fill = next(one for one in _FILL if n <= one and m <= one * _PAST)
        scale = np.float32(max(sight.size))
        request, inputs = self._compiled(fill)
        newest = (features, boxes.xyxy / scale, boxes.scores, boxes.class_ids, ids)
        ages = np.repeat(np.arange(len(past), 0, -1), [len(row) for row in past])
        names = ("keys", "values", "xyxy", "scores", "class_ids", "ids")
        columns: list[Any] = [np.concatenate([getattr(r, c) for r in past]) for c in names if past]
        if past:
            columns[2] = columns[2] / scale
            for place, column in zip(inputs[5:12], (*columns, ages), strict=True):
                place[:m] = column
        for place, column in zip(inputs, newest, strict=False):
            place[:n] = column
        for place, rows, rest in zip(inputs, [n] * 5 + [m] * 7, _FILLER, strict=False):
            place[rows:] = rest
        inputs[12][0] = len(past)
        request.infer()
        keys, values, things, refined = (out.data[:n].copy() for out in request.output_tensors)
        return keys, values, sigmoid(things), sigmoid(refined)

    def _compiled(self, fill: int) -> tuple[Any, list[npt.NDArray[Any]]]:
        """The network for rows of at most `fill` boxes, and the arrays that it reads."""
        if fill not in self._sizes:
            model = self._model.clone()
            first = [fill] * 5 + [fill * _PAST] * 7 + [1]
            shapes = [(n, *tail) for n, tail in zip(first, _TAILS, strict=True)]
            model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
            compiled = core().compile_model(model, "CPU", self._options)
            request = compiled.create_infer_request()
            inputs: list[npt.NDArray[Any]] = []
            for i, shape in enumerate(shapes):
                kind = np.int32 if i in _WHOLE_NUMBERS else np.float32
                inputs.append(np.zeros(shape, kind))
                request.set_input_tensor(i, ov.Tensor(inputs[i], shared_memory=True))
            self._sizes[fill] = request, inputs
        return self._sizes[fill]


def _young(rows: tuple[FrameRow, ...], pts: float | None) -> tuple[FrameRow, ...]:
    """The rows without the oldest ones that are more than MAX_AGE_S before `pts`."""
    for i, row in enumerate(rows):
        if row.pts is None or pts is None or pts - row.pts <= MAX_AGE_S:
            return rows[i:]
    return ()


def _found_again(sight: Sight, last: FrameRow) -> IndexArray:
    """Where the last row has each carried box (N,), by track or place; -1 where nowhere."""
    found = np.full(len(sight.ids), -1)
    for i in np.flatnonzero(~sight.fresh):
        same = last.class_ids == sight.candidates.class_ids[i]
        tracked = np.flatnonzero(same & (last.ids == sight.ids[i]) & (last.ids > 0))
        if len(tracked):
            found[i] = tracked[0]
        elif same.any():
            overlap = np.where(same, iou(sight.candidates.xyxy[i : i + 1], last.xyxy)[0], 0)
            if overlap.max() >= _SAME_PLACE:
                found[i] = overlap.argmax()
    return found


def _said(state: WindowState, sight: Sight, place: IndexArray, row: FrameRow | None) -> Step:
    """The answer: candidates with the judgement that the newest row has at `place`."""
    boxes = sight.candidates
    refined, things = boxes.scores.copy(), boxes.scores.copy()
    if state.rows:
        known = place >= 0
        refined[known] = state.rows[-1].refined[place[known]]
        things[known] = state.rows[-1].things[place[known]]
    novelty, embedding = _scene(state.rows)
    refined_boxes = Boxes(boxes.xyxy, refined, boxes.class_ids)
    return Step(state, refined_boxes, things, novelty, embedding, row)


def _scene(rows: tuple[FrameRow, ...]) -> tuple[float, FloatArray]:
    """How unlike the rows before it the newest row looks, and what all of them look like."""
    if not rows:
        return 0.0, np.zeros(LENGTH, np.float32)
    scenes = np.stack([row.scene for row in rows])
    whole = scenes.mean(axis=0)
    embedding = (whole / max(float(np.sqrt(whole @ whole)), 1e-6)).astype(np.float32)
    before = scenes[:-1].mean(axis=0) if len(rows) > 1 else scenes[0]
    length = max(float(np.sqrt((before @ before) * (scenes[-1] @ scenes[-1]))), 1e-6)
    return 1 - float(before @ scenes[-1]) / length, embedding
