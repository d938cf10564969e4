"""A model as detect serves it: the detector, its thresholds, and what is remembered of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from framegate.models import coco
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import nearest
from framegate.models.detector.policy import Policy
from framegate.models.detector.recall import Recall
from framegate.models.errors import UnknownClass
from framegate.models.registry.open import labels_of, open_model, policy_of, tried_of
from framegate.models.window.head import WindowHead
from framegate.pipeline.stage import Context, MemoLimits, MemoPort
from framegate.stages.detect.belief import BeliefSettings
from framegate.stages.detect.cache_options import CacheOptions
from framegate.stages.detect.gate_options import GateOptions
from framegate.stages.detect.looking import settings_for
from framegate.stages.detect.model_options import OWN, ModelOptions, Wanted, side_of
from framegate.stages.detect.pinned import pinned_choice, pinned_model
from framegate.stages.detect.window_view import CANDIDATE

Memos = Callable[[str, MemoLimits], MemoPort]


class Serving:
    """One model, for all sources that want it alike.

    detector  compiled; its threshold is that of evidence, not of what is shown
    settings  everything that decides beside it
    models    what makes an answer, as results name it
    identity  names all of it: what was remembered under another one is of no use
    labels    digest of its labels: tracks go on from a model with the same ones

    Thread rule: one thread at a time.
    """

    def __init__(self, using: Detector, settings: BeliefSettings, head: WindowHead | None) -> None:
        self.detector, self.settings, self.head = using, settings, head
        self.models = (*using.models, *((head.name,) if head else ()))
        self.identity = _digest((using.policy_id, *(member.facts for member in using.members)))
        self.labels = _digest(using.labels)
        self._remembered: dict[str, Recall] = {}

    def warm_up(self, width: int, height: int) -> None:
        """Before it serves: the first sight of an input's size costs some four times more.

        Raises WarmUpFailed.
        """
        self.detector.warm_up(width, height, self.settings.attention.crops)

    def recall(self, source: str, options: CacheOptions, memos: Memos) -> Recall | None:
        """What is remembered of a source's group; None where nothing is to be."""
        if not options.exact:
            return None
        group = options.groups.get(source, source)
        if group not in self._remembered:
            memo = memos(group, MemoLimits(options.ttl_s, options.bytes))
            self._remembered[group] = Recall(memo)
        return self._remembered[group]

    @property
    def remembered(self) -> list[Recall]:
        """Of all groups that were asked for."""
        return list(self._remembered.values())


@dataclass(frozen=True, slots=True)
class Server:
    """Opens models for detect. `open` may run on any thread, one at a time.

    head     judges the boxes of the model `light`; None: nobody does
    threads  of one inference; None: as measured
    """

    gate: GateOptions
    models: ModelOptions
    context: Context
    head: WindowHead | None = None
    threads: int | None = None

    def open(self, wanted: Wanted) -> Serving:
        """The model, compiled, not warmed up.

        Raises UnknownModel, AmbiguousModel, ModelUnreadable, ManifestRefused, UnknownClass.
        """
        if wanted.model in OWN or side_of(wanted.model) is not None:
            return self._own(wanted)
        folder = pinned_model(wanted.model, self.context.folder, self.models.registry)
        manifest = folder.manifest
        choice = pinned_choice(self.context.folder, tried_of(folder))
        choices, labels = policy_of(manifest), labels_of(manifest)
        settings = self._settings(wanted, choices, labels, whole=True)
        using = open_model(
            folder,
            choice.precision,
            self.threads or choice.threads,
            classes=wanted.classes,
            min_score=settings.calm.candidate,
            cache_dir=self.context.folder / "compiled",
        )
        return Serving(using, settings, None)

    def _own(self, wanted: Wanted) -> Serving:
        choice = pinned_choice(self.context.folder)
        choices = _own_policy(wanted.model)
        head = self.head if wanted.model == "light" else None
        settings = self._settings(wanted, choices, coco.LABELS, whole=len(choices.parts) > 1)
        precision = choice.precision if len(choices.parts) == 1 else None
        using = detector.build(
            choices.with_min_score(CANDIDATE if head else settings.calm.candidate),
            precision or nearest(choices.precision),
            self.threads or choice.threads,
            coco.class_ids(wanted.classes),
            features=head is not None,
        )
        return Serving(using, settings, head)

    def _settings(
        self, wanted: Wanted, choices: Policy, labels: Sequence[str], whole: bool
    ) -> BeliefSettings:
        """Thresholds: one for all classes, or for each its own above the lowest of all."""
        usual = settings_for(self.gate, choices, wanted.min_score, whole)
        if not wanted.min_scores:
            return usual
        scores = dict(wanted.min_scores)
        if unknown := tuple(name for name in scores if name not in labels):
            raise UnknownClass(unknown, wanted.model, labels)
        lowest = min(usual.calm.shown, *scores.values())
        is_lower = lowest < usual.calm.shown
        low = settings_for(self.gate, choices, lowest, whole) if is_lower else usual
        own = tuple((i, scores.get(name, usual.calm.shown)) for i, name in enumerate(labels))
        return replace(low, calm=replace(low.calm, own=own))


def _own_policy(model: str) -> Policy:
    """Raises UnknownDetector."""
    side = side_of(model)
    if side is None:
        return policy.load(model)
    return replace(policy.load("light"), members=(f"nanodet-{side}",))


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
