"""The models of a run: copies in its folder, so that their names keep their meaning."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from framegate.models import coco
from framegate.models.detector import precision_trial
from framegate.models.detector.compiled_networks import locked
from framegate.models.detector.network import compiled_here
from framegate.models.detector.precision_trial import Choice, Tried
from framegate.models.errors import ModelError
from framegate.models.learning.judgement import refusal_of
from framegate.models.registry.manifest import Manifest
from framegate.models.registry.model_folder import ModelFolder
from framegate.models.registry.open import open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.system.machine import user_cache
from framegate.stages.detect.options import is_own, model_fault
from framegate.stages.model_adapters import model_faults

SPARE_MODELS = 8


def pinned_model(ref: str, folder: Path, registry: str | None) -> ModelFolder:
    """Return the model that `ref` names in a run, copied into the run's folder on first use.

    folder    the run's folder
    registry  folder of the added models; None: the user's own

    A resumed run uses the copy, even if models were added or removed meanwhile. Raises
    UnknownModel, AmbiguousModel, ModelUnreadable, ManifestRefused, ModelRefused.
    """
    copies = Registry(folder / "models")
    note = folder / "models" / "meant" / ref
    with suppress(OSError, ModelError):
        return copies.find(note.read_text(encoding="utf-8"))
    with suppress(ModelError):
        copy = copies.find(ref)
        if ref.endswith(copy.manifest.sha256):  # a digest is unambiguous and needs no note
            return copy
    added = Registry(None)
    if registry:
        added = Registry(Path(registry))
    copy = copies.put(added.find(ref))
    note.parent.mkdir(exist_ok=True)
    new = note.with_name(f"{note.name}.{os.getpid()}.new")
    new.write_text(f"{copy.manifest.name}@{copy.manifest.sha256}", encoding="utf-8")
    new.replace(note)
    return copy


def has_model(ref: str, folder: Path) -> bool:
    """Return True if NAME@DIGEST is among the models of a run or of the user."""
    for registry in (Registry(folder / "models"), Registry(None)):
        with suppress(ModelError):
            return bool(registry.find(ref))
    return False


def forget_models(folder: Path, named: Collection[str | None]) -> None:
    """Remove a run's unused copies of models, except the SPARE_MODELS newest.

    named  models in use, as NAME@DIGEST; models that a configured name means count as in use too
    """
    copies = Registry(folder / "models")
    in_use = set(named)
    for note in (folder / "models" / "meant").glob("*"):
        with suppress(OSError):
            in_use.add(note.read_text(encoding="utf-8"))
    refs = [f"{model.manifest.name}@{model.manifest.sha256}" for model in copies.models()]
    unused = [ref for ref in refs if ref not in in_use]
    for ref in unused[SPARE_MODELS:]:
        with suppress(ModelError):
            copies.remove(ref)


def unanswerable(labels: Collection[str], asked_for: Collection[str] | None) -> str | None:
    """Return the reason why the heavy pass cannot check a model with these labels, or None.

    asked_for  labels that the heavy pass detects; None: all that it knows
    """
    foreign = [label for label in labels if label not in coco.LABELS]
    if foreign:
        return (
            f"the heavy pass knows COCO's 80 classes only, not {', '.join(foreign[:5])}; set "
            "[escalate] place = 'off'"
        )
    missing = [label for label in labels if asked_for is not None and label not in asked_for]
    if missing:
        return (
            f"the heavy pass would not detect {', '.join(missing[:5])}; set the same `classes` in "
            "both stages, a list or 'all'"
        )
    return None


def pinned_choice(folder: Path, cache: Path, tried: Tried | None = None) -> Choice:
    """Return the run's precision and threads for a model: measured once, then the same after
    each restart.

    folder  the run's folder
    cache   the user's folder with the measurements of all runs on this machine
    tried   the candidates to measure; None: those of the light detector
    """
    pinned = folder / "precision.json"
    key = precision_trial.machine_key(
        precision_trial.cores_available(), tried or precision_trial.light()
    )
    choices = precision_trial.read_cache(pinned)
    if key in choices:
        return choices[key]
    # Without the lock, two workers of a run could measure and use different choices.
    with locked(pinned.parent):
        choices = precision_trial.read_cache(pinned)
        if key in choices:
            return choices[key]
        choice = precision_trial.run(cache / "precision.json", tried=tried)
        with suppress(OSError):
            precision_trial.write_cache(pinned, choices | {key: choice})
    return choice


# -- Another model for an active run. The command prepares it, so that the workers only open it.


def choose(ref: str, folder: Path, registry: Path | None, *, unjudged: bool = False) -> str:
    """Prepare a model for the active run in `folder`; return its own name or NAME@DIGEST.

    The model is copied into the run's folder, its precision and threads are measured if unknown,
    and the compiled network is left there for the workers. A model that cannot be read, compiled
    or run fails here, in the process of the command.

    A tuned or trained model must be judged no worse than the general model, on footage later than
    its own, unless `unjudged`.

    Raises ModelNotTaken.
    """
    if fault := model_fault(ref):
        raise ModelNotTaken(f"model {ref!r}: {fault}")
    if is_own(ref):
        return ref
    with model_faults(ModelNotTaken, (ModelError, RuntimeError)):  # OpenVINO raises the latter
        models = Registry(registry)
        model = models.find(ref)
        manifest = model.manifest
        reason = not_admitted(manifest, models)
        if reason and not unjudged:
            raise ModelNotTaken(
                f"model {manifest.result_name} learned from footage and may not serve: {reason}. "
                f"`framegate models judge {manifest.ref} --from SOURCE` judges it on footage that "
                "is later than its own; --unjudged overrides this"
            )
        copy = Registry(folder / "models").put(model)
        choice = pinned_choice(folder, user_cache(), tried_of(copy))
        cache_dir = compiled_here(user_cache())
        using = open_model(copy, choice.precision, choice.threads, cache_dir=cache_dir)
        using.warm_up(manifest.input.width, manifest.input.height)
        return f"{manifest.name}@{manifest.sha256}"


def not_admitted(manifest: Manifest, registry: Registry) -> str:
    """Return the reason why a tuned or trained model may not serve; "" if the model may serve."""
    if manifest.learned is None:
        return ""
    return refusal_of(registry.judgement(manifest) or manifest.metrics)
