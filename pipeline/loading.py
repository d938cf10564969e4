"""Stages and decoders by dotted path: the engine imports neither stages nor models by name."""

from __future__ import annotations

import importlib
from typing import Any, Final

from pipeline.errors import ConfigFaults

DETECT: Final = "stages.detect:Detect"  # where its options are to be found, whatever it is called


def load(use: str) -> Any:
    """The class at `package.module:Class`. ConfigFaults if it is not there."""
    module_name, _, name = use.partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except Exception as error:  # a user's module may raise anything
        what = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
        raise ConfigFaults(
            [f"use = {use!r}: {what}; allowed is package.module:Class that Python can import"]
        ) from error
