"""The window head's network: what it reads from rows, at the few sizes it is compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov

from framegate.models.boxes import Boxes, FloatArray, IntArray
from framegate.models.detector import manifest
from framegate.models.detector.network import config, core
from framegate.models.formats.nanodet import sigmoid
from framegate.models.window.region_features import LENGTH, HalfArray
from framegate.models.window.window_rows import MOST, ROWS, WIDTH, FrameRow

FILE: Final = "window-head"
PAST: Final = ROWS - 1
_FILL: Final = (8, 12, 16, MOST)  # boxes of a row for which the network is compiled
# The network's inputs: features and boxes of the newest row, then keys, values, boxes and ages of
# the past ones, then how many rows those are.
_SEEN: Final = ((4,), (), (), ())
_TAILS: Final = ((LENGTH,), *_SEEN, (WIDTH,), (WIDTH,), *_SEEN, (), ())
_FILLER: Final = (0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1, 1)
_WHOLE_NUMBERS: Final = (3, 4, 9, 10)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The boxes that a row will have; boxes in pixels, `long_side` of them are one."""

    boxes: Boxes
    ids: IntArray
    features: HalfArray
    long_side: int

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        xyxy = self.boxes.xyxy / np.float32(self.long_side)
        return self.features, xyxy, self.boxes.scores, self.boxes.class_ids, self.ids


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the network says of N boxes: keys and values (N, 64), objectness and scores (N,)."""

    keys: FloatArray
    values: FloatArray
    things: FloatArray
    scores: FloatArray


class WindowNetwork:
    """The network in float32. One thread at a time. Raises ModelUnreadable."""

    def __init__(self, threads: int, cache_dir: Path | None, model: ov.Model | None) -> None:
        """model: another than the committed one, as `export_window_head.convert` gives it."""
        path, self.sha256 = manifest.verified(FILE)
        self._model = model or core().read_model(path)
        self._options = config("f32", threads, cache_dir)
        self._sizes: dict[tuple[int, bool], tuple[Any, list[Array]]] = {}

    def warm_up(self) -> None:
        """Compiles all its sizes: at their first sight, each would cost a fraction of a second."""
        for n in _FILL:
            self._compiled(n)

    def judge(self, past: tuple[FrameRow, ...], newest: Newest) -> Judged:
        """The newest boxes by at most 31 past rows: one call, at the smallest size that fits."""
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
        return Judged(keys, values, sigmoid(things), sigmoid(refined))

    def encode(self, past: tuple[FrameRow, ...], newest: Newest) -> Judged:  # noqa: ARG002
        """Only keys and values, by the part of the network that makes them."""
        n, scores = len(newest.boxes), newest.boxes.scores
        fill = next(one for one in _FILL if n <= one)
        request, inputs = self._compiled(fill, only_keys=True)
        inputs[0][:n], inputs[0][n:] = newest.features, 0
        _run(request)
        keys, values = (out.data[:n].copy() for out in request.output_tensors)
        return Judged(keys, values, scores.copy(), scores.copy())

    def _compiled(self, fill: int, only_keys: bool = False) -> tuple[Any, list[Array]]:
        """The network for rows of at most `fill` boxes, and the arrays that it reads."""
        if (fill, only_keys) not in self._sizes:
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
