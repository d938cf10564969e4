"""Load stages, decoders and a user's classes by dotted path.

BUILTINS and DECLARED are the only places in `pipeline` that name parts of `stages`: the stages that
a run adds to its graph, the models of a run, what the HTTP process loads, and what a configuration
reads of stages.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean

BUILTINS: Final[Mapping[str, str]] = {
    # Stages that a run adds to the configured graph.
    "certify": "framegate.stages.audit.certify:Certify",
    "collect": "framegate.stages.footage.collect:Collect",
    "events": "framegate.stages.events.stage:Episodes",
    "replay_events": "framegate.stages.events.replay:replay",
    "save": "framegate.stages.draw.save:Save",
    "heard": "framegate.stages.sound:HeardSounds",
    "sound": "framegate.stages.sound:Sound",
    "visits": "framegate.stages.visits:Visits",
    # The models of a run, as a RunModels.
    "models": "framegate.stages.escalate.configured_models:ConfiguredModels",
    # Pictures of the HTTP port, and clips of recordings.
    "write_clip": "framegate.stages.decode.clip:write_clip",
    "pictures": "framegate.stages.draw.pictures:Pictures",
}

DECLARED: Final[Mapping[str, str]] = {
    "framegate.stages.detect:Detect": "framegate.stages.detect.options:DeclaredDetect",
    "framegate.stages.escalate:Escalate": "framegate.stages.escalate.options:DeclaredEscalate",
}
"""For a stage that loads large libraries, its base class with what a configuration reads."""


def make_importable(folder: Path) -> None:
    """Put a folder first on the module search path, which worker processes inherit."""
    path = str(folder)
    if path not in sys.path:
        sys.path.insert(0, path)


def load_builtin(name: str) -> Any:
    """Return the class or function that BUILTINS has under this name."""
    return load(BUILTINS[name])


def load_declared(use: str) -> Any:
    """Return a class with the options and attributes of the stage at `use`.

    It is the stage's own class, or one that the class is derived from. ConfigFaults as `load`.
    """
    return load(DECLARED.get(use, use))


def load(use: str) -> Any:
    """Return the class at `package.module:Class`.

    ConfigFaults if importing it fails, or if `use` is an old path of a shipped stage.
    """
    module_name, _, name = use.partition(":")
    if _was_ours(module_name):
        raise ConfigFaults([f"use = {use!r}: it is framegate.{use} now"])
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except Exception as error:  # a user's module may raise anything
        fault = repr(error)
        if isinstance(error, ImportError | AttributeError):
            fault = str(error)
        hint = _similar_name(module_name, name, error)
        raise ConfigFaults(
            [f"use = {use!r}: {fault}; must be package.module:Class that Python can import{hint}"]
        ) from error


def _similar_name(module_name: str, name: str, error: Exception) -> str:
    """Return a hint at the class or module that is most similar to a missing one."""
    if module_name == "__main__":
        return (
            f". The workers of a run do not import the program itself: move {name} into a module "
            f"of its own, such as my_stages.py, and write my_stages:{name}"
        )
    if isinstance(error, AttributeError) and module_name in sys.modules:
        members = vars(sys.modules[module_name]).items()
        return did_you_mean(name, [key for key, value in members if isinstance(value, type)])
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    package, _, last = error.name.rpartition(".")
    folders = [os.curdir]
    if package in sys.modules:
        folders = vars(sys.modules[package]).get("__path__", [])
    return did_you_mean(last, [module.name for module in pkgutil.iter_modules(folders)])


def _was_ours(module_name: str) -> bool:
    """Return whether a shipped module had this name before all were in the package `framegate`.

    A user's module with such a name is not a shipped one.
    """
    root = module_name.partition(".")[0]
    if root not in ("pipeline", "stages", "models"):
        return False
    spec = importlib.util.find_spec(root)
    shipped = Path(__file__).resolve().parents[2] / root
    return spec is None or Path(spec.origin or "").resolve().parent == shipped


def options_of(kind: Any, options: dict[str, Any]) -> Any:
    """Return a stage's options from plain data that the configuration has checked."""
    return msgspec.convert(options, kind.Options)
