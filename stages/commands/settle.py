"""What a run means by the models that its configuration names: settled before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framegate.models.registry.open import class_ids
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.loading import load, options_of
from framegate.stages.detect import Detect
from framegate.stages.detect.options import classes_fault, is_own, wanted
from framegate.stages.detect.pinned import pinned_model, unanswerable
from framegate.stages.escalate import Escalate
from framegate.stages.model_faults import model_faults


def settle(stages: Sequence[tuple[str, dict[str, Any]]], folder: Path) -> dict[str, str]:
    """NAME@DIGEST of each source for which `[models.sources]` names a model of the registry, and
    under "" of all others, where `[stages.detect]` does: of two such stages the first.

    stages  what each uses, and its options
    folder  the run's, where a copy of each model is put

    ConfigFaults with everything that is wrong.
    """
    kinds = {use: load(use) for use, _ in stages}
    asks = any(_asks(options) for use, options in stages if kinds[use] is Escalate)
    settled: dict[str, str] = {}
    faults: list[str] = []
    for use, options in stages:
        classes = options.get("classes")
        if asks and kinds[use] is Escalate and classes is not None:
            fault = classes_fault("heavy", classes)
            faults += [f"stages.escalate.classes = {classes}: {fault}"] if fault else []
        if kinds[use] is Detect:
            settled = _settled(options, asks, folder, faults) | settled
    if faults:
        raise ConfigFaults(faults)
    return settled


def _asks(options: Mapping[str, Any]) -> bool:
    return bool(options.get("escalate", {}).get("place", "off") != "off")


def _settled(
    options: dict[str, Any], asks: bool, folder: Path, faults: list[str]
) -> dict[str, str]:
    said = options_of(Detect, options)
    settled = {}
    for source in ("", *said.models.sources):
        want = wanted(said.usual(), said.models, source)
        if is_own(want.model):
            continue
        key = f"models.sources.{source}.model" if source else "stages.detect.detector"
        try:
            with model_faults():
                found = pinned_model(want.model, folder, said.models.registry).manifest
                class_ids(found, [*(want.classes or ()), *dict(want.min_scores)] or None)
        except ConfigFaults as refused:
            faults += [f"{key} = {want.model!r}: {fault}" for fault in refused.faults]
            continue
        if asks and (strange := unanswerable(found)):
            faults.append(f"{key} = {want.model!r}: {strange}")
        settled[source] = f"{found.name}@{found.sha256}"
    return settled
