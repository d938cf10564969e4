"""Load stages, decoders and a user's classes by dotted path, as worker processes do.

BUILTINS is the one place of `pipeline` that names stages: those that a run adds to its graph, and
what the HTTP process loads. The command line passes everything else.
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
    # Stages that a run adds to the graph of its configuration.
    "certify": "framegate.stages.audit.certify:Certify",
    "collect": "framegate.stages.footage.collect:Collect",
    "events": "framegate.stages.events.stage:Episodes",
    "replay_events": "framegate.stages.events.evaluate:replay",
    "save": "framegate.stages.draw.save:Save",
    "heard": "framegate.stages.sound:HeardSounds",
    "sound": "framegate.stages.sound:Sound",
    # Pictures of the HTTP port, and one file of a range of a recording.
    "write_clip": "framegate.stages.decode.clip:write_clip",
    "pictures": "framegate.stages.draw.pictures:Pictures",
}


def make_importable(folder: Path) -> None:
    """Put a folder first on the module search path, which worker processes inherit."""
    place = str(folder)
    if place not in sys.path:
        sys.path.insert(0, place)


def load_builtin(name: str) -> Any:
    """Return the class or function that BUILTINS has under this name."""
    return load(BUILTINS[name])


def load(use: str) -> Any:
    """Return the class at `package.module:Class`.

    ConfigFaults if importing it fails, or if `use` is a path that a stage of ours had before.
    """
    module_name, _, name = use.partition(":")
    if _was_ours(module_name):
        raise ConfigFaults([f"use = {use!r}: it is framegate.{use} now"])
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except Exception as error:  # a user's module may raise anything
        what = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        near = _meant(module_name, name, error)
        raise ConfigFaults(
            [f"use = {use!r}: {what}; allowed is package.module:Class that Python can import{near}"]
        ) from error


def _meant(module_name: str, name: str, error: Exception) -> str:
    """Return which class or module was meant, where one was named that is not there."""
    if isinstance(error, AttributeError) and module_name in sys.modules:
        there = vars(sys.modules[module_name]).items()
        return did_you_mean(name, [key for key, value in there if isinstance(value, type)])
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    package, _, last = error.name.rpartition(".")
    places = (
        vars(sys.modules[package]).get("__path__", ()) if package in sys.modules else [os.curdir]
    )
    return did_you_mean(last, [module.name for module in pkgutil.iter_modules(places)])


def _was_ours(module_name: str) -> bool:
    """Return whether a module of ours had this name when our folders were packages of their own.

    A module of the user's that has the name now is not ours.
    """
    root = module_name.partition(".")[0]
    if root not in ("pipeline", "stages", "models"):
        return False
    found = importlib.util.find_spec(root)
    here = Path(__file__).resolve().parents[2] / root
    return found is None or Path(found.origin or "").resolve().parent == here


def options_of(kind: Any, options: dict[str, Any]) -> Any:
    """Return a stage's options from plain data that was checked with the configuration."""
    return msgspec.convert(options, kind.Options)
