"""The models of a run: what their names mean, settled once; their copies in its folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from framegate.models import coco
from framegate.models.detector import precision_trial
from framegate.models.detector.precision_trial import Choice, Tried
from framegate.models.errors import ModelError
from framegate.models.learning.judgement import refusal_of
from framegate.models.registry.model_folder import Manifest, ModelFolder
from framegate.models.registry.open import open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.system.machine import user_cache
from framegate.stages.detect.options import is_own, model_fault
from framegate.stages.model_faults import model_faults

SPARE_MODELS = 8


def pinned_model(ref: str, folder: Path, registry: str | None) -> ModelFolder:
    """Return the model of the registry that a run means by `ref`, with a copy in the run's folder.

    So a resumed run goes on with it, whatever was added or removed meanwhile. Raises UnknownModel,
    AmbiguousModel, ModelUnreadable, ManifestRefused, ModelRefused.
    """
    kept = Registry(folder / "models")
    note = folder / "models" / "meant" / ref
    with suppress(OSError, ModelError):
        return kept.find(note.read_text())
    with suppress(ModelError):  # a digest means one thing only
        found = kept.find(ref)
        if ref.endswith(found.manifest.sha256):
            return found
    found = kept.put(Registry(Path(registry) if registry else None).find(ref))
    note.parent.mkdir(exist_ok=True)
    new = note.with_name(f"{note.name}.{os.getpid()}.new")
    new.write_text(f"{found.manifest.name}@{found.manifest.sha256}")
    new.replace(note)
    return found


def has_model(ref: str, folder: Path) -> bool:
    """Return whether NAME@DIGEST is among a run's models, or among this user's own."""
    for registry in (Registry(folder / "models"), Registry(None)):
        with suppress(ModelError):
            return bool(registry.find(ref))
    return False


def forget_models(folder: Path, named: Collection[str | None]) -> None:
    """Remove a run's copies of models that nobody names, but for the SPARE_MODELS newest.

    named  NAME@DIGEST; what a name of a configuration has meant is named, too
    """
    kept = Registry(folder / "models")
    meant = set[str]()
    for note in (folder / "models" / "meant").glob("*"):
        with suppress(OSError):
            meant.add(note.read_text())
    full = (f"{one.manifest.name}@{one.manifest.sha256}" for one in kept.models())
    for unused in [ref for ref in full if ref not in meant and ref not in named][SPARE_MODELS:]:
        with suppress(ModelError):
            kept.remove(unused)


def unanswerable(labels: Collection[str], asked_for: Collection[str] | None) -> str | None:
    """Why nobody can be asked about what a model with these labels says; None if somebody can.

    asked_for  what the heavy pass is to look for; None: all that it knows
    """
    strange = [label for label in labels if label not in coco.LABELS]
    if strange:
        return (
            f"the heavy pass knows COCO's 80 classes only, not {', '.join(strange[:5])}; allowed "
            "with it is [escalate] place = 'off'"
        )
    left = [label for label in labels if asked_for is not None and label not in asked_for]
    if left:
        return (
            f"the heavy pass would not look for {', '.join(left[:5])}; allowed is the same "
            "`classes` in both stages, a list or 'all'"
        )
    return None


def pinned_choice(folder: Path, cache: Path, tried: Tried | None = None) -> Choice:
    """Return the run's choice of precision and threads: measured once, kept in its folder.

    So no restart decides anew.

    cache  the user's folder for what was measured of this machine, by whatever run
    tried  what was measured; None: the light detector
    """
    pinned = folder / "precision.json"
    key = precision_trial.machine_key(
        precision_trial.cores_available(), tried or precision_trial.light()
    )
    if key in (choices := precision_trial.read_cache(pinned)):
        return choices[key]
    # Two workers of a run would each find, and use, another one.
    with precision_trial.locked(pinned):
        if key in (choices := precision_trial.read_cache(pinned)):
            return choices[key]
        choice = precision_trial.run(cache / "precision.json", tried=tried)
        with suppress(OSError):
            precision_trial.write_cache(pinned, choices | {key: choice})
    return choice


# -- A model is made ready for a run that goes on, outside of its workers: they only take it over.


def choose(ref: str, folder: Path, registry: Path | None, *, unjudged: bool = False) -> str:
    """Return what the run in `folder` is to be told of a model: its own name, or NAME@DIGEST.

    The model's folder is copied into the run's, precision and threads are measured where that is
    not known, and what OpenVINO compiles is left for the workers. A model that cannot be read,
    compiled or run fails here, in this process.

    A model that was tuned or trained must have been judged, on footage later than its own, to be no
    worse than the general model, unless `unjudged`.

    ModelNotTaken where that is not possible.
    """
    if fault := model_fault(ref):
        raise ModelNotTaken(f"model {ref!r}: {fault}")
    if is_own(ref):
        return ref
    with model_faults(ModelNotTaken, (ModelError, RuntimeError)):  # OpenVINO raises the latter
        found = Registry(registry).find(ref)
        why = "" if unjudged else not_admitted(found.manifest, Registry(registry))
        if why:
            raise ModelNotTaken(_how_to_judge(found.manifest, why))
        return _made_ready(found, folder)


def not_admitted(manifest: Manifest, registry: Registry) -> str:
    """Why a model that was tuned or trained may not serve; "" where it may, as any other may."""
    if manifest.learned is None:
        return ""
    return refusal_of(registry.judgement(manifest) or manifest.metrics)


def _how_to_judge(manifest: Manifest, why: str) -> str:
    return (
        f"model {manifest.result_name} learned from footage, and may not serve: {why}. `framegate "
        f"models judge {manifest.ref} --from SOURCE` judges it on footage that is later than "
        "its own; --unjudged overrides this"
    )


def _made_ready(folder_of_it: ModelFolder, folder: Path) -> str:
    found = Registry(folder / "models").put(folder_of_it)
    manifest = found.manifest
    size = manifest.input.width, manifest.input.height
    choice = pinned_choice(folder, user_cache(), tried_of(found))
    using = open_model(found, choice.precision, choice.threads, cache_dir=folder / "compiled")
    using.warm_up(*size)
    return f"{manifest.name}@{manifest.sha256}"
