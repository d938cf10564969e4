"""Check and pin the models that a configuration names, before a run starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from framegate.models import coco
from framegate.models.detector.devices import AUTO, to_try
from framegate.models.detector.network import CPU
from framegate.models.errors import DeviceMissing, UnknownModel
from framegate.models.registry.onnx_network import can_run
from framegate.models.registry.open import class_ids
from framegate.models.sound.yamnet import labels as sound_labels
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.run.models import ModelFunctions, StageUse
from framegate.pipeline.system.loading import load, options_of
from framegate.stages.detect import Detect
from framegate.stages.detect.options import (
    OWN,
    classes_fault,
    configured,
    is_own,
    labels_wanted,
    wanted,
)
from framegate.stages.detect.run_models import (
    forget_models,
    has_model,
    pinned_model,
    unanswerable,
)
from framegate.stages.detect.stage import DetectOptions
from framegate.stages.escalate import Escalate
from framegate.stages.model_faults import model_faults


def settle(stages: Sequence[StageUse], folder: Path) -> dict[str, str]:
    """Pin the models of a run; return NAME@DIGEST of each source with a model of the registry.

    The key of a source is its name in `[models.sources]`; "" is the key of all other sources, if
    their detector is a model of the registry. If several stages detect, the first decides.

    stages  name, use and options of each stage
    folder  the run's folder, which gets a copy of each model

    Raises ConfigFaults with all faults.
    """
    kinds = {use: load(use) for _, use, _ in stages}
    heavy_labels: list[tuple[str, ...] | None] = []
    faults: list[str] = []
    for name, use, options in stages:
        if not _is(kinds[use], Escalate) or not _asks(options):
            continue
        classes = options.get("classes")
        heavy_labels.append(labels_wanted("heavy", classes))
        if classes is not None:
            fault = classes_fault("heavy", classes)
            if fault is not None:
                faults.append(f"stages.{name}.classes = {classes}: {fault}")
    settled: dict[str, str] = {}
    for name, use, options in stages:
        if _is(kinds[use], Detect):
            settled = _settled(name, options, heavy_labels, folder, faults) | settled
    if not faults:
        faults = device_faults(stages, folder)
    if faults:
        raise ConfigFaults(faults)
    return settled


def labels_known(stages: Sequence[StageUse], folder: Path) -> frozenset[str] | None:
    """Return the labels that results can have; None if none of our stages detects.

    stages, folder  as for `settle`, which must run before
    """
    known: set[str] = set()
    for _, use, options in stages:
        if not _is(load(use), Detect):
            continue
        detect = options_of(Detect, options)
        for model_use in configured(detect.usual(), detect.models):
            if is_own(model_use.model):
                known.update(model_use.labels or coco.LABELS)
                continue
            manifest = pinned_model(model_use.model, folder, detect.models.registry).manifest
            if model_use.classes == "all":
                known.update(manifest.classes)
            else:
                known.update(model_use.labels or manifest.default_classes)
    return frozenset(known) or None


def _is(kind: Any, ours: type) -> bool:
    """Return True if a stage's class is `ours` or derived from it."""
    return isinstance(kind, type) and issubclass(kind, ours)


def _asks(options: Mapping[str, Any]) -> bool:
    return bool(options.get("escalate", {}).get("place", "off") != "off")


def device_faults(stages: Sequence[StageUse], folder: Path) -> list[str]:
    """Return a fault for each model whose device is missing or does not support it.

    stages, folder  as for `settle`, which must run before
    """
    faults = []
    for name, use, options in stages:
        if not _is(load(use), Detect):
            continue
        detect = options_of(Detect, options)
        if detect.device == CPU:
            continue
        models = {model_use.model for model_use in configured(detect.usual(), detect.models)}
        for model in sorted(models):
            try:
                _try_device(model, detect, folder)
            except DeviceMissing as missing:
                near = did_you_mean(detect.device, (*missing.available, AUTO))
                fault = str(missing).partition(": ")[2]
                faults.append(f"stages.{name}.device = {detect.device!r}: {model}: {fault}{near}")
    return faults


def _try_device(model: str, detect: DetectOptions, folder: Path) -> None:
    """Raise DeviceMissing if a model cannot run on the configured device."""
    if model == "heavy" and detect.device != AUTO:
        raise DeviceMissing(detect.device, (CPU,), "an ensemble of networks runs on the CPU only")
    if is_own(model):
        to_try(detect.device, with_onnx=False)
    else:
        to_try(detect.device, can_run(pinned_model(model, folder, detect.models.registry)))


def _settled(
    name: str,
    options: dict[str, Any],
    heavy_labels: Sequence[Sequence[str] | None],
    folder: Path,
    faults: list[str],
) -> dict[str, str]:
    """Pin the models of a stage that detects, as `settle` does; append the faults to `faults`.

    heavy_labels  the labels of the heavy pass for each stage that asks it; None: all
    """
    detect = options_of(Detect, options)
    settled = {}
    for source in ("", *detect.models.sources):
        model_use = wanted(detect.usual(), detect.models, source)
        if is_own(model_use.model):
            continue
        place = f"stages.{name}.detector = {model_use.model!r}"
        if source:
            place = f"models.sources.{source}.model = {model_use.model!r}"
        try:
            with model_faults():
                manifest = pinned_model(model_use.model, folder, detect.models.registry).manifest
                class_ids(
                    manifest, [*(model_use.labels or ()), *dict(model_use.min_scores)] or None
                )
        except ConfigFaults as refused:
            hint = ""
            if isinstance(refused.__cause__, UnknownModel):
                near = did_you_mean(model_use.model, (*OWN, "nanodet-320", "nanodet-640"))
                hint = (
                    "; light, heavy and nanodet-SIDE need no registry, `framegate models add` adds "
                    f"a model{near}"
                )
            faults += [f"{place}: {fault}{hint}" for fault in refused.faults]
            continue
        for labels in heavy_labels:
            if fault := unanswerable(model_use.labels or manifest.default_classes, labels):
                faults.append(f"{place}: {fault}")
        settled[source] = f"{manifest.name}@{manifest.sha256}"
    return settled


FUNCTIONS: Final = ModelFunctions(settle, labels_known, sound_labels, has_model, forget_models)
