"""Test of a converted network on pictures: refuse it if its boxes make no sense."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framegate.models import matching
from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.conversion.convert import Foreign
from framegate.models.conversion.sandbox import ask
from framegate.models.conversion.settle import ImportPlan
from framegate.models.errors import ModelRefused
from framegate.models.formats.shared_decoding import Options
from framegate.models.formats.table import FORMATS
from framegate.models.picture import NetworkInput, Picture, to_source
from framegate.models.registry.manifest import NETWORK, InputSpec
from framegate.models.registry.open import BF16_AGREEMENT, fit

MAX_BYTES = 256 << 20  # of all outputs for a picture
# Confidence threshold of the test. The reported boxes exceed the threshold of the model as well.
MIN_SCORE = 0.001


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Confidence threshold, IoU of non-maximum suppression, and maximum number of boxes."""

    min_score: float
    nms_iou: float
    max_boxes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """The boxes of a model on the test pictures.

    boxes       by precision, for each picture, in pixels of the picture
    ms          duration of an inference on one thread, by precision
    best_score  highest score of all boxes, even if below the model's threshold
    """

    boxes: dict[str, tuple[Boxes, ...]]
    ms: dict[str, float]
    best_score: float

    @property
    def agreement(self) -> float | None:
        """F1 of the boxes in bf16 against those in f32; None: this CPU does not support bf16."""
        if "bf16" not in self.boxes:
            return None
        return float(matching.f1(matching.matched(self.boxes["bf16"], self.boxes["f32"])))


def prove(
    foreign: Foreign,
    plan: ImportPlan,
    outputs: tuple[str, ...],
    pictures: Sequence[Picture],
    limits: Thresholds,
) -> Proof:
    """Run the built network on `pictures` in the sandbox, and decode its outputs.

    Raises ModelRefused if outputs are not finite, cannot be decoded, or make no sense in the
    format, and if there are no boxes at all.
    """
    inputs = [fit(picture, plan.input) for picture in pictures]
    names = [f"picture{index}.npy" for index in range(len(inputs))]
    for name, network_input in zip(names, inputs, strict=True):
        np.save(foreign.work / name, network_input.bgr)
    arguments = {"file": NETWORK, "outputs": outputs, "pictures": names}
    answer = ask("run", arguments, foreign.work, foreign.file, foreign.limits)
    boxes: dict[str, tuple[Boxes, ...]] = {}
    best_score = 0.0
    for precision in answer["ms"]:
        reported = []
        for index, network_input in enumerate(inputs):
            tensors = _load_outputs(foreign.work, precision, index, len(outputs))
            every = _decode(foreign, plan, tensors, network_input, limits)
            best_score = max(best_score, *every.scores[:1].tolist(), 0.0)
            rows = np.flatnonzero(every.scores > np.float32(limits.min_score))
            reported.append(every.take(rows[: limits.max_boxes]))
        boxes[precision] = tuple(reported)
    if not best_score:
        why = f"it detects nothing in {len(inputs)} pictures, even at a score of {MIN_SCORE}"
        raise ModelRefused(foreign.file, f"{why}; give --picture FILE with objects of its classes")
    ms = {str(key): float(value) for key, value in answer["ms"].items()}
    return Proof(boxes, ms, best_score)


def _load_outputs(work: Path, precision: str, picture: int, n: int) -> list[FloatArray]:
    files = [work / f"{precision}-{picture}-{index}.npy" for index in range(n)]
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise ModelRefused(NETWORK, f"its outputs exceed {MAX_BYTES >> 20} MiB per picture")
    return [np.load(file, allow_pickle=False) for file in files]


def _decode(
    foreign: Foreign,
    plan: ImportPlan,
    outputs: list[FloatArray],
    network_input: NetworkInput,
    limits: Thresholds,
) -> Boxes:
    """Return the boxes after non-maximum suppression, in pixels of the picture."""
    doubt = doubtful(plan.format, outputs, plan.options)
    if doubt is not None:
        raise ModelRefused(foreign.file, doubt)
    size = plan.input.width, plan.input.height
    decode = FORMATS[plan.format].decode
    try:
        boxes = decode(outputs, size, len(plan.classes), MIN_SCORE, plan.options)
    except (ArithmeticError, LookupError, TypeError, ValueError) as fault:
        # ArrayMismatch is a ValueError; the others come from options that make no sense.
        why = f"its outputs cannot be read as {plan.format} {plan.options}: {fault}"
        raise ModelRefused(foreign.file, why) from fault
    misplaced = _misplaced(boxes, plan.input, plan.options)
    if misplaced is not None:
        raise ModelRefused(foreign.file, misplaced)
    boxes = boxes.take(suppress(boxes.xyxy, boxes.scores, limits.nms_iou))
    xyxy = to_source(boxes.xyxy, network_input)
    has_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Boxes(xyxy[has_area], boxes.scores[has_area], boxes.class_ids[has_area])


def doubtful(format_: str, outputs: Sequence[FloatArray], options: Options) -> str | None:
    """Return the reason why outputs cannot be of a format, such as scores outside of 0..1."""
    scores = _scores(format_, outputs, options)
    if scores is not None and scores.size and not -0.001 <= scores.min() <= scores.max() <= 1.001:
        span = f"{scores.min():.4g} to {scores.max():.4g}"
        return f"scores of {format_} are 0 to 1; it gives {span}: are they logits?"
    logits = _logits(format_, outputs, options)
    if logits is not None and logits.size and 0 <= logits.min() <= logits.max() <= 1:
        hint = ""
        if format_ == "centernet_usual":
            hint = "; see --option heat=scores"
        return f"{format_} reads logits; all its outputs are in 0..1: are they scores?{hint}"
    return None


def _scores(format_: str, outputs: Sequence[FloatArray], options: Options) -> FloatArray | None:
    """Return the outputs that must be in 0..1; None: the format has none."""
    rows = outputs[0]
    match format_:
        case "yolo_end_to_end" if rows.shape[-1] == 7:
            return rows[:, 6]
        case "yolo_end_to_end":
            return rows[:, 4]
        case "yolo" | "yolo_objectness" | "detr_joined" if options.get("layout") == "columns":
            return rows[4:]
        case "yolo" | "yolo_objectness" | "detr_joined" | "yolox":
            return rows[:, 4:]
        case "boxes_labels" | "boxes_scores":
            return outputs[1]
        case "ssd_rows":
            return rows[..., 2]
    return None


def _logits(format_: str, outputs: Sequence[FloatArray], options: Options) -> FloatArray | None:
    """Return the outputs that are logits; None: the format has none."""
    match format_:
        case "detr_softmax" | "detr_sigmoid":
            return outputs[0]
        case "centernet_usual" if options.get("heat", "logits") == "logits":
            return outputs[0]
        case "nanodet_joined" if options.get("scores") == "logits":
            return outputs[0]
        case "ssd_deltas":
            return outputs[1]
    return None


def _misplaced(boxes: Boxes, spec: InputSpec, options: Options) -> str | None:
    """Return the reason why boxes cannot be in pixels: most lie outside, or all within 2 pixels."""
    if not len(boxes):
        return None
    size = np.array((spec.width, spec.height), np.float32)
    centres = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
    is_outside = (centres < 0).any(axis=1) | (centres > size).any(axis=1)
    if is_outside.mean() > 0.5:
        n_outside = int(is_outside.sum())
        return (
            f"the centre of {n_outside} of {len(boxes)} boxes lies outside the picture; "
            "are --format, --size and --option unit right?"
        )
    if len(boxes) > 1 and np.abs(boxes.xyxy).max() <= 2 and options.get("unit") is None:
        return (
            "all boxes lie within 2 pixels: are they shares of the picture (--option unit=share)?"
        )
    return None


def counts(boxes: Sequence[Boxes], classes: Sequence[str]) -> list[tuple[str, int, float, float]]:
    """Return label, number, lowest and highest score of each detected class, most boxes first."""
    scores: dict[int, list[float]] = {}
    for picture in boxes:
        for class_id, score in zip(
            picture.class_ids.tolist(), picture.scores.tolist(), strict=True
        ):
            scores.setdefault(class_id, []).append(score)
    rows = [(classes[i], len(each), min(each), max(each)) for i, each in scores.items()]
    rows.sort(key=lambda row: row[1], reverse=True)
    return rows


def metrics(proof: Proof) -> dict[str, Any]:
    """Return the figures of a proof for the manifest."""
    figures: dict[str, Any] = {
        "proof_pictures": len(proof.boxes["f32"]),
        "proof_boxes": sum(len(boxes) for boxes in proof.boxes["f32"]),
    }
    if proof.agreement is not None:
        figures[BF16_AGREEMENT] = round(proof.agreement, 4)
    return figures
