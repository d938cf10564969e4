"""`[models]` of pipeline.toml: which model looks at which source, and for what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from framegate.models import coco

OWN: Final = ("light", "heavy")
MODEL_RULE: Final = (
    "light, heavy, nanodet-SIDE (the light network at another size, a multiple of 32 from 96 to "
    "1280) or a model of the registry: NAME, NAME@VERSION or NAME@DIGEST"
)
_SIDE = re.compile(r"nanodet-([1-9][0-9]{1,3})")
_REF = re.compile(r"[a-z][a-z0-9_-]{0,31}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,63})?")
_KEYS: Final = ("model", "classes", "min_score", "min_scores")

Scores = tuple[tuple[str, float], ...]


def model_fault(model: Any) -> str | None:
    """What is wrong with the name of a model, None if nothing is."""
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
    """Whether it is one that this program brings along: their classes are COCO's."""
    return model in OWN or side_of(model) is not None


def scores_fault(scores: Any) -> str | None:
    """What is wrong with a table of least scores by class, None if nothing is."""
    if not isinstance(scores, dict):
        return "must be a table of class = score"
    wrong = [name for name, score in scores.items() if not _is_score(score)]
    return f"{', '.join(wrong)}: allowed is a number between 0 and 1" if wrong else None


def _is_score(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and 0 < score < 1


def classes_fault(model: str, classes: Any) -> str | None:
    """What is wrong with classes for a model whose classes are known without opening it."""
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        return "allowed is a list of texts"
    if not classes:
        return "it names none; allowed are labels of the model"
    unknown = [name for name in classes if is_own(model) and name not in coco.LABELS]
    if unknown:
        first = ", ".join(coco.LABELS[:12])
        return f"{', '.join(unknown)} is not known; allowed are {first}, ... (80 in all)"
    return None


def sources_fault(sources: Any) -> str | None:
    """What is wrong with `[models.sources]`, None if nothing is."""
    for source, said in sources.items():
        if not isinstance(said, dict):
            return f"{source}: must be a table with any of {', '.join(_KEYS)}"
        if unknown := [key for key in said if key not in _KEYS]:
            return f"{source}.{unknown[0]}: unknown key; allowed are {', '.join(_KEYS)}"
        faults = {
            "model": model_fault(said.get("model", "light")),
            "classes": classes_fault(said.get("model", ""), said.get("classes", ["any"])),
            "min_score": None
            if _is_score(said.get("min_score", 0.5))
            else "allowed is a number between 0 and 1",
            "min_scores": scores_fault(said.get("min_scores", {})),
        }
        if wrong := next(((key, fault) for key, fault in faults.items() if fault), None):
            return f"{source}.{wrong[0]} = {said[wrong[0]]!r}: {wrong[1]}"
    return None


@dataclass(frozen=True)
class ModelOptions:
    """The table `[models]`.

    registry  folder of the models that were added; none: that of `framegate models`
    most_ms   milliseconds that a new model may take for a picture on this machine
    sources   source -> model, classes, min_score, min_scores, where they are not detect's
    """

    registry: str | None = None
    most_ms: float = field(default=250.0, metadata={"least": 1.0, "most": 60000.0})
    sources: dict[str, Any] = field(default_factory=dict, metadata={"check": sources_fault})


@dataclass(frozen=True)
class Wanted:
    """What a source is looked at with, and for.

    model       as MODEL_RULE says
    classes     labels to look for; None: all
    min_score   0..1, least score; None: the model's own
    min_scores  of single classes
    """

    model: Literal["light", "heavy"] | str = "light"
    classes: tuple[str, ...] | None = None
    min_score: float | None = None
    min_scores: Scores = ()


def wanted(usual: Wanted, options: ModelOptions, source: str, chosen: str = "") -> Wanted:
    """What is wanted of a source: what its table says, else what is usual.

    chosen  the model that was chosen for it while the run went on; empty: none was

    Classes and scores are said for a model; another one, chosen later, has to know the classes.
    """
    said: Mapping[str, Any] = options.sources.get(source, {})
    classes, scores = said.get("classes", usual.classes), said.get("min_scores")
    return Wanted(
        model=chosen or said.get("model", usual.model),
        classes=None if classes is None else tuple(classes),
        min_score=said.get("min_score", usual.min_score),
        min_scores=usual.min_scores if scores is None else tuple(sorted(scores.items())),
    )


def configured(usual: Wanted, options: ModelOptions) -> list[Wanted]:
    """All that the configuration wants, each once."""
    return list(dict.fromkeys([usual, *(wanted(usual, options, name) for name in options.sources)]))
