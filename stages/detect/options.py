"""The options of detect, with the tables of pipeline.toml that it owns: gate, cache, models.

A configuration is read without the stage, which loads OpenCV and NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeVar

from framegate.models import coco
from framegate.models.detector import policy
from framegate.models.detector.device_names import CPU, device_fault
from framegate.models.detector.policy import SIDES
from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.stage import Stage

S = TypeVar("S")

Mode = Literal["off", "frames", "crops"]


def masks_fault(masks: Any) -> str | None:
    """Return the first fault of `[gate.masks]`, or None."""
    for source, polygons in masks.items():
        if not is_name(source):
            return f"{source!r} cannot name a source; a name is {NAME_RULE}"
        if not isinstance(polygons, list | tuple) or not all(map(_is_polygon, polygons)):
            return (
                f"{source}: must be a list of polygons, each of three or more points [x, y] in "
                "pixels of the source, such as [[[0, 0], [640, 0], [640, 48], [0, 48]]]"
            )
    return None


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list | tuple) and len(points) >= 3 and all(map(_is_point, points))


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list | tuple)
        and len(point) == 2
        and all(_is_number(value) and abs(value) < 1e6 for value in point)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_MASKS: Final = {
    "additionalProperties": {
        "type": "array",
        "items": {
            "type": "array",
            "minItems": 3,
            "items": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": 2,
                "maxItems": 2,
            },
        },
    }
}


@dataclass(frozen=True)
class GateOptions:
    """`[gate]`: which frames, and which parts of them, the network gets. Each tile of a picture
    is compared with the tile at the last look; Framegate learns a threshold for each tile.

    mode          off: every whole frame. frames: whole frames with a change. crops: only the
                  changed parts, where that is cheaper
    object_age_s  seconds of media time after which the network looks at an object again at the
                  latest
    still_age_s   upper limit of that time for an object that does not move. Framegate waits as long
                  as the object has been there, up to this limit
    frame_age_s   seconds of media time after which the network looks at the whole frame again
    wait_frames   frames for which a change can wait where known objects move
    wait_s        seconds of media time for which a change can wait where known objects move.
                  Elsewhere a change beside the last change waits at most 0.1 s, and other changes
                  do not wait. If frames are more than 0.15 s apart, no change waits
    least         lowest threshold that is learned, in grey levels. If least and most are 0, the
                  gate works as with mode off
    most          highest threshold that is learned, in grey levels. A greater change is looked at
                  within two frames
    masks         source -> polygons in pixels of its picture. Changes inside them are ignored, for
                  example a clock
    view          add the view of the gate to each result, for drawing (`--draw gate`)
    changes_bytes  limit of disk space for the changed parts of frames, which `framegate changes`
                  reads. A frame takes at most 56 bytes. The source with the most data loses its
                  oldest file first. 0: none are stored
    """

    mode: Mode = "crops"
    object_age_s: float = field(default=1.0, metadata={"least": 0.05, "most": 60.0})
    still_age_s: float = field(default=10.0, metadata={"least": 0.05, "most": 3600.0})
    frame_age_s: float = field(default=10.0, metadata={"least": 0.05, "most": 3600.0})
    wait_frames: int = field(default=8, metadata={"least": 0, "most": 30})
    wait_s: float = field(default=0.8, metadata={"least": 0.0, "most": 10.0})
    least: float = field(default=10.0, metadata={"least": 0.0, "most": 255.0})
    most: float = field(default=24.0, metadata={"least": 0.0, "most": 255.0})
    masks: dict[str, Any] = field(
        default_factory=dict, metadata={"check": masks_fault, "schema": _MASKS}
    )
    view: bool = False
    changes_bytes: int = field(default=1 << 30, metadata={"least": 0})


@dataclass(frozen=True)
class CacheOptions:
    """The table `[cache]`.

    exact   answer an input that the network has had before from memory, with the same bits
    """

    exact: bool = True


OWN: Final = policy.names()
MODEL_RULE: Final = (
    f"{', '.join(OWN)}, nanodet-plus-SIDE (another input size of light, a multiple of "
    f"{SIDES.step} from {SIDES[0]} to {SIDES[-1]}), or a model of the registry: NAME, NAME@VERSION "
    "or NAME@DIGEST"
)
_REF = re.compile(r"[a-z][a-z0-9_-]{0,31}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,63})?")
_KEYS: Final = ("model", "classes", "min_score", "min_scores")

Scores = tuple[tuple[str, float], ...]
Classes = tuple[str, ...] | Literal["all"] | None
SCORES_SCHEMA: Final = {
    "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
}


def model_fault(model: Any) -> str | None:
    """Return the fault of the name of a model, or None."""
    is_name = isinstance(model, str) and _REF.fullmatch(model) is not None
    if not is_name:
        return f"must be {MODEL_RULE}"
    side = policy.side_of(model)
    if side is not None and side not in SIDES:
        return f"must be {MODEL_RULE}"
    return None


def is_own(model: str) -> bool:
    """Return True for a model that is part of Framegate. Its classes are some of COCO's."""
    return model in OWN or policy.side_of(model) is not None


def own_labels(model: str) -> tuple[str, ...]:
    """Return all labels of a model that is part of Framegate. Raises UnknownDetector."""
    return policy.load(model).labels


def labels_wanted(model: str, classes: Classes) -> tuple[str, ...] | None:
    """Return the labels that a model detects; None: all labels of the model."""
    if classes == "all":
        return None
    if classes is None and is_own(model):
        known = own_labels(model)
        return tuple(label for label in coco.CAMERA if label in known)
    return classes


def scores_fault(scores: Any) -> str | None:
    """Return the fault of a table of lowest scores by class, or None."""
    if not isinstance(scores, dict):
        return "must be a table of class = score"
    wrong = [name for name, score in scores.items() if not _is_score(score)]
    if not wrong:
        return None
    return f"{', '.join(wrong)}: {_SCORE_RULE}"


_SCORE_RULE: Final = "must be a number between 0 and 1"


def _is_score(score: Any) -> bool:
    return _is_number(score) and 0 < score < 1


def classes_fault(model: str, classes: Any) -> str | None:
    """Return the fault of a list of classes, or None. Labels are checked for own models only."""
    if classes == "all":
        return None
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        return "must be a list of strings, or 'all'"
    if not classes:
        return "the list is empty; must be labels of the model, or 'all'"
    if not is_own(model) or model_fault(model) is not None:
        return None
    known = own_labels(model)
    unknown = [name for name in classes if name not in known]
    if not unknown:
        return None
    allowed = ", ".join(known[:12])
    if len(known) > 12:
        allowed = f"{allowed}, ... ({len(known)} in all)"
    near = did_you_mean(unknown[0], known)
    return f"{', '.join(unknown)}: unknown; must be any of {allowed}{near}"


def sources_fault(sources: Any) -> str | None:
    """Return the first fault of `[models.sources]`, or None."""
    for source, table in sources.items():
        if not isinstance(table, dict):
            return f"{source}: must be a table with any of {', '.join(_KEYS)}"
        for key, value in table.items():
            if key not in _KEYS:
                near = did_you_mean(key, _KEYS)
                return f"{source}.{key}: unknown key; must be any of {', '.join(_KEYS)}{near}"
            fault = _source_fault(key, value, table)
            if fault is not None:
                return f"{source}.{key} = {value!r}: {fault}"
    return None


def _source_fault(key: str, value: Any, table: Mapping[str, Any]) -> str | None:
    if key == "model":
        return model_fault(value)
    if key == "classes":
        return classes_fault(table.get("model", ""), value)
    if key == "min_scores":
        return scores_fault(value)
    if not _is_score(value):
        return _SCORE_RULE
    return None


@dataclass(frozen=True)
class ModelUse:
    """`[models.sources.NAME]`: model and classes for one source, in place of those of
    [stages.detect].

    model       name of the model, as in `detector`
    classes     labels to detect, or "all". Default: as in [stages.detect]
    min_score   lowest score of an object, 0 to 1. Default: that of the model
    min_scores  class -> lowest score of its objects, 0 to 1, where it differs
    """

    model: Literal["light", "heavy"] | str = "light"
    classes: Classes = None
    min_score: float | None = None
    min_scores: Scores = field(
        default=(), metadata={"said_as": dict[str, float], "schema": SCORES_SCHEMA}
    )

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Return the labels to detect; None: all labels of the model."""
        return labels_wanted(self.model, self.classes)


@dataclass(frozen=True)
class ModelOptions:
    """`[models]`: your own models, and sources with another model.

    registry  folder of the added models. Default: the folder of `framegate models`
    most_ms   milliseconds that a new model may take for one picture on this machine. A slower model
              is refused during a run
    sources   source -> a table with model, classes, min_score or min_scores
    """

    registry: str | None = None
    most_ms: float = field(default=250.0, metadata={"least": 1.0, "most": 60000.0})
    sources: dict[str, Any] = field(
        default_factory=dict, metadata={"check": sources_fault, "each": ModelUse}
    )


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector    light; heavy, which takes about five times the time; surveillance or
                surveillance-large, which find only person, car (any vehicle) and bicycle;
                nanodet-plus-SIDE, another input size of light, a multiple of 32 from 96 to 1280;
                or an added model: NAME, NAME@VERSION or NAME@DIGEST
    classes     labels to detect, or "all" that the model knows. Default: person, bicycle, car,
                motorcycle, bus, train, truck, boat, bird, cat, dog, horse, as far as the model
                knows them; for your own models all
    min_score   lowest score of an object, 0 to 1. Default: that of the model
    min_scores  class -> lowest score of its objects, 0 to 1, where it differs
    device      device for the network. CPU; GPU, GPU.1, NPU or HETERO:GPU,CPU, as OpenVINO names
                them; for a model from ONNX also CUDA and other providers of ONNX Runtime. If the
                device is absent, or its results differ from those of the CPU, the run ends. AUTO:
                the fastest device whose results agree with the CPU
    gate        the table [gate]
    cache       the table [cache]
    models      the table [models]
    backdrops   add a small picture of the scene to one of 128 frames
    """

    detector: str = field(default="light", metadata={"check": model_fault})
    classes: Classes = None
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    min_scores: dict[str, float] = field(
        default_factory=dict, metadata={"check": scores_fault, "schema": SCORES_SCHEMA}
    )
    device: str = field(default=CPU, metadata={"check": device_fault})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"table": True})
    cache: CacheOptions = field(default_factory=CacheOptions, metadata={"table": True})
    models: ModelOptions = field(default_factory=ModelOptions, metadata={"table": True})
    backdrops: bool = field(default=False, metadata={"hidden": True})

    def faults(self) -> list[str]:
        """Return the faults of values that depend on each other."""
        if self.classes is None:
            return []
        fault = classes_fault(self.detector, self.classes)
        if fault is None:
            return []
        return [f"classes = {list(self.classes)}: {fault}"]

    def usual(self) -> ModelUse:
        """Return the model and classes of a source that has no table of its own."""
        scores = tuple(sorted(self.min_scores.items()))
        return ModelUse(self.detector, self.classes, self.min_score, scores)


class DeclaredDetect(Stage[S]):
    """The part of the stage detect that a configuration reads."""

    Options: ClassVar[type] = DetectOptions
    pixels = 1
    takes_undecoded = True
    uses_models = True
    options: DetectOptions


def wanted(usual: ModelUse, options: ModelOptions, source: str, chosen: str = "") -> ModelUse:
    """Return the model, classes and scores of a source: from its table, else as in `usual`.

    chosen  model that replaces the configured one during the run; "": none

    The configured classes and scores apply to a chosen model as well, so it must know the classes.
    """
    table: Mapping[str, Any] = options.sources.get(source, {})
    classes = table.get("classes", usual.classes)
    if isinstance(classes, list):
        classes = tuple(classes)
    min_scores = usual.min_scores
    if "min_scores" in table:
        min_scores = tuple(sorted(table["min_scores"].items()))
    return ModelUse(
        model=chosen or table.get("model", usual.model),
        classes=classes,
        min_score=table.get("min_score", usual.min_score),
        min_scores=min_scores,
    )


def configured(usual: ModelUse, options: ModelOptions) -> list[ModelUse]:
    """Return each model use of the configuration once, the usual one first."""
    uses = [wanted(usual, options, source) for source in options.sources]
    return list(dict.fromkeys([usual, *uses]))
