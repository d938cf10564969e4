"""Options of detect, with the tables that it owns."""

from __future__ import annotations

from dataclasses import dataclass, field

from framegate.stages.detect.cache_options import CacheOptions
from framegate.stages.detect.gate_options import GateOptions
from framegate.stages.detect.model_options import (
    ModelOptions,
    Wanted,
    classes_fault,
    model_fault,
    scores_fault,
)
from framegate.stages.detect.window_view import WindowOptions


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector    light, heavy (about ten times the time), or another model: MODEL_RULE
    classes     labels to look for; none: all that the model knows
    min_score   0..1, least score of an object; none: the frozen one of the model
    min_scores  class -> 0..1, least score of its objects, where it is another
    gate        the table [gate]
    window      the table [window]; its head is for the light detector
    cache       the table [cache]
    models      the table [models]
    """

    detector: str = field(default="light", metadata={"check": model_fault})
    classes: tuple[str, ...] | None = None
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    min_scores: dict[str, float] = field(default_factory=dict, metadata={"check": scores_fault})
    gate: GateOptions = field(default_factory=GateOptions, metadata={"table": True})
    window: WindowOptions = field(default_factory=WindowOptions, metadata={"table": True})
    cache: CacheOptions = field(default_factory=CacheOptions, metadata={"table": True})
    models: ModelOptions = field(default_factory=ModelOptions, metadata={"table": True})

    def faults(self) -> list[str]:
        """What is wrong with the values together."""
        fault = None if self.classes is None else classes_fault(self.detector, self.classes)
        return [f"classes = {list(self.classes or ())}: {fault}"] if fault else []

    def usual(self) -> Wanted:
        """What is wanted of a source of which nothing else is said."""
        scores = tuple(sorted(self.min_scores.items()))
        return Wanted(self.detector, self.classes, self.min_score, scores)
