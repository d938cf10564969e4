"""The tables of pipeline.toml that detect owns: gate, cache, models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from framegate.models import coco
from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name

Mode = Literal["off", "frames", "crops"]


def masks_fault(masks: Any) -> str | None:
    """Return what is wrong with `[gate.masks]`, None if nothing is."""
    for source, polygons in masks.items():
        if not is_name(source):
            return f"{source!r} cannot name a source; a name is {NAME_RULE}"
        if not isinstance(polygons, list | tuple) or not all(map(_is_polygon, polygons)):
            return (
                f"{source}: allowed is a list of polygons, each of three or more points [x, y] in "
                "pixels of the source, as [[[0, 0], [640, 0], [640, 48], [0, 48]]]"
            )
    return None


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list | tuple)
        and len(points) >= 3
        and all(isinstance(p, list | tuple) and len(p) == 2 for p in points)
        and all(
            isinstance(edge, int | float) and not isinstance(edge, bool) and abs(edge) < 1e6
            for point in points
            for edge in point
        )
    )


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
    still_age_s   upper limit of that time for an object that stands still. Framegate waits as long
                  as the object has been there, up to this limit
    frame_age_s   seconds of media time after which the network looks at the whole frame again
    wait_frames   frames for which a change can wait where known objects move
    wait_s        seconds of media time for which a change can wait where known objects move.
                  Elsewhere a change beside the last change waits at most 0.1 s, and other changes
                  do not wait
    least         lowest threshold that is learned, in grey levels. If least and most are 0, the
                  gate works as with mode off
    most          highest threshold that is learned, in grey levels. A greater change is looked at
                  within two frames
    masks         source -> polygons in pixels of its picture. Changes inside them are ignored, for
                  example a clock
    view          add the view of the gate to each result, for drawing (`--draw gate`)
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


# -- `[cache]` of pipeline.toml: what detect remembers of the network's answers.


@dataclass(frozen=True)
class CacheOptions:
    """The table `[cache]`.

    exact   answer an input that the network has had before from memory, with the same bits
    """

    exact: bool = True


# -- `[models]` of pipeline.toml: which model looks at which source, and for what.


OWN: Final = ("light", "heavy")
MODEL_RULE: Final = (
    "light, heavy, nanodet-SIDE (the light network at another size, a multiple of 32 from 96 to "
    "1280) or a model of the registry: NAME, NAME@VERSION or NAME@DIGEST"
)
_SIDE = re.compile(r"nanodet-([1-9][0-9]{1,3})")
_REF = re.compile(r"[a-z][a-z0-9_-]{0,31}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,63})?")
_KEYS: Final = ("model", "classes", "min_score", "min_scores")

Scores = tuple[tuple[str, float], ...]
Classes = tuple[str, ...] | Literal["all"] | None
SCORES_SCHEMA: Final = {
    "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
}


def model_fault(model: Any) -> str | None:
    """Return what is wrong with the name of a model, None if nothing is."""
    if not isinstance(model, str) or not _REF.fullmatch(model):
        return f"allowed is {MODEL_RULE}"
    side = _SIDE.fullmatch(model)
    if side and (int(side[1]) % 32 or not 96 <= int(side[1]) <= 1280):
        return f"allowed is {MODEL_RULE}"
    return None


def side_of(model: str) -> int | None:
    """Longer side of the light network where a name asks for one."""
    side = _SIDE.fullmatch(model)
    return int(side[1]) if side else None


def is_own(model: str) -> bool:
    """Return whether it is one that this program brings along: their classes are COCO's."""
    return model in OWN or side_of(model) is not None


def labels_wanted(model: str, classes: Classes) -> tuple[str, ...] | None:
    """Return the labels that a model is to look for; None: all that it knows."""
    if classes == "all":
        return None
    return coco.CAMERA if classes is None and is_own(model) else classes


def scores_fault(scores: Any) -> str | None:
    """Return what is wrong with a table of least scores by class, None if nothing is."""
    if not isinstance(scores, dict):
        return "must be a table of class = score"
    wrong = [name for name, score in scores.items() if not _is_score(score)]
    return f"{', '.join(wrong)}: allowed is a number between 0 and 1" if wrong else None


def _is_score(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0 < score < 1


def classes_fault(model: str, classes: Any) -> str | None:
    """Return what is wrong with classes for a model whose classes are known without opening it."""
    if classes == "all":
        return None
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        return "allowed is a list of texts, or 'all'"
    if not classes:
        return "it names none; allowed are labels of the model"
    unknown = [name for name in classes if is_own(model) and name not in coco.LABELS]
    if unknown:
        first = ", ".join(coco.LABELS[:12])
        near = did_you_mean(unknown[0], coco.LABELS)
        return f"{', '.join(unknown)} is not known; allowed are {first}, ... (80 in all){near}"
    return None


def sources_fault(sources: Any) -> str | None:
    """Return what is wrong with `[models.sources]`, None if nothing is."""
    for source, said in sources.items():
        if not isinstance(said, dict):
            return f"{source}: must be a table with any of {', '.join(_KEYS)}"
        if unknown := [key for key in said if key not in _KEYS]:
            near = did_you_mean(unknown[0], _KEYS)
            return f"{source}.{unknown[0]}: unknown key; allowed are {', '.join(_KEYS)}{near}"
        faults = {
            "model": model_fault(said.get("model", "light")),
            "classes": classes_fault(said.get("model", ""), said["classes"])
            if "classes" in said
            else None,
            "min_score": None
            if _is_score(said.get("min_score", 0.5))
            else "allowed is a number between 0 and 1",
            "min_scores": scores_fault(said.get("min_scores", {})),
        }
        if wrong := next(((key, fault) for key, fault in faults.items() if fault), None):
            return f"{source}.{wrong[0]} = {said[wrong[0]]!r}: {wrong[1]}"
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
        """The labels to look for; None: all that the model knows."""
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


def wanted(usual: ModelUse, options: ModelOptions, source: str, chosen: str = "") -> ModelUse:
    """Return what is wanted of a source: what its table says, else what is usual.

    chosen  the model that was chosen for it while the run went on; empty: none was

    Classes and scores are said for a model; another one, chosen later, has to know the classes.
    """
    said: Mapping[str, Any] = options.sources.get(source, {})
    classes, scores = said.get("classes", usual.classes), said.get("min_scores")
    return ModelUse(
        model=chosen or said.get("model", usual.model),
        classes=tuple(classes) if isinstance(classes, list) else classes,
        min_score=said.get("min_score", usual.min_score),
        min_scores=usual.min_scores if scores is None else tuple(sorted(scores.items())),
    )


def configured(usual: ModelUse, options: ModelOptions) -> list[ModelUse]:
    """Return all that the configuration wants, each once."""
    return list(dict.fromkeys([usual, *(wanted(usual, options, name) for name in options.sources)]))
