"""The models that a configuration names: checked and pinned before a run starts.

The supervisor loads this module. Libraries for networks are imported only for models, devices and
sounds that need them: NumPy and OpenCV take 0.2 s of CPU time and 35 MB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from framegate.models.detector.device_names import AUTO, CPU
from framegate.models.errors import DeviceMissing, UnknownModel
from framegate.models.registry.manifest import Manifest
from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.run.models import RunModels
from framegate.pipeline.system.loading import load_declared, options_of
from framegate.stages.detect.options import (
    OWN,
    DeclaredDetect,
    DetectOptions,
    ModelUse,
    classes_fault,
    configured,
    is_own,
    labels_wanted,
    own_labels,
    wanted,
)
from framegate.stages.detect.pinned_models import (
    forget_models,
    has_model,
    pinned_model,
    unanswerable,
)
from framegate.stages.escalate.options import DeclaredEscalate


class ConfiguredModels(RunModels):
    """The models of a run, from the options of its stages that detect or ask the heavy model."""

    def __init__(self, stages: Sequence[StageEntry], folder: Path) -> None:
        """folder: of the run, which gets a copy of each model when the model is first needed."""
        self.settled: dict[str, str] = {}
        self._folder = folder
        self._detecting = list(_detecting(stages))
        self._escalating = [stage for stage in stages if _asks(stage)]

    def settle(self) -> None:
        """Pin the models, and check them and their devices. ConfigFaults with all faults.

        If several stages detect, the first decides about a source's key in `settled`.
        """
        faults: list[str] = []
        heavy_labels: list[tuple[str, ...] | None] = []
        for stage in self._escalating:
            classes = stage.options.get("classes")
            heavy_labels.append(labels_wanted("heavy", classes))
            if classes is not None:
                fault = classes_fault("heavy", classes)
                if fault is not None:
                    faults.append(f"stages.{stage.name}.classes = {classes}: {fault}")
        settled: dict[str, str] = {}
        for name, detect in self._detecting:
            settled = self._settle(name, detect, heavy_labels, faults) | settled
        if not faults:
            faults = self.device_faults()
        if faults:
            raise ConfigFaults(faults)
        self.settled = settled

    def _settle(
        self,
        name: str,
        detect: DetectOptions,
        heavy_labels: Sequence[Sequence[str] | None],
        faults: list[str],
    ) -> dict[str, str]:
        """Pin the models of a stage, and return them by source; append the faults to `faults`.

        heavy_labels  the labels of the heavy pass for each stage that asks it; None: all
        """
        settled = {}
        for source in ("", *detect.models.sources):
            model_use = wanted(detect.usual(), detect.models, source)
            if is_own(model_use.model):
                faults += _class_faults(source, model_use)
                continue
            place = f"stages.{name}.detector = {model_use.model!r}"
            if source:
                place = f"models.sources.{source}.model = {model_use.model!r}"
            try:
                manifest = self._checked(model_use, detect)
            except ConfigFaults as refused:
                hint = ""
                if isinstance(refused.__cause__, UnknownModel):
                    near = did_you_mean(
                        model_use.model, (*OWN, "nanodet-plus-320", "nanodet-plus-640")
                    )
                    hint = (
                        f"; {', '.join(OWN)} and nanodet-plus-SIDE need no registry, "
                        f"`framegate models add` adds a model{near}"
                    )
                faults += [f"{place}: {fault}{hint}" for fault in refused.faults]
                continue
            for labels in heavy_labels:
                if fault := unanswerable(manifest, model_use.labels, labels):
                    faults.append(f"{place}: {fault}")
            settled[source] = f"{manifest.name}@{manifest.sha256}"
        return settled

    def _checked(self, model_use: ModelUse, detect: DetectOptions) -> Manifest:
        """Return the manifest of a model of the registry. ConfigFaults also for its classes."""
        from framegate.models.registry.open import class_ids
        from framegate.stages.model_adapters import model_faults

        with model_faults():
            manifest = self._pinned(model_use.model, detect)
            class_ids(manifest, [*(model_use.labels or ()), *dict(model_use.min_scores)] or None)
        return manifest

    def _pinned(self, model: str, detect: DetectOptions) -> Manifest:
        return pinned_model(model, self._folder, detect.models.registry).manifest

    def labels(self) -> frozenset[str] | None:
        """Return the labels that results can have; None if none of our stages detects."""
        known: set[str] = set()
        for _, detect in self._detecting:
            for model_use in configured(detect.usual(), detect.models):
                if is_own(model_use.model):
                    known.update(model_use.labels or own_labels(model_use.model))
                    continue
                manifest = self._pinned(model_use.model, detect)
                if model_use.classes == "all":
                    known.update(manifest.classes)
                else:
                    known.update(model_use.labels or manifest.default_classes)
        return frozenset(known) or None

    def use_of(self, source: str) -> ModelUse | None:
        """Return the model and classes of a source; None if none of our stages detects.

        If several stages detect, the first decides.
        """
        if not self._detecting:
            return None
        _, detect = self._detecting[0]
        return wanted(detect.usual(), detect.models, source)

    def sound_labels(self) -> Sequence[str]:
        """Return all labels of sounds."""
        from framegate.models.sound import yamnet

        return yamnet.labels()

    def has(self, model: str) -> bool:
        """Return whether the run or this user has a model, given as NAME@DIGEST."""
        return has_model(model, self._folder)

    def forget_unused(self, chosen: Collection[str | None]) -> None:
        """Remove old copies of models that are neither in `chosen` nor in the configuration."""
        forget_models(self._folder, {*chosen, *self.settled.values()})

    def device_faults(self) -> list[str]:
        """Return a fault for each model whose device is missing or does not support it."""
        faults = []
        for name, detect in self._detecting:
            if detect.device == CPU:
                continue
            models = {model_use.model for model_use in configured(detect.usual(), detect.models)}
            for model in sorted(models):
                try:
                    self._try_device(model, detect)
                except DeviceMissing as missing:
                    near = did_you_mean(detect.device, (*missing.available, AUTO))
                    fault = str(missing).partition(": ")[2]
                    faults.append(
                        f"stages.{name}.device = {detect.device!r}: {model}: {fault}{near}"
                    )
        return faults

    def _try_device(self, model: str, detect: DetectOptions) -> None:
        """Raise DeviceMissing if a model cannot run on the configured device."""
        from framegate.models.detector.devices import to_try
        from framegate.models.registry.onnx_network import can_run

        if model == "heavy" and detect.device != AUTO:
            raise DeviceMissing(
                detect.device, (CPU,), "an ensemble of networks runs on the CPU only"
            )
        if is_own(model):
            to_try(detect.device, with_onnx=False)
        else:
            folder = pinned_model(model, self._folder, detect.models.registry)
            to_try(detect.device, can_run(folder))


def _class_faults(source: str, model_use: ModelUse) -> list[str]:
    """Return the fault of a source's classes for a model that is part of Framegate, if any."""
    if not source or model_use.classes is None:
        return []
    fault = classes_fault(model_use.model, model_use.classes)
    if fault is None:
        return []
    return [f"models.sources.{source} ({model_use.model}): classes: {fault}"]


def _detecting(stages: Sequence[StageEntry]) -> Iterator[tuple[str, DetectOptions]]:
    """Yield name and options of each stage that detects."""
    for stage in stages:
        if _is(stage, DeclaredDetect):
            yield stage.name, options_of(DeclaredDetect, stage.options)


def _asks(stage: StageEntry) -> bool:
    """Return whether a stage asks the heavy model."""
    table: Mapping[str, Any] = stage.options.get("escalate", {})
    return _is(stage, DeclaredEscalate) and table.get("place", "off") != "off"


def _is(stage: StageEntry, ours: type) -> bool:
    """Return whether a stage's class is `ours` or derived from it."""
    kind = load_declared(stage.use)
    return isinstance(kind, type) and issubclass(kind, ours)
