"""Stages, decoders and commands by dotted path: the engine imports neither stages nor models.

OURS is the one place of the engine that names them.
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

OURS: Final[Mapping[str, str]] = {
    # Stages that a run adds to the graph of its configuration.
    "certify": "framegate.stages.audit.certify:Certify",
    "collect": "framegate.stages.footage.collect:Collect",
    "events": "framegate.stages.events:Episodes",
    "replay_events": "framegate.stages.events.judge:replay",
    "save": "framegate.stages.draw.save:Save",
    "heard": "framegate.stages.sound:HeardSounds",
    "sound": "framegate.stages.sound:Sound",
    "shadow": "framegate.stages.shadow:Shadow",
    # What a run has to do with models: which its configuration means, which it has and keeps.
    "device_faults": "framegate.stages.commands.settle:device_faults",
    "devices_here": "framegate.models.detector.devices:devices_here",
    "replay": "framegate.stages.events.judge:replay",
    "registry": "framegate.models.registry.registry:Registry",
    "settle": "framegate.stages.commands.settle:settle",
    "labels_known": "framegate.stages.commands.settle:labels_known",
    "has_model": "framegate.stages.detect.run_models:has_model",
    "forget_models": "framegate.stages.detect.run_models:forget_models",
    # Sound.
    "sound_labels": "framegate.models.sound.network:labels",
    # Pictures of the HTTP port, and what makes one file of a range of a recording.
    "write_clip": "framegate.stages.decode.clip:write_clip",
    "write_blurred_clip": "framegate.stages.commands.blurred_clip:write_blurred_clip",
    "pictures": "framegate.stages.draw.pictures:Pictures",
    # Commands that need models or stages.
    "calibrate": "framegate.stages.commands.calibrate:tallied",
    "kept_frames": "framegate.stages.footage.kept:kept_frames",
    "learn_footage": "framegate.stages.commands.footage:KeptFootage",
    "heavy_looker": "framegate.stages.escalate.heavy_worker:HeavyLooker",
    "new_footage": "framegate.stages.commands.new_footage:new_footage",
    "models_add": "framegate.stages.commands.registry:add",
    "models_disagreements": "framegate.stages.shadow.disagreements:tell",
    "models_judge": "framegate.stages.commands.judge:judge",
    "models_list": "framegate.stages.commands.registry:list_models",
    "models_quantise": "framegate.stages.commands.quantise:quantise",
    "models_remove": "framegate.stages.commands.registry:remove",
    "models_show": "framegate.stages.commands.registry:show",
    "models_use": "framegate.stages.detect.run_models:choose",
    "train": "framegate.stages.commands.train:train",
    "tune": "framegate.stages.commands.tune:tune",
    "shipped_files": "framegate.models.detector.network:read",
    "verified": "framegate.models.detector.network:verified",
}


def ours(name: str) -> Any:
    """Return the class or function that OURS has under this name."""
    return load(OURS[name])


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
