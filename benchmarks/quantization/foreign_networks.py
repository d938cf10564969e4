"""A detector as users bring it: an ONNX file with decoding, scaling and colours of its own.

It is made from this project's weights, so that its accuracy is real: NanoDet-Plus behind a
YOLOv8-style output. It takes float RGB pictures of one size, as such files do. Needs torch, onnx
and nncf (the `train` extra).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from openvino.preprocess import ColorFormat, PrePostProcessor
from torch import Tensor, nn

from benchmarks.quantization.subjects import Subject
from framegate.models import coco
from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.coco import N_CLASSES
from framegate.models.formats.nanodet import BINS, NANODET_PLUS
from framegate.models.formats.shared_decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.picture import ByteArray, Picture
from framegate.models.quantisation.int8 import Chosen, QuantisedNetwork, choose
from framegate.models.registry.manifest import InputSpec
from framegate.models.registry.open import fit
from framegate.models.training.nanodet_plus import general

N_CALIBRATING = 32
LEAST = 0.85
_SHOWN = 0.3  # least score of a box that agreement is about
_NMS_IOU = 0.6


@dataclass(frozen=True, slots=True)
class Foreign:
    """A network of another's: how its file is made, fed and read.

    format, outputs   as in a model's manifest
    """

    name: str
    module: type[nn.Module]
    outputs: tuple[str, ...]
    format: str
    spec: InputSpec


class YoloStyle(nn.Module):
    """NanoDet-Plus with boxes: (1, 3, S, S) RGB 0..1 -> (1, 84, N), centres and sizes first."""

    def __init__(self) -> None:
        super().__init__()
        self.model = general()

    def forward(self, x: Tensor) -> Tensor:
        cells = self.model(x.flip(1) * 255).transpose(1, 2)
        sides = [(x.shape[-1] + stride - 1) // stride for stride in NANODET_PLUS.strides]
        levels = cells.split([side**2 for side in sides], dim=2)
        steps = zip(levels, sides, NANODET_PLUS.strides, strict=True)
        return torch.cat([_decoded(*step) for step in steps], dim=2)


def _decoded(level: Tensor, n: int, stride: int) -> Tensor:
    """The boxes and scores (1, 84, n * n) of a level (1, 80 + 32, n * n)."""
    bins = level[:, N_CLASSES:].reshape(1, 4, BINS, n * n).softmax(2)
    steps = torch.arange(BINS, dtype=torch.float32).view(1, 1, BINS, 1)
    sides = (bins * steps).sum(2) * stride
    left, top, right, bottom = (sides[:, i : i + 1] for i in range(4))
    places = (torch.arange(n, dtype=torch.float32) + NANODET_PLUS.centre) * stride
    x, y = places.repeat(n).view(1, 1, -1), places.repeat_interleave(n).view(1, 1, -1)
    box = (x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom)
    return torch.cat((*box, level[:, :N_CLASSES].sigmoid()), dim=1)


YOLO_STYLE = Foreign(
    "yolo-style-416", YoloStyle, ("output0",), "yolo", InputSpec(416, 416, "letterbox")
)


def export(foreign: Foreign, path: Path) -> None:
    """The network as an ONNX file."""
    example = torch.zeros(1, 3, foreign.spec.height, foreign.spec.width)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": list(foreign.outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(foreign.module().eval(), (example,), path, dynamo=False, **names)


def with_pictures(path: Path) -> ov.Model:
    """The ONNX file as a network of uint8 pictures (1, H, W, 3), B, G, R."""
    prepost = PrePostProcessor(ov.Core().read_model(path))
    given = prepost.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    given.set_color_format(ColorFormat.BGR)
    prepost.input().model().set_layout(ov.Layout("NCHW"))
    steps = prepost.input().preprocess().convert_element_type(ov.Type.f32)
    steps.convert_color(ColorFormat.RGB).scale(255.0)
    return prepost.build()


def decode(foreign: Foreign, outputs: Sequence[FloatArray], size: Size, min_score: float) -> Boxes:
    """Boxes in pixels of the input."""
    form = FORMATS[foreign.format]
    boxes = form.decode(outputs, size, coco.N_CLASSES, min_score, {})
    keep = suppress(boxes.xyxy, boxes.scores, _NMS_IOU)
    return boxes.take(keep)


def choice(foreign: Foreign, model: ov.Model, pictures: Sequence[Picture]) -> Chosen:
    """What stays float: calibrated on some of the first half, judged on the second."""
    inputs: list[ByteArray] = [fit(one, foreign.spec).bgr[None] for one in pictures]
    half = len(inputs) // 2
    calibrating = inputs[: half : max(1, half // N_CALIBRATING)]
    size = foreign.spec.width, foreign.spec.height
    read = partial(decode, foreign, size=size, min_score=_SHOWN)
    return choose(
        model, calibrating, inputs[half:], read, LEAST, on_candidate=partial(_say, foreign)
    )


def _say(foreign: Foreign, one: QuantisedNetwork) -> None:
    f1 = one.agreement
    words = f"F1 with float {f1.middle:.3f} [{f1.low:.3f}, {f1.high:.3f}]"
    print(f"{foreign.name}: {len(one.float_layers)} layers float, {words}", flush=True)


def subject(
    foreign: Foreign, pictures: Sequence[Picture], folder: Path
) -> tuple[Subject, dict[str, Any]]:
    """The network and its INT8 twin as files in `folder`, and how the twin was chosen.

    pictures    that calibrate and choose; none may be used to judge
    """
    onnx = folder / f"{foreign.name}.onnx"
    export(foreign, onnx)
    model = with_pictures(onnx)
    chosen = choice(foreign, model, pictures)
    files = {"f32": folder / f"{foreign.name}.xml", "int8": folder / f"{foreign.name}-int8.xml"}
    ov.save_model(model, files["f32"], compress_to_fp16=False)
    ov.save_model(chosen.best.model, files["int8"], compress_to_fp16=False)
    said = {
        "bound": LEAST,
        "accepted": chosen.accepted is not None,
        "layers_float": len(chosen.best.float_layers),
        "candidates": [_row(one) for one in chosen.candidates],
        "noisiest": [
            {"layer": e.name, "own_db": round(e.own_db, 1), "total_db": round(e.total_db, 1)}
            for e in chosen.errors[:10]
        ],
    }
    spec = foreign.spec
    size = spec.width, spec.height
    made = Subject(
        foreign.name,
        files["f32"],
        files["int8"],
        foreign.outputs,
        size,
        partial(fit, spec=spec),
        partial(decode, foreign),
    )
    return made, said


def _row(one: QuantisedNetwork) -> dict[str, Any]:
    f1 = one.agreement
    interval = [round(f1.low, 4), round(f1.high, 4)]
    return {
        "layers_float": len(one.float_layers),
        "agreement": round(f1.middle, 4),
        "interval": interval,
    }
