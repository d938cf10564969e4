"""`framegate models shadow | disagreements`: another model beside the one that serves."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from framegate.pipeline.cli.models_use import CHOOSE, NICE, named
from framegate.pipeline.config.config import url_said
from framegate.pipeline.errors import ConfigFaults, Exit
from framegate.pipeline.keys import SHADOW
from framegate.pipeline.loading import load
from framegate.pipeline.outputs import add_overwrite
from framegate.pipeline.run.rpc import LookBeside, ask, find_run
from framegate.pipeline.store.retention import side_outputs

TELL = "framegate.stages.shadow.disagreements:tell"


def register(commands: Any) -> None:
    """Add the commands to `framegate models`."""
    _add_shadow(commands)
    told = commands.add_parser(
        "disagreements",
        help="where the other model says something else",
        description="How far the two agree, what the other costs, and the last frames of each "
        "source in which they differ.",
    )
    told.set_defaults(command=_disagreements)
    told.add_argument("model", metavar="MODEL", nargs="?", help="of which (default: the last one)")
    told.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    add_overwrite(told)
    told.add_argument("--sources", metavar="A,B", help="of these only")
    told.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    told.add_argument("--store", metavar="URL", help="the run's store (default: found by the run)")


def _add_shadow(commands: Any) -> None:
    shadow = commands.add_parser(
        "shadow",
        help="have another model look beside the one that serves",
        description="A process of its own looks at some of the frames, steps back behind the run "
        "for the CPU, and keeps the frames in which it says something else; nothing that is served "
        "changes. It ends with the run, or with --off.",
    )
    shadow.set_defaults(command=_shadow)
    shadow.add_argument("model", metavar="MODEL", nargs="?", help="as for use")
    shadow.add_argument("--off", action="store_true", help="no longer")
    shadow.add_argument(
        "--share", type=float, default=0.1, metavar="S", help="of frames, at most (0.1)"
    )
    shadow.add_argument(
        "--cpu", type=float, default=0.1, metavar="S", help="of one core, at most (0.1)"
    )
    shadow.add_argument("--sources", metavar="A,B", help="of these only (default: all)")
    shadow.add_argument("--registry", type=Path, metavar="DIR", help="folder of the models")
    shadow.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def _shadow(parsed: argparse.Namespace) -> Exit:
    if parsed.off is (parsed.model is not None):
        raise ConfigFaults(["shadow: name a model, or say --off"])
    folder = Path(find_run(parsed.data).folder)
    if parsed.off:
        ask(folder, LookBeside({}))
        print("nobody looks beside")
        return Exit.DONE
    for key, most in (("share", 1.0), ("cpu", 64.0)):
        if not 0 < getattr(parsed, key) <= most:
            raise ConfigFaults([f"--{key} {getattr(parsed, key)}: allowed is up to {most:g}"])
    os.nice(NICE)
    model: str = load(CHOOSE)(parsed.model, folder, parsed.registry)
    said = {"model": model, "share": parsed.share, "cpu": parsed.cpu}
    ask(folder, LookBeside({**said, "sources": named(parsed.sources)}))
    print(f"looks beside: {model}")
    return Exit.DONE


def _disagreements(parsed: argparse.Namespace) -> Exit:
    url = url_said(parsed.store) or find_run(parsed.data).store
    said = side_outputs(url, SHADOW, named(parsed.sources))
    load(TELL)(said, parsed.model, parsed.html, parsed.overwrite)
    return Exit.DONE
