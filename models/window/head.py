"""The window head at work: the newest boxes judged by the last frames, one network call a frame.

Keys and values of past boxes are kept, so a frame costs its own boxes' projection and one round of
attention, whatever the window's length and stride (Hedegaard et al., "Continual Transformers", ICLR
2023: one output at a time, the same numbers as from the whole window). Causal: a frame is judged by
itself and by what came before. Ages count rows back, so a window has no absolute time in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import (
    AnyArray,
    BoolArray,
    Boxes,
    FloatArray,
    IndexArray,
    IntArray,
    iou,
    read_only,
)
from framegate.models.detector import network
from framegate.models.detector.network import config, core
from framegate.models.formats.nanodet import sigmoid
from framegate.models.window.features import LENGTH, HalfArray, RegionFeatures
from framegate.models.window.rows import (
    MOST,
    ROWS,
    WIDTH,
    FrameRow,
    WindowRows,
    tile_grid,
    tiles_after,
)

if TYPE_CHECKING:
    import openvino as ov

_SAME_PLACE: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class WindowStep:
    """What the head says about a frame.

    window     the rows, with this frame's
    boxes      the candidates, same rows, with refined scores
    things     float32 (N,)  0..1, that there is an object at all
    novelty    0..2, how unlike the window's mean the frame looks: 1 less their cosine
    embedding  float32 (256,)  what the window looks like, unit length
    row        what the window keeps of the frame; None if nothing was looked at
    """

    window: WindowRows
    boxes: Boxes
    things: FloatArray
    novelty: float
    embedding: FloatArray
    row: FrameRow | None


@dataclass(frozen=True, slots=True, eq=False)
class NewFrame:
    """What is known of a frame before the head judges it.

    candidates  the detector's boxes above .1, fresh and carried
    ids         int32 (N,)         tracks of `bytetrack.step`, 0: none
    fresh       bool (N,)          whether the detector has just seen the box
    features    float16 (N, 256)   of the fresh boxes; other rows are not read
    looks       what each look at the frame shows; none: nothing was looked at
    size        (width, height) of the source
    seq         counts the frames of its epoch

    Raises ArrayMismatch.
    """

    candidates: Boxes
    ids: IntArray
    fresh: BoolArray
    features: HalfArray
    looks: Sequence[RegionFeatures]
    size: tuple[int, int]
    seq: int

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
        self,
        long_side: int = 416,
        threads: int = 1,
        cache_dir: Path | None = None,
        model: ov.Model | None = None,
    ) -> None:
        """long_side: of the detector's input, which decides the tiles.

        model: a head that is being judged; `name` is the committed one's all the same.
        """
        self.long_side = long_side
        self._network = _WindowNetwork(threads, cache_dir, model)
        self.sha256 = self._network.sha256
        self.name = f"{FILE}@{self.sha256[:8]}"

    def warm_up(self) -> None:
        """Compile all sizes: each would cost a fraction of a second when it is first met."""
        self._network.warm_up()

    def step(self, window: WindowRows, frame: NewFrame) -> WindowStep:
        """Take in one frame. A pure function of its arguments; see `WindowStep`.

        window  the rows of the frames before it that are still in the window

        The 32 candidates with the highest scores are judged; the others keep their scores, and so
        does a carried one that the window has never seen. What was carried keeps the judgement
        that it had.
        """
        known = _found_again(frame, window.rows)
        if not frame.looks:
            return _answer(window, frame, known, None)
        taken = _taken(frame, known)
        row = self._row(window.rows, frame, taken, known[taken], self._network.judge)
        place = np.full(len(known), -1)
        place[taken] = np.arange(len(taken))
        return _answer(window.after(row), frame, place, row)

    def remember(self, window: WindowRows, frame: NewFrame) -> WindowRows:
        """As `step` for a frame about which nobody asks, as between two strides.

        Its boxes get keys and values, for later frames, and keep the detector's scores.
        """
        if not frame.looks:
            return window
        known = _found_again(frame, window.rows)
        taken = _taken(frame, known)
        row = self._row(window.rows, frame, taken, known[taken], self._network.encode)
        return window.after(row)

    def _row(
        self,
        rows: tuple[FrameRow, ...],
        frame: NewFrame,
        taken: IndexArray,
        known: IndexArray,
        judge: Callable[[tuple[FrameRow, ...], _Newest], _HeadOutput],
    ) -> FrameRow:
        """Return the frame's row with the boxes `taken`; known: where the last row has them."""
        boxes, carried = frame.candidates.take(taken), ~frame.fresh[taken]
        newest = _Newest(boxes, frame.ids[taken], frame.features[taken], max(frame.size))
        if carried.any():
            newest.features[carried] = rows[-1].features[known[carried]]
        judged = judge(rows[-PAST:], newest)
        if carried.any():
            judged.things[carried] = rows[-1].things[known[carried]]
            judged.scores[carried] = rows[-1].refined[known[carried]]
        grid = (*tile_grid(*frame.size, self.long_side), LENGTH)
        before = rows[-1].tiles if rows else np.zeros(grid, np.float16)
        return FrameRow(
            frame.seq,
            boxes.xyxy,
            boxes.scores,
            boxes.class_ids,
            newest.ids,
            newest.features,
            judged.keys,
            judged.values,
            judged.things,
            judged.scores,
            tiles_after(before, frame.looks),
        )


def _found_again(frame: NewFrame, rows: tuple[FrameRow, ...]) -> IndexArray:
    """Return where the last row has each carried box (N,), by track or place; -1 where nowhere."""
    found = np.full(len(frame.ids), -1)
    if not rows:
        return found
    last = rows[-1]
    for i in np.flatnonzero(~frame.fresh):
        tracked = np.flatnonzero((last.ids == frame.ids[i]) & (last.ids > 0))
        if len(tracked):
            found[i] = tracked[0]
        elif len(last.ids):
            overlap = iou(frame.candidates.xyxy[i : i + 1], last.xyxy)[0]
            if overlap.max() >= _SAME_PLACE:
                found[i] = overlap.argmax()
    return found


def _taken(frame: NewFrame, known: IndexArray) -> IndexArray:
    """Return the candidates that get into the row: of those that can, the best, in their order."""
    can = np.flatnonzero(frame.fresh | (known >= 0))
    best = np.argsort(-frame.candidates.scores[can], kind="stable")[:MOST]
    return np.sort(can[best])


def _answer(
    window: WindowRows, frame: NewFrame, place: IndexArray, row: FrameRow | None
) -> WindowStep:
    """Return the answer: candidates with the judgement that the newest row has at `place`."""
    boxes = frame.candidates
    refined, things = boxes.scores.copy(), boxes.scores.copy()
    if window.rows:
        known = place >= 0
        refined[known] = window.rows[-1].refined[place[known]]
        things[known] = window.rows[-1].things[place[known]]
    novelty, embedding = _scene(window.rows)
    refined_boxes = Boxes(boxes.xyxy, refined, boxes.class_ids)
    return WindowStep(window, refined_boxes, things, novelty, embedding, row)


def _scene(rows: tuple[FrameRow, ...]) -> tuple[float, FloatArray]:
    """Return how unlike the rows before it the newest row looks, and what all of them look like."""
    if not rows:
        return 0.0, np.zeros(LENGTH, np.float32)
    scenes = np.stack([row.scene for row in rows])
    whole = scenes.mean(axis=0)
    embedding = (whole / max(float(np.sqrt(whole @ whole)), 1e-6)).astype(np.float32)
    before = scenes[:-1].mean(axis=0) if len(rows) > 1 else scenes[0]
    length = max(float(np.sqrt((before @ before) * (scenes[-1] @ scenes[-1]))), 1e-6)
    return 1 - float(before @ scenes[-1]) / length, embedding


# -- The window head's network: what it reads from rows, at the few sizes it is compiled for.


FILE: Final = "window-head"
PAST: Final = ROWS - 1
_FILL: Final = (8, 12, 16, MOST)  # boxes of a row for which the network is compiled
# The network's inputs: features and boxes of the newest row, then keys, values, boxes and ages of
# the past ones, then how many rows those are.
_SEEN: Final = ((4,), (), (), ())
_TAILS: Final = ((LENGTH,), *_SEEN, (WIDTH,), (WIDTH,), *_SEEN, (), ())
_FILLER: Final = (0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1, 1)
_WHOLE_NUMBERS: Final = (3, 4, 9, 10)


@dataclass(frozen=True, slots=True, eq=False)
class _Newest:
    """The boxes that a row will have; boxes in pixels, `long_side` of them are one."""

    boxes: Boxes
    ids: IntArray
    features: HalfArray
    long_side: int

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        xyxy = self.boxes.xyxy / np.float32(self.long_side)
        return self.features, xyxy, self.boxes.scores, self.boxes.class_ids, self.ids


@dataclass(frozen=True, slots=True, eq=False)
class _HeadOutput:
    """What the network says of N boxes: keys and values (N, 64), objectness and scores (N,)."""

    keys: FloatArray
    values: FloatArray
    things: FloatArray
    scores: FloatArray


class _WindowNetwork:
    """The network in float32. One thread at a time. Raises ModelUnreadable."""

    def __init__(self, threads: int, cache_dir: Path | None, model: ov.Model | None) -> None:
        """model: another than the committed one, as `export_window_head.convert` gives it."""
        path, self.sha256 = network.verified(FILE)
        self._model = model or core().read_model(path)
        self._options = config("f32", threads, cache_dir)
        self._sizes: dict[tuple[int, bool], tuple[Any, list[AnyArray]]] = {}

    def warm_up(self) -> None:
        """Compile all sizes: each would cost a fraction of a second when it is first met."""
        for n in _FILL:
            self._compiled(n)

    def judge(self, past: tuple[FrameRow, ...], newest: _Newest) -> _HeadOutput:
        """Judge the newest boxes by at most 31 past rows: one call at the least size that fits."""
        n, m = len(newest.boxes), sum(len(row) for row in past)
        fill = next(one for one in _FILL if n <= one and m <= one * PAST)
        request, inputs = self._compiled(fill)
        if past:
            ages = np.repeat(np.arange(len(past), 0, -1), [len(row) for row in past])
            names = ("keys", "values", "xyxy", "scores", "class_ids", "ids")
            columns = [np.concatenate([getattr(row, name) for row in past]) for name in names]
            for place, column in zip(inputs[5:12], (*columns, ages), strict=True):
                place[:m] = column
            inputs[7][:m] /= np.float32(newest.long_side)
        for place, column in zip(inputs, newest.columns(), strict=False):
            place[:n] = column
        for place, used, rest in zip(inputs, [n] * 5 + [m] * 7, _FILLER, strict=False):
            place[used:] = rest
        inputs[12][0] = len(past)
        _run(request)
        keys, values, things, refined = (out.data[:n].copy() for out in request.output_tensors)
        return _HeadOutput(keys, values, sigmoid(things), sigmoid(refined))

    def encode(self, past: tuple[FrameRow, ...], newest: _Newest) -> _HeadOutput:  # noqa: ARG002
        """Only keys and values, by the part of the network that makes them."""
        n, scores = len(newest.boxes), newest.boxes.scores
        fill = next(one for one in _FILL if n <= one)
        request, inputs = self._compiled(fill, only_keys=True)
        inputs[0][:n], inputs[0][n:] = newest.features, 0
        _run(request)
        keys, values = (out.data[:n].copy() for out in request.output_tensors)
        return _HeadOutput(keys, values, scores.copy(), scores.copy())

    def _compiled(self, fill: int, only_keys: bool = False) -> tuple[Any, list[AnyArray]]:
        """Return the network for rows of at most `fill` boxes, and the arrays that it reads."""
        if (fill, only_keys) not in self._sizes:
            import openvino as ov

            model, ports = self._model.clone(), 13
            if only_keys:
                outputs, ports = [model.output(0), model.output(1)], 1
                model = ov.Model(outputs, [model.get_parameters()[0]])
            first = [fill] * 5 + [fill * PAST] * 7 + [1]
            shapes = [(n, *tail) for n, tail in zip(first, _TAILS, strict=True)][:ports]
            model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
            request = core().compile_model(model, "CPU", self._options).create_infer_request()
            kinds = [np.int32 if i in _WHOLE_NUMBERS else np.float32 for i in range(ports)]
            inputs = [np.zeros(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
            for i, array in enumerate(inputs):
                request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
            self._sizes[fill, only_keys] = request, inputs
        return self._sizes[fill, only_keys]


def _run(request: Any) -> None:
    """One inference. `request.infer` would build a dictionary of the outputs, too."""
    request.start_async()
    request.wait()
