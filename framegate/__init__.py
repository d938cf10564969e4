"""Framegate: streaming video analytics that computes only what is new.

This package is the public API. `framegate.pipeline`, `framegate.stages` and `framegate.models` may
change with every version, except for the names that a pipeline.toml can contain.

Read results    subscribe, Subscription, Result, Object, Output, Position, End
Run a pipeline  run, Run
Write a stage   Stage, Item, Context, NoOptions, NoState, WAITS; for large state and caches
                PlaneRef, RingRef
Write a source  Source, LiveSource, Frame, Form, Request
Test a stage    testing
Secrets         from_environment, for a stage that logs in somewhere
Errors          errors, all of them errors.FramegateError

A name is loaded when it is first used, so that a stage loads no Redis client and no NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from framegate import errors, testing
    from framegate._run import Run, run
    from framegate._subscribe import subscribe
    from framegate.pipeline.client import Subscription
    from framegate.pipeline.config.read_options import from_environment
    from framegate.pipeline.contracts.records import End, Position
    from framegate.pipeline.contracts.results import Object, Output, Result
    from framegate.pipeline.contracts.source import Form, Frame, LiveSource, Request, Source
    from framegate.pipeline.contracts.stage import (
        WAITS,
        Context,
        Item,
        NoOptions,
        NoState,
        PlaneRef,
        RingRef,
        Stage,
    )

__all__ = [
    "WAITS",
    "Context",
    "End",
    "Form",
    "Frame",
    "Item",
    "LiveSource",
    "NoOptions",
    "NoState",
    "Object",
    "Output",
    "PlaneRef",
    "Position",
    "Request",
    "Result",
    "RingRef",
    "Run",
    "Source",
    "Stage",
    "Subscription",
    "errors",
    "from_environment",
    "run",
    "subscribe",
    "testing",
]

_MODULES: Final = {
    "framegate._run": ("Run", "run"),
    "framegate._subscribe": ("subscribe",),
    "framegate.pipeline.client": ("Subscription",),
    "framegate.pipeline.config.read_options": ("from_environment",),
    "framegate.pipeline.contracts.records": ("End", "Position"),
    "framegate.pipeline.contracts.results": ("Object", "Output", "Result"),
    "framegate.pipeline.contracts.source": ("Form", "Frame", "LiveSource", "Request", "Source"),
    "framegate.pipeline.contracts.stage": (
        "WAITS", "Context", "Item", "NoOptions", "NoState", "PlaneRef", "RingRef",
        "Stage",
    ),
}  # fmt: skip
_MODULE_OF: Final[dict[str, str]] = {}
for _module, _names in _MODULES.items():
    _MODULE_OF.update(dict.fromkeys(_names, _module))

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in ("errors", "testing"):
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value  # the next use does not come here
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
