"""Models that serve detect's sources: opened, warmed up, chosen by source, closed."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from framegate.models import coco
from framegate.models.detector import detector, policy, precision_trial
from framegate.models.detector.answer_cache import AnswerMemory, Recall, RecentAnswers
from framegate.models.detector.detector import Detector
from framegate.models.detector.devices import described
from framegate.models.detector.network import CPU, nearest
from framegate.models.detector.policy import Policy
from framegate.models.detector.precision_trial import Choice, Tried
from framegate.models.errors import UnknownClass
from framegate.models.picture import Picture
from framegate.models.registry.open import labels_of, open_model, policy_of, tried_of
from framegate.models.tracking import thresholds
from framegate.pipeline.contracts.errors import ModelTooSlow
from framegate.pipeline.contracts.queries import CacheCounts
from framegate.pipeline.contracts.stage import Context
from framegate.stages.detect.estimate import EstimateSettings, settings_for
from framegate.stages.detect.options import (
    GateOptions,
    ModelOptions,
    ModelUse,
    configured,
    is_own,
    side_of,
    wanted,
)
from framegate.stages.detect.run_models import pinned_choice, pinned_model

log = logging.getLogger(__name__)


class ServedModel:
    """One model, for all sources that want it alike.

    detector  compiled; its threshold is that of evidence, not of what is shown
    settings  everything that decides beside it
    models    what makes an answer, as results name it
    identity  names all of it: what was remembered under another one is of no use
    labels    digest of its labels: tracks go on from a model with the same ones

    Thread rule: one thread at a time.
    """

    def __init__(self, using: Detector, settings: EstimateSettings) -> None:
        self.detector = using
        self.settings = settings
        self.models = using.models
        facts = using.policy_id, *(member.facts for member in using.members)
        self.identity: str = _digest(facts)
        self.labels: str = _digest(using.labels)
        self._remembered: dict[str, Recall] = {}

    def run_once(self, width: int, height: int) -> None:
        """Run once at the size of such pictures. Raises WarmUpFailed."""
        self.detector.run_once(width, height)

    def warm_up(self, width: int, height: int) -> None:
        """Run once at the size of such pictures, and expect them: see Detector.warm_up.

        Raises WarmUpFailed.
        """
        self.detector.warm_up(width, height, self.settings.plan.crops)

    def expect(self, width: int, height: int) -> None:
        """Begin to compile, on a thread, for such pictures."""
        self.detector.expect(width, height)

    def recall(self, source: str, memory: AnswerMemory) -> Recall:
        """Return the look-up of a source's inputs in `memory`."""
        if source not in self._remembered:
            self._remembered[source] = Recall(memory)
        return self._remembered[source]

    @property
    def remembered(self) -> list[Recall]:
        """Return the look-up of each source."""
        return list(self._remembered.values())


@dataclass(frozen=True, slots=True)
class ModelOpener:
    """Opens models for detect. `open` may run on any thread, one at a time.

    device   that is to compute the network, as devices.RULE has it
    """

    gate: GateOptions
    models: ModelOptions
    context: Context
    device: str = CPU

    def open(self, wanted: ModelUse) -> ServedModel:
        """Return the model, compiled, not warmed up.

        Raises UnknownModel, AmbiguousModel, ModelUnreadable, ManifestRefused, UnknownClass,
        DeviceMissing, DeviceRefused.
        """
        if is_own(wanted.model):
            return self._own(wanted)
        folder = pinned_model(wanted.model, self.context.folder, self.models.registry)
        manifest = folder.manifest
        choice = self._choice(wanted.model, tried_of(folder, self.device))
        choices, labels = policy_of(manifest), labels_of(manifest)
        whole = self._settings(wanted, choices, labels, True, manifest.min_scores)
        using = open_model(
            folder,
            choice.precision,
            choice.threads,
            classes=wanted.labels,
            min_score=whole.calm.candidate,
            cache_dir=self.context.folder / "compiled",
            device=choice.device,
        )
        takes_parts = using.members[0].network.size is None
        settings = self._settings(wanted, choices, labels, not takes_parts, manifest.min_scores)
        return ServedModel(using, settings)

    def _own(self, wanted: ModelUse) -> ServedModel:
        choices = _own_policy(wanted.model)
        # Several networks keep to the CPU, and to their policy's precision: of these one is tried.
        is_one = len(choices.parts) == 1
        choice = self._choice(wanted.model, precision_trial.light(self.device if is_one else CPU))
        settings = self._settings(wanted, choices, coco.LABELS, not is_one, {})
        using = detector.build(
            choices.with_min_score(settings.calm.candidate),
            choice.precision if is_one else nearest(choices.precision),
            choice.threads,
            coco.class_ids(wanted.labels),
            device=choice.device,
        )
        return ServedModel(using, settings)

    def _choice(self, model: str, tried: Tried) -> Choice:
        """Return what was measured, and say so where a device was asked for."""
        choice = pinned_choice(self.context.folder, self.context.user_cache, tried)
        if tried.device != CPU:
            note = f" ({choice.note})" if choice.note else ""
            log.info(
                "%s: computed on %s (%s) in %s, %.1f ms a picture%s",
                model,
                choice.device,
                described(choice.device),
                choice.precision,
                choice.ms,
                note,
            )
        return choice

    def _settings(
        self,
        wanted: ModelUse,
        choices: Policy,
        labels: Sequence[str],
        whole: bool,
        tuned: Mapping[str, float],
    ) -> EstimateSettings:
        """Return thresholds: one for all classes, or for each its own above the lowest of all.

        tuned: least scores of single looks that the model brings along, by class; what a user says
        of all classes, or of one, wins
        """
        usual = settings_for(self.gate, choices, wanted.min_score, whole)
        scores = dict(wanted.min_scores)
        if unknown := tuple(name for name in scores if name not in labels):
            raise UnknownClass(unknown, wanted.model, labels)
        if wanted.min_score is None:
            scores = {name: thresholds.mean_for(score) for name, score in tuned.items()} | scores
        if not scores:
            return usual
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


# -- Which model looks at which source; models that come or went are warm beside those in use.


KEPT_S: Final = 600.0  # for which a model that nobody wants stays warm, so that a way back is short
MOST_UNWANTED: Final = 2  # models; each as open as its sources ask for
MOST_SIZES: Final = 8
_LEAST_RUNS: Final = 5  # of a new model before it is refused as too slow
_TRIAL_S: Final = 5.0  # for which a new model may try again after those runs
_USUAL_SIZE: Final = (640, 360)


class ModelPool:
    """The models of detect's sources.

    past     what came of the look-ups of models that were let go
    answers  of networks, shared by all models and sources of this worker

    Thread rule: `prepare` on any thread, all else on the stage's.
    """

    def __init__(
        self, opener: ModelOpener, usual: ModelUse, options: ModelOptions, context: Context
    ) -> None:
        """usual: what is wanted of a source of which nothing else is said."""
        self._opener, self._usual, self._options, self._context = opener, usual, options, context
        self._open: dict[ModelUse, ServedModel] = {}
        self._by: dict[str, ModelUse] = {}
        self._last: dict[str, tuple[str, ServedModel]] = {}  # what `of` gave, and for what choice
        self._seen_s: dict[ModelUse, float] = {}
        self._refused: dict[ModelUse, Exception] = {}
        self._configured = configured(usual, options)
        self._sizes: tuple[tuple[int, int], ...] = ()
        self.past = CacheCounts()
        self.answers = RecentAnswers()
        self._changing = threading.Lock()  # never while a model is opened: frames would wait
        self._opening = threading.Lock()

    def open_configured(self) -> None:
        """Open and warm up all models that the configuration names, before the first frame."""
        for want in self._configured:
            self._ready(want)

    def of(self, source: str) -> ServedModel:
        """Return the model of a source from now on; one that nobody prepared is opened, once."""
        chosen = self._context.model(source)
        known = self._last.get(source)
        if known is not None and known[0] == chosen and len(self._open) <= len(self._configured):
            return known[1]  # of each frame: nobody is to be let go, and nothing else is wanted
        want = self._wanted(source, chosen)
        if self._by.get(source) != want or want not in self._open:
            if want in self._refused:
                raise self._refused[want]
            try:
                self._ready(want)
            except Exception as error:  # each frame would open it again
                self._refused[want] = error
                raise
            self._by[source] = want
        self._let_go()
        self._last[source] = chosen, self._open[want]
        return self._open[want]

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open and warm up what `of` would give for these sources with this model.

        is_new: see that it is fast enough, too. Raises ModelTooSlow, and as ModelOpener.open and
        Detector.warm_up.
        """
        for want in dict.fromkeys(self._wanted(source, model) for source in sources):
            self._refused.pop(want, None)
            self._ready(want, self._options.most_ms if is_new else math.inf)

    def saw(self, width: int, height: int) -> None:
        """Note that a source has pictures of this size: models are warmed up for it from now on,
        and those that are open are compiled for it beside the frames.
        """
        if (width, height) not in self._sizes:
            self._sizes = (*self._sizes, (width, height))[-MOST_SIZES:]
            for served in list(self._open.values()):
                served.expect(width, height)

    def forget(self, source: str) -> None:
        """Forget which model the source has: it ended, or another worker serves it."""
        self._by.pop(source, None)
        self._last.pop(source, None)

    def close(self) -> None:
        """Compile nothing more."""
        for served in list(self._open.values()):
            served.detector.close()

    def remembered(self) -> list[Recall]:
        """Return what all of them remember."""
        return [each for served in list(self._open.values()) for each in served.remembered]

    def _wanted(self, source: str, model: str) -> ModelUse:
        return wanted(self._usual, self._options, source, model)

    def _ready(self, want: ModelUse, most_ms: float = math.inf) -> None:
        """Open a model, unless it is open, and keep it for a while even if no source has it yet."""
        with self._opening:
            served = self._open.get(want)
            if served is None:
                served = self._opener.open(want)
                # Before the first picture the sizes of its parts are not known: compiled for the
                # usual ones, the network would cost a second and 60 MB that another size wastes.
                if not self._sizes:
                    served.run_once(*_USUAL_SIZE)
                for width, height in self._sizes:
                    served.warm_up(width, height)
                if most_ms < math.inf:
                    _check(want.model, served, most_ms, self._sizes or (_USUAL_SIZE,))
            with self._changing:
                self._open[want] = served
                self._seen_s[want] = time.monotonic()

    def _let_go(self) -> None:
        """Close models that no source had for long, and of the others all but the newest few."""
        if len(self._open) <= len(self._configured):  # on every batch: what is configured stays
            return
        now, in_use = time.monotonic(), {*self._by.values(), *self._configured}
        with self._changing:
            for want in in_use:
                self._seen_s[want] = now
            idle = sorted(self._open.keys() - in_use, key=lambda want: -self._seen_s[want])
            kept = list(dict.fromkeys(want.model for want in idle))[:MOST_UNWANTED]
            for want in idle:
                if want.model not in kept or now - self._seen_s[want] >= KEPT_S:
                    del self._seen_s[want]
                    add_up(gone := CacheCounts(), self._open.pop(want).remembered)
                    self.past = self.past.plus(gone)


def _check(
    model: str, served: ServedModel, most_ms: float, sizes: Sequence[tuple[int, int]]
) -> None:
    """Run the model on noise: one that fails or is too slow fails here, not on a source's frame."""
    width, height = sizes[-1]
    noise = np.random.default_rng(0)
    half = ((height + 1) // 2, (width + 1) // 2)
    planes = [noise.integers(0, 256, size, np.uint8) for size in ((height, width), half, half)]
    picture = Picture(planes[0], planes[1], planes[2], "bt709", full_range=True)
    taken_ms = fastest_ms(lambda: served.detector.detect([picture]), most_ms)
    if taken_ms > most_ms:
        raise ModelTooSlow(model, taken_ms, most_ms)


def fastest_ms(
    look: Callable[[], object], enough_ms: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the milliseconds of the fastest of several looks, or of the first that takes at most
    `enough_ms`.

    Other work on the machine can only lengthen a look, so the fastest one is closest to what the
    model itself takes. A mean or a median would refuse a fast model on a busy machine.
    """
    end = clock() + _TRIAL_S
    fastest, runs = math.inf, 0
    while fastest > enough_ms and (runs < _LEAST_RUNS or clock() < end):
        began = clock()
        look()
        fastest = min(fastest, 1000 * (clock() - began))
        runs += 1
    return fastest


_NOTHING: Final = CacheCounts()


def add_up(counts: CacheCounts, recalls: Sequence[Recall], past: CacheCounts = _NOTHING) -> None:
    """Bring `counts` up to date with all look-ups; past: those of models let go."""
    each = [recall.counts for recall in recalls]
    counts.hits = past.hits + sum(one.hits for one in each)
    counts.misses = past.misses + sum(one.misses for one in each)
    counts.refused = past.refused + sum(one.refused for one in each)
    counts.skipped = past.skipped + sum(one.skipped for one in each)
    counts.sources = len(recalls)
    counts.off = sum(not recall.worth.on for recall in recalls)
