"""The output formats of detectors by name, each with its decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.formats import centernet, detr, nanodet, ssd, yolo
from framegate.models.formats.shared_decoding import Options, Size, shaped


class OutputDecoder(Protocol):
    """A function that decodes the outputs of a network to boxes.

    outputs    float32 arrays without the batch axis, in the manifest's order
    size       (width, height) of the network's input
    n_classes  number of classes in the manifest; class ids are indices into its list
    min_score  0..1; only boxes with higher scores are returned
    options    options of the manifest

    Boxes are in pixels of the network's input, highest score first, about 500 at most. Raises
    ArrayMismatch for shapes that do not fit the format, and for NaN.
    """

    def __call__(
        self,
        outputs: Sequence[FloatArray],
        size: Size,
        n_classes: int,
        min_score: float,
        options: Options,
        /,
    ) -> Boxes: ...


@dataclass(frozen=True, slots=True)
class Format:
    """An output format of detectors.

    about    a short description
    decode   see OutputDecoder
    ranks    number of axes of each output, without the batch axis
    options  names of the options that `decode` knows

    The caller always runs non-maximum suppression, even if the network has its own.
    """

    about: str
    decode: OutputDecoder
    ranks: tuple[int, ...]
    options: tuple[str, ...] = ()


def _nanodet_joined(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    strides = options.get("strides", nanodet.NANODET_PLUS.strides)
    centre = options.get("centre", nanodet.NANODET_PLUS.centre)
    grid = nanodet.CellGrid(tuple(strides), centre)
    is_logits = options.get("scores", "scores") == "logits"
    return nanodet.decode_joined(outputs[0], size, n_classes, min_score, grid, is_logits)


def _centernet(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    heat, sides, offset = outputs
    shaped("heat", heat, n_classes, None, None)
    for name, map_ in (("sides", sides), ("offset", offset)):
        shaped(name, map_, 2, *heat.shape[1:])
    return centernet.decode(
        heat,
        sides,
        offset,
        min_score,
        stride=size[0] // heat.shape[2],
        is_logits=options.get("heat", "logits") == "logits",
    )


FORMATS: Mapping[str, Format] = MappingProxyType({
    "yolo": Format("YOLO v8 to v12: box, class scores", yolo.plain, (2,), ("layout",)),
    "yolo_objectness": Format(
        "YOLO v5 to v7: box, objectness, class scores",
        yolo.with_objectness, (2,), ("layout",),
    ),
    "yolox": Format(
        "YOLOX: cells of grids, objectness, class scores",
        yolo.x, (2,), ("layout", "strides"),
    ),
    "yolo_end_to_end": Format(
        "YOLO with its suppression inside: rows of box, score, class",
        yolo.end_to_end, (2,), ("class_numbers",),
    ),
    "detr_softmax": Format(
        "DETR: logits with a last class for no object, boxes",
        detr.with_softmax, (2, 2), ("class_numbers",),
    ),
    "detr_sigmoid": Format(
        "Deformable DETR, RT-DETR: logits, boxes",
        detr.with_sigmoid, (2, 2), ("class_numbers",),
    ),
    "detr_joined": Format(
        "RT-DETR as one output: box, class scores", detr.joined, (2,)
    ),
    "ssd_rows": Format(
        "DetectionOutput of OpenVINO and Caffe: rows of picture, class, score, box",
        ssd.rows, (3,), ("class_numbers",),
    ),
    "ssd_deltas": Format(
        "SSD: location deltas, class logits",
        ssd.deltas, (2, 2),
        ("aspect_ratios", "scales", "min_ratio", "max_ratio", "steps", "grids", "clip",
         "variances", "background", "class_numbers"),
    ),
    "centernet_usual": Format(
        "CenterNet: heat, width and height, offset", _centernet, (3, 3, 3), ("heat",)
    ),
    "nanodet_joined": Format(
        "NanoDet and NanoDet-Plus as one output: class scores, bins",
        _nanodet_joined, (2,), ("strides", "centre", "scores"),
    ),
    "boxes_labels": Format(
        "boxes, scores, labels, suppressed already",
        detr.labelled, (2, 1, 1), ("form", "unit", "class_numbers"),
    ),
    "boxes_scores": Format(
        "boxes, scores a class",
        detr.scored, (2, 2), ("form", "unit", "class_numbers"),
    ),
})  # fmt: skip
