"""What a new model says about pictures: what is refused, and what is shown to people."""

from collections import Counter
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
from framegate.models.formats.decoding import Options
from framegate.models.formats.table import FORMATS
from framegate.models.picture import Picture
from framegate.models.preprocess import NetworkInput, to_source
from framegate.models.registry.model_folder import NETWORK, InputSpec
from framegate.models.registry.open import BF16_AGREEMENT, fit

MOST_BYTES = 256 << 20  # of all outputs
LOOKED_AT = 0.001  # least score of what is looked at; what is shown is above the model's own


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What becomes of candidates: least score, IoU of the suppression, most boxes."""

    min_score: float
    nms_iou: float
    max_boxes: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a model says about pictures.

    boxes       of each picture in its own pixels, at each precision
    ms          of one inference on one thread, at each precision
    best_score  of all that it gives, above its least score or not
    """

    boxes: dict[str, tuple[Boxes, ...]]
    ms: dict[str, float]
    best_score: float

    @property
    def agreement(self) -> float | None:
        """F1 of the boxes in bf16 against those in f32, where this CPU has both; `matching.f1`."""
        if "bf16" not in self.boxes:
            return None
        return float(matching.f1(matching.matched(self.boxes["bf16"], self.boxes["f32"])))


def prove(
    foreign: Foreign,
    settled: ImportPlan,
    outputs: tuple[str, ...],
    pictures: Sequence[Picture],
    limits: Thresholds,
) -> Proof:
    """Run the built network on `pictures` in the sandbox, and read its outputs as boxes.

    Raises ModelRefused: outputs that are NaN, or that the format cannot read, or that say
    something else than the format means.
    """
    fitted = [fit(picture, settled.input) for picture in pictures]
    names = [f"picture{i}.npy" for i in range(len(fitted))]
    for name, one in zip(names, fitted, strict=True):
        np.save(foreign.work / name, one.bgr)
    arguments = {"file": NETWORK, "outputs": outputs, "pictures": names}
    ran = ask("run", arguments, foreign.work, foreign.file, foreign.limits)
    boxes: dict[str, tuple[Boxes, ...]] = {}
    best = 0.0
    for precision in ran["ms"]:
        read = [
            _read(foreign, settled, _outputs(foreign.work, precision, i, len(outputs)), one, limits)
            for i, one in enumerate(fitted)
        ]
        best = max(best, *(float(found.scores[:1].sum()) for found in read))
        boxes[precision] = tuple(_shown(found, limits) for found in read)
    if not best:
        why = f"it finds nothing in {len(fitted)} pictures, at any score from {LOOKED_AT} up"
        raise ModelRefused(foreign.file, f"{why}; give it --picture FILE of what it knows")
    ms = {str(key): float(value) for key, value in ran["ms"].items()}
    return Proof(boxes, ms, best)


def _shown(found: Boxes, limits: Thresholds) -> Boxes:
    rows = np.flatnonzero(found.scores > np.float32(limits.min_score))
    return found.take(rows[: limits.max_boxes])


def _outputs(work: Path, precision: str, picture: int, n: int) -> list[FloatArray]:
    files = [work / f"{precision}-{picture}-{i}.npy" for i in range(n)]
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        raise ModelRefused(NETWORK, f"its outputs are more than {MOST_BYTES >> 20} MiB a picture")
    return [np.load(file, allow_pickle=False) for file in files]


def _read(
    foreign: Foreign,
    settled: ImportPlan,
    outputs: list[FloatArray],
    fitted: NetworkInput,
    limits: Thresholds,
) -> Boxes:
    form = FORMATS[settled.format]
    if doubt := doubtful(settled.format, outputs, settled.options):
        raise ModelRefused(foreign.file, doubt)
    size, n_classes = (settled.input.width, settled.input.height), len(settled.classes)
    try:
        found = form.decode(outputs, size, n_classes, LOOKED_AT, settled.options)
    except (ArithmeticError, LookupError, TypeError, ValueError) as fault:
        # ArrayMismatch is one; the others come of options that make no sense.
        why = f"its outputs cannot be read as {settled.format} {settled.options}: {fault}"
        raise ModelRefused(foreign.file, why) from fault
    if far := _far(found, settled.input, settled.options):
        raise ModelRefused(foreign.file, far)
    found = found.take(suppress(found.xyxy, found.scores, limits.nms_iou))
    xyxy = to_source(found.xyxy, fitted)
    real = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Boxes(xyxy[real], found.scores[real], found.class_ids[real])


def doubtful(format_: str, outputs: Sequence[FloatArray], options: Options) -> str | None:
    """Why numbers cannot be what the format means by them: scores outside of 0..1, say."""
    scores = _scores(format_, outputs, options)
    if scores is not None and scores.size and not -0.001 <= scores.min() <= scores.max() <= 1.001:
        span = f"{scores.min():.4g} to {scores.max():.4g}"
        return f"scores of {format_} are 0 to 1; it gives {span}: are they logits?"
    logits = _logits(format_, outputs, options)
    if logits is not None and logits.size and 0 <= logits.min() <= logits.max() <= 1:
        hint = "; see --option heat=scores" if format_ == "centernet_usual" else ""
        return f"{format_} reads logits; all that it gives is in 0..1: are they scores?{hint}"
    return None


def _scores(format_: str, outputs: Sequence[FloatArray], options: Options) -> FloatArray | None:
    rows = outputs[0]
    if format_ == "yolo_end_to_end":
        return rows[:, 6] if rows.shape[-1] == 7 else rows[:, 4]
    if format_ in ("yolo", "yolo_objectness", "detr_joined"):
        return rows[4:] if options.get("layout") == "columns" else rows[:, 4:]
    if format_ == "yolox":
        return rows[:, 4:]
    if format_ in ("boxes_labels", "boxes_scores"):
        return outputs[1]
    return rows[..., 2] if format_ == "ssd_rows" else None


def _logits(format_: str, outputs: Sequence[FloatArray], options: Options) -> FloatArray | None:
    is_heat = format_ == "centernet_usual" and options.get("heat", "logits") == "logits"
    if is_heat or format_ in ("detr_softmax", "detr_sigmoid", "centernet"):
        return outputs[0]
    return outputs[1] if format_ == "ssd_deltas" else None


def _far(found: Boxes, spec: InputSpec, options: Options) -> str | None:
    """Why boxes cannot be in pixels of the input: all far outside, or all within one pixel."""
    if not len(found):
        return None
    size = np.array((spec.width, spec.height) * 2, np.float32)
    centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    outside = (centres < 0).any(axis=1) | (centres > size[:2]).any(axis=1)
    if outside.mean() > 0.5:
        where = f"the middle of {int(outside.sum())} of {len(found)} boxes lies outside the picture"
        return f"{where}; are --format, --size and --option unit right?"
    if len(found) > 1 and np.abs(found.xyxy).max() <= 2 and options.get("unit") is None:
        return (
            "all boxes lie within 2 pixels: are they shares of the picture (--option unit=share)?"
        )
    return None


def counts(boxes: Sequence[Boxes], classes: Sequence[str]) -> list[tuple[str, int, float, float]]:
    """Of each class that was found: its label, how many, lowest and highest score; most first."""
    found: Counter[int] = Counter()
    scores: dict[int, list[float]] = {}
    for one in boxes:
        for class_id, score in zip(one.class_ids.tolist(), one.scores.tolist(), strict=True):
            found[class_id] += 1
            scores.setdefault(class_id, []).append(score)
    return [(classes[i], n, min(scores[i]), max(scores[i])) for i, n in found.most_common()]


def metrics(proof: Proof) -> dict[str, Any]:
    """What of it a manifest records."""
    told: dict[str, Any] = {"proof_pictures": len(proof.boxes["f32"])}
    told["proof_boxes"] = sum(len(boxes) for boxes in proof.boxes["f32"])
    if proof.agreement is not None:
        told[BF16_AGREEMENT] = round(proof.agreement, 4)
    return told
