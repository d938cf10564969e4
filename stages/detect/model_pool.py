"""The models of detect's sources: opened, warmed up, chosen by source, closed."""

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
from framegate.models.detector.device_names import CPU
from framegate.models.detector.devices import described
from framegate.models.detector.network import compiled_here, nearest
from framegate.models.detector.policy import Policy
from framegate.models.detector.precision_trial import Choice, Tried
from framegate.models.detector.shipped_networks import NETWORKS
from framegate.models.errors import UnknownClass
from framegate.models.picture import Picture
from framegate.models.registry.open import labels_of, open_model, policy_of, tried_of
from framegate.models.tracking import score_thresholds
from framegate.models.tracking.calm import CalmSettings, sure_score
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
    wanted,
)
from framegate.stages.detect.pinned_models import pinned_model
from framegate.stages.detect.prepared_models import pinned_choice

log = logging.getLogger(__name__)


class ServedModel:
    """An open model, shared by all sources with the same ModelUse.

    detector  compiled; its threshold is `settings.calm.candidate`, below that of shown objects
    settings  settings of the plan, the tracks and the scores
    models    names of the networks for results
    identity  digest of all that decides its boxes; the memory of another identity is useless
    labels    digest of its labels; tracks continue between models with the same labels
    sure      for each label, the score from which a first look publishes an object; see sure_score

    Thread rule: one thread at a time.
    """

    def __init__(self, using: Detector, settings: EstimateSettings) -> None:
        self.detector = using
        self.settings = settings
        self.models = using.models
        facts = using.policy_id, *(member.facts for member in using.members)
        self.identity: str = _digest(facts)
        self.labels: str = _digest(using.labels)
        self.sure: Mapping[str, float] = {
            label: sure_score(class_id, settings.calm)
            for class_id, label in enumerate(using.labels)
        }
        self._recalls: dict[str, Recall] = {}

    def run_once(self, width: int, height: int) -> None:
        """Run once for a picture of this size in pixels. Raises WarmUpFailed."""
        self.detector.run_once(width, height)

    def warm_up(self, width: int, height: int) -> None:
        """Prepare for pictures of this size in pixels: see Detector.warm_up.

        Raises WarmUpFailed.
        """
        self.detector.warm_up(width, height, self.settings.plan.crops)

    def expect(self, width: int, height: int) -> None:
        """Start to compile for pictures of this size in pixels, on a thread."""
        self.detector.expect(width, height)

    def recall(self, source: str, memory: AnswerMemory) -> Recall:
        """Return the lookup of a source's network inputs in `memory`."""
        if source not in self._recalls:
            self._recalls[source] = Recall(memory)
        return self._recalls[source]

    @property
    def recalls(self) -> list[Recall]:
        """Return the lookups of all sources."""
        return list(self._recalls.values())


@dataclass(frozen=True, slots=True)
class ModelOpener:
    """The opener of detect's models.

    device  device for the network; see device_names.RULE

    Thread rule: `open` may run on any thread, one at a time.
    """

    gate: GateOptions
    models: ModelOptions
    context: Context
    device: str = CPU

    def open(self, wanted: ModelUse) -> ServedModel:
        """Return the model compiled, but not warmed up.

        Raises UnknownModel, AmbiguousModel, ModelUnreadable, ManifestRefused, UnknownClass,
        DeviceMissing, DeviceRefused.
        """
        if is_own(wanted.model):
            return self._own(wanted)
        folder = pinned_model(wanted.model, self.context.folder, self.models.registry)
        manifest = folder.manifest
        choice = self._choice(wanted.model, tried_of(folder, self.device))
        choices, labels = policy_of(manifest), labels_of(manifest)
        # Only the open model shows whether it takes parts; the threshold does not depend on that.
        whole = self._settings(wanted, choices, labels, True, manifest.min_scores)
        using = open_model(
            folder,
            choice.precision,
            choice.threads,
            classes=wanted.labels,
            min_score=whole.calm.candidate,
            cache_dir=compiled_here(self.context.user_cache),
            device=choice.device,
        )
        is_whole = not using.takes_parts
        settings = self._settings(wanted, choices, labels, is_whole, manifest.min_scores)
        return ServedModel(using, settings)

    def _own(self, wanted: ModelUse) -> ServedModel:
        choices = policy.load(wanted.model)
        network = choices.parts[0][0]
        is_ensemble = len(choices.parts) > 1
        is_whole = is_ensemble or NETWORKS[network].size is not None
        device = self.device
        if is_ensemble:
            device = CPU
        choice = self._choice(wanted.model, precision_trial.of_shipped(network, device))
        precision = choice.precision
        # An ensemble runs on the CPU with the precision of its policy; only its threads are chosen.
        if is_ensemble:
            precision = nearest(choices.precision)
        settings = self._settings(wanted, choices, coco.LABELS, is_whole, {})
        using = detector.build(
            choices.with_min_score(settings.calm.candidate),
            precision,
            choice.threads,
            detector.class_ids_of(choices, wanted.labels),
            cache_dir=compiled_here(self.context.user_cache),
            device=choice.device,
        )
        return ServedModel(using, settings)

    def _choice(self, model: str, tried: Tried) -> Choice:
        """Return the measured precision and threads; log them if a device is configured."""
        choice = pinned_choice(self.context.folder, self.context.user_cache, tried)
        if tried.device != CPU:
            note = ""
            if choice.note:
                note = f" ({choice.note})"
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
        """Return the settings, with one threshold for all classes or one for each class.

        tuned  class -> lowest score of single looks, from the model's manifest; the user's scores,
               for all classes or for one, take precedence
        """
        usual = settings_for(self.gate, choices, wanted.min_score, whole)
        scores = dict(wanted.min_scores)
        if unknown := tuple(name for name in scores if name not in labels):
            raise UnknownClass(unknown, wanted.model, labels)
        if wanted.min_score is None:
            means = {name: score_thresholds.mean_for(score) for name, score in tuned.items()}
            scores = means | scores
        if not scores:
            return usual
        settings = usual
        lowest = min(scores.values())
        if lowest < usual.calm.shown:
            settings = settings_for(self.gate, choices, lowest, whole)
        own = tuple(
            (i, *_thresholds(name, scores, wanted, usual.calm)) for i, name in enumerate(labels)
        )
        return replace(settings, calm=replace(settings.calm, own=own))


def _thresholds(
    label: str, scores: Mapping[str, float], wanted: ModelUse, usual: CalmSettings
) -> tuple[float, float]:
    """Return both thresholds of a class. No mean may be below a score that the user states."""
    if label not in scores:
        return usual.shown, usual.kept
    shown = scores[label]
    if label in dict(wanted.min_scores):
        return shown, shown
    return shown, score_thresholds.kept_for(shown)


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


# -- The choice of a model by source. Unused models stay warm for a while.


KEPT_S: Final = 600.0  # an unused model stays warm this long, so that a switch back is quick
MAX_UNUSED: Final = 2  # unused models that stay warm
MAX_SIZES: Final = 8  # picture sizes for which a new model is warmed up
_MIN_RUNS: Final = 5  # of a new model before it is refused as too slow
_TRIAL_S: Final = 5.0  # time for further runs of a model that was too slow so far
_USUAL_SIZE: Final = (640, 360)


class ModelPool:
    """The open models of a worker, and the model of each of its sources.

    past     counts of the lookups of closed models
    answers  recent network answers, shared by all models and sources of the worker

    Thread rule: `prepare` on any thread, all other methods on the thread of the stage.
    """

    def __init__(
        self, opener: ModelOpener, usual: ModelUse, options: ModelOptions, context: Context
    ) -> None:
        """usual: the model use of a source without a table of its own."""
        self._opener = opener
        self._usual = usual
        self._options = options
        self._context = context
        self._open: dict[ModelUse, ServedModel] = {}
        self._use_of: dict[str, ModelUse] = {}
        # The last result of `of` for each source, with the chosen model that it was for.
        self._last: dict[str, tuple[str, ServedModel]] = {}
        self._used_s: dict[ModelUse, float] = {}
        self._refused: dict[ModelUse, Exception] = {}
        self._configured = configured(usual, options)
        self._sizes: tuple[tuple[int, int], ...] = ()
        self.past = CacheCounts()
        self.answers = RecentAnswers()
        self._changing = threading.Lock()  # never held while a model opens: frames would wait
        self._opening = threading.Lock()

    def open_configured(self) -> None:
        """Open and warm up all models that the configuration names, before the first frame."""
        for use in self._configured:
            self._ready(use)

    def of(self, source: str) -> ServedModel:
        """Return the model of a source. A model that is not prepared is opened first.

        Raises as ModelOpener.open; after a failure, the same error without another attempt.
        """
        chosen = self._context.model(source)
        last = self._last.get(source)
        # The usual case for each frame: the choice is unchanged, and no unused model is open.
        if last is not None and last[0] == chosen and len(self._open) <= len(self._configured):
            return last[1]
        use = self._wanted(source, chosen)
        if self._use_of.get(source) != use or use not in self._open:
            if use in self._refused:
                # Each raise of the same error appends to its traceback, which keeps the frames.
                raise self._refused[use].with_traceback(None)
            try:
                self._ready(use)
            except Exception as error:  # otherwise each frame would try to open it again
                self._refused[use] = error
                raise
            self._use_of[source] = use
        self._close_unused()
        self._last[source] = chosen, self._open[use]
        return self._open[use]

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:
        """Open and warm up a model for these sources, so that `of` does not have to.

        is_new  check its speed as well

        Raises ModelTooSlow, WarmUpFailed, and as ModelOpener.open.
        """
        max_ms = math.inf
        if is_new:
            max_ms = self._options.most_ms
        for use in dict.fromkeys(self._wanted(source, model) for source in sources):
            self._refused.pop(use, None)
            self._ready(use, max_ms)

    def saw(self, width: int, height: int) -> None:
        """Note a picture size. Open models compile for it on a thread; models opened later are
        warmed up for it.
        """
        if (width, height) not in self._sizes:
            self._sizes = (*self._sizes, (width, height))[-MAX_SIZES:]
            for served in list(self._open.values()):
                served.expect(width, height)

    def forget(self, source: str) -> None:
        """Forget the model of a source that ended or moved to another worker."""
        self._use_of.pop(source, None)
        self._last.pop(source, None)

    def close(self) -> None:
        """Stop compiling."""
        for served in list(self._open.values()):
            served.detector.close()

    def recalls(self) -> list[Recall]:
        """Return the lookups of all open models."""
        recalls: list[Recall] = []
        for served in list(self._open.values()):
            recalls += served.recalls
        return recalls

    def _wanted(self, source: str, model: str) -> ModelUse:
        return wanted(self._usual, self._options, source, model)

    def _ready(self, use: ModelUse, max_ms: float = math.inf) -> None:
        """Open and warm up a model, unless it is open. Its time as an unused model starts."""
        with self._opening:
            served = self._open.get(use)
            if served is None:
                served = self._opener.open(use)
                # Before the first picture, the sizes of parts are unknown. To compile for guessed
                # sizes would cost about 1 s and 60 MB in vain.
                if not self._sizes:
                    served.run_once(*_USUAL_SIZE)
                for width, height in self._sizes:
                    served.warm_up(width, height)
                if max_ms < math.inf:
                    _check_speed(use.model, served, max_ms, self._sizes or (_USUAL_SIZE,))
            with self._changing:
                self._open[use] = served
                self._used_s[use] = time.monotonic()

    def _close_unused(self) -> None:
        """Close models that were unused for KEPT_S, and all but the MAX_UNUSED last used ones."""
        if len(self._open) <= len(self._configured):  # configured models always stay open
            return
        now = time.monotonic()
        in_use = {*self._use_of.values(), *self._configured}
        with self._changing:
            for use in in_use:
                self._used_s[use] = now
            unused = sorted(self._open.keys() - in_use, key=lambda use: -self._used_s[use])
            kept = list(dict.fromkeys(use.model for use in unused))[:MAX_UNUSED]
            for use in unused:
                if use.model not in kept or now - self._used_s[use] >= KEPT_S:
                    del self._used_s[use]
                    counts = CacheCounts()
                    add_up(counts, self._open.pop(use).recalls)
                    self.past = self.past.plus(counts)


def _check_speed(
    model: str, served: ServedModel, max_ms: float, sizes: Sequence[tuple[int, int]]
) -> None:
    """Run a new model on noise, so that a slow or broken model fails before it gets frames.

    Raises ModelTooSlow.
    """
    width, height = sizes[-1]
    noise = np.random.default_rng(0)
    half = ((height + 1) // 2, (width + 1) // 2)
    planes = [noise.integers(0, 256, size, np.uint8) for size in ((height, width), half, half)]
    picture = Picture(planes[0], planes[1], planes[2], "bt709", full_range=True)
    taken_ms = fastest_ms(lambda: served.detector.detect([picture]), max_ms)
    if taken_ms > max_ms:
        raise ModelTooSlow(model, taken_ms, max_ms)


def fastest_ms(
    look: Callable[[], object], enough_ms: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the milliseconds of the fastest of several looks, or of the first that takes at most
    `enough_ms`.

    Other work on the machine can only lengthen a look, so the fastest look is closest to the
    model's own time. A mean or a median would refuse a fast model on a busy machine.
    """
    end = clock() + _TRIAL_S
    fastest = math.inf
    runs = 0
    while fastest > enough_ms and (runs < _MIN_RUNS or clock() < end):
        start = clock()
        look()
        fastest = min(fastest, 1000 * (clock() - start))
        runs += 1
    return fastest


_NOTHING: Final = CacheCounts()


def add_up(counts: CacheCounts, recalls: Sequence[Recall], past: CacheCounts = _NOTHING) -> None:
    """Set `counts` to the sums over `recalls`, plus the counts of closed models in `past`."""
    counts.hits = past.hits + sum(recall.counts.hits for recall in recalls)
    counts.misses = past.misses + sum(recall.counts.misses for recall in recalls)
    counts.refused = past.refused + sum(recall.counts.refused for recall in recalls)
    counts.skipped = past.skipped + sum(recall.counts.skipped for recall in recalls)
    counts.sources = len(recalls)
    counts.off = sum(not recall.worth.on for recall in recalls)
