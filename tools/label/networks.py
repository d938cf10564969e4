"""Networks that propose boxes: the shipped ones, and further ones from a folder of OpenVINO files.

A file of the folder is recognised by its outputs. `cells` is NanoDet-Plus with a free input size:
normalised B, G, R as float32 NCHW; per cell 80 class logits, then 4 x 8 bins. `boxes` and `labels`
is Intel's person-vehicle-bike: the stretched picture, B, G, R, float32 NCHW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import openvino

from framegate.models import coco
from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector import detector, policy
from framegate.models.detector.network import nearest
from framegate.models.formats.nanodet import decode_joined, sigmoid
from framegate.models.picture import ByteArray, Picture

LOWEST: Final = 0.12  # score of a box that may become a proposal
_LIGHT_SIDES: Final = (416, 640)
_PLUS_SIDES: Final = (640, 960)
_PLUS_MEAN: Final = np.array([103.53, 116.28, 123.675], np.float32)
_PLUS_DEVIATION: Final = np.array([57.375, 57.12, 58.395], np.float32)
_PLUS_ALIGNED: Final = 32
_INTEL_LABELS: Final = ("vehicle", "person", "bicycle")
_SAME: Final = 0.55  # IoU of two boxes of one network that are one object

# The box edges (N, 4) in pixels of the source, the scores (N,) and the N class names.
Answer = tuple[FloatArray, FloatArray, list[str]]


class Frame(NamedTuple):
    """A decoded frame: the planes, and uint8 (H, W, 3) in the order B, G, R."""

    picture: Picture
    bgr: ByteArray


class Proposer(NamedTuple):
    """A network with its input size, as the proposals name it."""

    name: str
    ask: Callable[[Frame], Answer]


def shipped() -> Iterator[Proposer]:
    """Yield the light network at several input sizes, and the heavy pass. One thread."""
    light = policy.load("light").with_min_score(LOWEST)
    kind = light.parts[0][0]
    everything = tuple(range(coco.N_CLASSES))
    for side in _LIGHT_SIDES:
        name = f"{kind}-{side}"
        choices = replace(light, members=(name,))
        yield _of_detector(name, detector.build(choices, nearest(light.precision), 1, everything))
    yield _of_detector("heavy", detector.load("heavy", min_score=LOWEST))


def _of_detector(name: str, network: detector.Detector) -> Proposer:
    def ask(frame: Frame) -> Answer:
        boxes = network.detect([frame.picture])[0]
        labels = [coco.LABELS[class_id] for class_id in boxes.class_ids.tolist()]
        return boxes.xyxy, boxes.scores, labels

    return Proposer(name, ask)


def from_folder(folder: Path) -> Iterator[Proposer]:
    """Yield the networks of a folder. Raises ValueError for a file with other outputs."""
    core = openvino.Core()
    for path in sorted(folder.glob("*.xml")):
        model = core.read_model(path)
        names = set().union(*(output.names for output in model.outputs))
        if "cells" in names:
            for side in _PLUS_SIDES:
                plus = _NanoDetPlus(core, model, side)
                yield Proposer(f"{path.stem}-{side}", plus.ask)
        elif {"boxes", "labels"} <= names:
            yield Proposer(path.stem, _Intel(core, model).ask)
        else:
            known = "`cells`, or `boxes` and `labels`"
            raise ValueError(f"{path}: outputs {sorted(names)}; known are {known}")


def _compiled(core: Any, model: Any) -> Any:
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(model, "CPU", settings)


class _NanoDetPlus:
    """NanoDet-Plus with the picture's longer side scaled to `side`, black right and below."""

    def __init__(self, core: Any, model: Any, side: int) -> None:
        self._core = core
        self._model = model
        self._side = side
        self._compiled: dict[tuple[int, int], Any] = {}

    def ask(self, frame: Frame) -> Answer:
        height, width = frame.bgr.shape[:2]
        scale = self._side / max(width, height)
        inner = round(width * scale), round(height * scale)
        size = _aligned(inner[0]), _aligned(inner[1])
        resized = cv2.resize(frame.bgr, inner, interpolation=_interpolation(scale))
        full = np.zeros((size[1], size[0], 3), np.float32)
        full[: inner[1], : inner[0]] = resized
        planes = ((full - _PLUS_MEAN) / _PLUS_DEVIATION).transpose(2, 0, 1)
        cells = self._network(size)(np.ascontiguousarray(planes[None]))[0][0]
        rows = cells.astype(np.float32)
        rows[:, : coco.N_CLASSES] = sigmoid(rows[:, : coco.N_CLASSES])
        boxes = decode_joined(rows, size, coco.N_CLASSES, LOWEST)
        kept = boxes.take(suppress(boxes.xyxy, boxes.scores, _SAME))
        return _in_source(kept, np.array([inner[0] / width, inner[1] / height], np.float32))

    def _network(self, size: tuple[int, int]) -> Any:
        if size not in self._compiled:
            model = self._model.clone()
            model.reshape([1, 3, size[1], size[0]])
            self._compiled[size] = _compiled(self._core, model)
        return self._compiled[size]


def _in_source(boxes: Boxes, scale: FloatArray) -> Answer:
    labels = [coco.LABELS[class_id] for class_id in boxes.class_ids.tolist()]
    in_source: FloatArray = (boxes.xyxy / np.tile(scale, 2)).astype(np.float32)
    return in_source, boxes.scores, labels


def _aligned(length: int) -> int:
    return -(-length // _PLUS_ALIGNED) * _PLUS_ALIGNED


def _interpolation(scale: float) -> int:
    if scale < 1:
        return cv2.INTER_AREA
    return cv2.INTER_LINEAR


class _Intel:
    """Intel's person-vehicle-bike: three classes, one input size, suppression inside."""

    def __init__(self, core: Any, model: Any) -> None:
        self._network = _compiled(core, model)
        self._size = int(model.input().shape[3]), int(model.input().shape[2])

    def ask(self, frame: Frame) -> Answer:
        height, width = frame.bgr.shape[:2]
        scale = self._size[0] / width
        resized = cv2.resize(frame.bgr, self._size, interpolation=_interpolation(scale))
        planes = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32)
        answer = self._network(planes)
        rows = np.asarray(answer["boxes"], np.float32).reshape(-1, 5)
        class_ids = np.asarray(answer["labels"]).ravel()
        is_likely = rows[:, 4] > LOWEST
        stretch = np.array([self._size[0] / width, self._size[1] / height] * 2, np.float32)
        labels = [_INTEL_LABELS[int(class_id)] for class_id in class_ids[is_likely]]
        return rows[is_likely, :4] / stretch, rows[is_likely, 4], labels
