"""The detectors whose precisions are compared, each as a float file and a quantised one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov

from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector.network import Precision, core, verified
from framegate.models.formats.nanodet import decode_cells
from framegate.models.formats.shared_decoding import Size
from framegate.models.picture import STEP, ByteArray, NetworkInput, Picture, prepare, to_source
from framegate.models.quantisation.int8 import answers

LOWEST = 0.05
MOST = 100
_NMS_IOU = 0.6


@dataclass(frozen=True, slots=True)
class Subject:
    """One detector.

    float_file, int8_file   OpenVINO networks, uint8 (1, H, W, 3) in the order B, G, R
    size      (width, height) that is timed: of 16:9 video where the network takes any size
    prepare   a picture -> the network's input
    decode    outputs, (width, height) of the input, least score -> boxes in pixels of the input
    """

    name: str
    float_file: Path
    int8_file: Path
    outputs: tuple[str, ...]
    size: tuple[int, int]
    prepare: Callable[[Picture], NetworkInput]
    decode: Callable[[Sequence[FloatArray], Size, float], Boxes]

    def file(self, precision: Precision) -> Path:
        """What is run at a precision."""
        return self.int8_file if precision.startswith("int8") else self.float_file

    def model(self, precision: Precision) -> ov.Model:
        """With the outputs that are read, and no others."""
        model = core().read_model(self.file(precision))
        return ov.Model([model.output(name) for name in self.outputs], model.get_parameters())

    def detect(self, precision: Precision, pictures: Sequence[Picture]) -> list[Boxes]:
        """The hundred best boxes above .05 of each picture, in its own pixels."""
        prepared = [self.prepare(one) for one in pictures]
        inputs: list[ByteArray] = [one.bgr[None] for one in prepared]
        model = self.model(precision)
        sizes = iter([(one.bgr.shape[1], one.bgr.shape[0]) for one in prepared])
        found = answers(model, inputs, lambda out: self.decode(out, next(sizes), LOWEST), precision)
        return [_placed(boxes, one) for boxes, one in zip(found, prepared, strict=True)]


def _placed(boxes: Boxes, prepared: NetworkInput) -> Boxes:
    xyxy = to_source(boxes.xyxy, prepared)
    real = np.flatnonzero((xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1]))[:MOST]
    return Boxes(xyxy[real], boxes.scores[real], boxes.class_ids[real])


def nanodet_plus(long_side: int) -> Subject:
    """The shipped light network, at its own precisions. Raises ModelUnreadable."""
    height = -(-long_side * 9 // 16 // STEP) * STEP
    return Subject(
        f"nanodet-plus-{long_side}",
        verified("nanodet-plus")[0],
        verified("nanodet-plus-int8")[0],
        ("cells",),
        (long_side, height),
        partial(prepare, long_side=long_side),
        _decode_nanodet_plus,
    )


def _decode_nanodet_plus(outputs: Sequence[FloatArray], size: Size, min_score: float) -> Boxes:
    boxes = decode_cells(outputs[0], size, min_score)
    return boxes.take(suppress(boxes.xyxy, boxes.scores, _NMS_IOU))
