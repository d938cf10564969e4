"""Prepare a model for a run: its precision and threads, and its compiled network.

A command prepares another model for an active run, so that the workers only open it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from framegate.models.detector import precision_trial
from framegate.models.detector.compiled_networks import locked
from framegate.models.detector.network import compiled_here
from framegate.models.detector.precision_trial import Choice, Tried
from framegate.models.errors import ModelError
from framegate.models.learning.judgement import refusal_of
from framegate.models.registry.manifest import Manifest
from framegate.models.registry.open import open_model, tried_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.system.machine import user_cache
from framegate.stages.detect.options import is_own, model_fault
from framegate.stages.model_adapters import model_faults


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
