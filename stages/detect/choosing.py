"""A model is made ready for a run that goes on, outside of its workers: they only take it over."""

from __future__ import annotations

from pathlib import Path

from framegate.models.errors import ModelError
from framegate.models.registry.open import open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.errors import ModelNotTaken
from framegate.stages.detect.model_options import is_own, model_fault
from framegate.stages.detect.pinned import pinned_choice


def choose(ref: str, folder: Path, registry: Path | None) -> str:
    """What the run in `folder` is to be told of a model: its own name, or NAME@DIGEST.

    The model's folder is copied into the run's, precision and threads are measured where that is
    not known, and what OpenVINO compiles is left for the workers. A model that cannot be read,
    compiled or run fails here, in this process.

    ModelNotTaken where that is not possible.
    """
    if fault := model_fault(ref):
        raise ModelNotTaken(f"model {ref!r}: {fault}")
    if is_own(ref):
        return ref
    try:
        return _made_ready(ref, folder, registry)
    except (ModelError, RuntimeError) as error:  # OpenVINO raises the latter
        raise ModelNotTaken(str(error)) from error


def _made_ready(ref: str, folder: Path, registry: Path | None) -> str:
    found = Registry(folder / "models").put(Registry(registry).find(ref))
    manifest = found.manifest
    size = manifest.input.width, manifest.input.height
    choice = pinned_choice(folder, tried_of(found))
    using = open_model(found, choice.precision, choice.threads, cache_dir=folder / "compiled")
    using.warm_up(*size)
    return f"{manifest.name}@{manifest.sha256}"
