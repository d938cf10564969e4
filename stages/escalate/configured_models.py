"""What a run means by the models that its configuration names: settled before anything starts."""

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
    """NAME@DIGEST of each source for which `[models.sources]` names a model of the registry, and
    under "" of all others, where the stage that detects does: of two such stages the first.

    stages  of each its name, what it uses, and its options
    folder  the run's, where a copy of each model is put

    ConfigFaults with everything that is wrong.
    """
    kinds = {use: load(use) for _, use, _ in stages}
    asking = {use for use, kind in kinds.items() if _is(kind, Escalate)}
    asked = [
        labels_wanted("heavy", options.get("classes"))
        for _, use, options in stages
        if use in asking and _asks(options)
    ]
    settled: dict[str, str] = {}
    faults: list[str] = []
    for name, use, options in stages:
        classes = options.get("classes")
        if asked and use in asking and classes is not None:
            fault = classes_fault("heavy", classes)
            faults += [f"stages.{name}.classes = {classes}: {fault}"] if fault else []
        if _is(kinds[use], Detect):
            settled = _settled(name, options, asked, folder, faults) | settled
    if not faults:
        faults = device_faults(stages, folder)
    if faults:
        raise ConfigFaults(faults)
    return settled


def labels_known(stages: Sequence[StageUse], folder: Path) -> frozenset[str] | None:
    """Labels that results can have; None: nobody knows, as another's stage detects.

    stages, folder: as for `settle`, which has settled the models.
    """
    known: set[str] = set()
    for _, use, options in stages:
        if not _is(load(use), Detect):
            continue
        said = options_of(Detect, options)
        for want in configured(said.usual(), said.models):
            if is_own(want.model):
                known |= set(labels_wanted(want.model, want.classes) or coco.LABELS)
            else:
                found = pinned_model(want.model, folder, said.models.registry).manifest
                known |= set(
                    found.classes if want.classes == "all" else want.labels or found.default_classes
                )
    return frozenset(known) or None


def _own(model: str) -> str:
    """Say of a name that the registry does not know which models need none."""
    near = did_you_mean(model, (*OWN, "nanodet-320", "nanodet-640"))
    return f"; light, heavy and nanodet-SIDE come along, framegate models add takes yours{near}"


def _is(kind: Any, ours: type) -> bool:
    """Return whether a stage's class is ours, or derived from it."""
    return isinstance(kind, type) and issubclass(kind, ours)


def _asks(options: Mapping[str, Any]) -> bool:
    return bool(options.get("escalate", {}).get("place", "off") != "off")


def device_faults(stages: Sequence[StageUse], folder: Path) -> list[str]:
    """Return which devices of the stages that detect are not on this machine, or not for a model
    of theirs. stages, folder: as for `settle`, which has settled the models.
    """
    faults = []
    for name, use, options in stages:
        if not _is(load(use), Detect):
            continue
        said = options_of(Detect, options)
        if said.device == CPU:
            continue
        models = {want.model for want in configured(said.usual(), said.models)}
        for model in sorted(models):
            try:
                _try_device(model, said, folder)
            except DeviceMissing as missing:
                near = did_you_mean(said.device, (*missing.available, AUTO))
                fault = str(missing).partition(": ")[2]
                faults.append(f"stages.{name}.device = {said.device!r}: {model}: {fault}{near}")
    return faults


def _try_device(model: str, said: DetectOptions, folder: Path) -> None:
    """DeviceMissing where a model cannot be computed on the device that is said."""
    if model == "heavy" and said.device != AUTO:
        raise DeviceMissing(
            said.device, (CPU,), "several networks together are computed there only"
        )
    if is_own(model):
        to_try(said.device, with_onnx=False)
    else:
        to_try(said.device, can_run(pinned_model(model, folder, said.models.registry)))


def _settled(
    name: str,
    options: dict[str, Any],
    asked: Sequence[Sequence[str] | None],
    folder: Path,
    faults: list[str],
) -> dict[str, str]:
    """asked: what each stage that asks the heavy pass has it look for, None: all."""
    said = options_of(Detect, options)
    settled = {}
    for source in ("", *said.models.sources):
        want = wanted(said.usual(), said.models, source)
        if is_own(want.model):
            continue
        key = f"models.sources.{source}.model" if source else f"stages.{name}.detector"
        try:
            with model_faults():
                found = pinned_model(want.model, folder, said.models.registry).manifest
                class_ids(found, [*(want.labels or ()), *dict(want.min_scores)] or None)
        except ConfigFaults as refused:
            own = _own(want.model) if isinstance(refused.__cause__, UnknownModel) else ""
            faults += [f"{key} = {want.model!r}: {fault}{own}" for fault in refused.faults]
            continue
        for labels in asked:
            if fault := unanswerable(want.labels or found.default_classes, labels):
                faults.append(f"{key} = {want.model!r}: {fault}")
        settled[source] = f"{found.name}@{found.sha256}"
    return settled


FUNCTIONS: Final = ModelFunctions(settle, labels_known, sound_labels, has_model, forget_models)
