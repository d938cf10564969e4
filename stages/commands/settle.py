"""What a run means by the models that its configuration names: settled before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framegate.models.errors import UnknownModel
from framegate.models.registry.open import class_ids
from framegate.pipeline.errors import ConfigFaults, did_you_mean
from framegate.pipeline.loading import load, options_of
from framegate.stages.detect import Detect
from framegate.stages.detect.options import OWN, classes_fault, is_own, wanted
from framegate.stages.detect.run_models import pinned_model, unanswerable
from framegate.stages.escalate import Escalate
from framegate.stages.model_faults import model_faults


def settle(stages: Sequence[tuple[str, str, dict[str, Any]]], folder: Path) -> dict[str, str]:
    """NAME@DIGEST of each source for which `[models.sources]` names a model of the registry, and
    under "" of all others, where the stage that detects does: of two such stages the first.

    stages  of each its name, what it uses, and its options
    folder  the run's, where a copy of each model is put

    ConfigFaults with everything that is wrong.
    """
    kinds = {use: load(use) for _, use, _ in stages}
    asking = {use for use, kind in kinds.items() if _is(kind, Escalate)}
    asks = any(_asks(options) for _, use, options in stages if use in asking)
    settled: dict[str, str] = {}
    faults: list[str] = []
    for name, use, options in stages:
        classes = options.get("classes")
        if asks and use in asking and classes is not None:
            fault = classes_fault("heavy", classes)
            faults += [f"stages.{name}.classes = {classes}: {fault}"] if fault else []
        if _is(kinds[use], Detect):
            settled = _settled(name, options, asks, folder, faults) | settled
    if faults:
        raise ConfigFaults(faults)
    return settled


def _own(model: str) -> str:
    """Say of a name that the registry does not know which models need none."""
    near = did_you_mean(model, (*OWN, "nanodet-320", "nanodet-640"))
    return f"; light, heavy and nanodet-SIDE come along, framegate models add takes yours{near}"


def _is(kind: Any, ours: type) -> bool:
    """Return whether a stage's class is ours, or derived from it."""
    return isinstance(kind, type) and issubclass(kind, ours)


def _asks(options: Mapping[str, Any]) -> bool:
    return bool(options.get("escalate", {}).get("place", "off") != "off")


def _settled(
    name: str, options: dict[str, Any], asks: bool, folder: Path, faults: list[str]
) -> dict[str, str]:
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
                class_ids(found, [*(want.classes or ()), *dict(want.min_scores)] or None)
        except ConfigFaults as refused:
            own = _own(want.model) if isinstance(refused.__cause__, UnknownModel) else ""
            faults += [f"{key} = {want.model!r}: {fault}{own}" for fault in refused.faults]
            continue
        if asks and (strange := unanswerable(found)):
            faults.append(f"{key} = {want.model!r}: {strange}")
        settled[source] = f"{found.name}@{found.sha256}"
    return settled
