"""`framegate models use | rollback`: other models for a run that goes on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from framegate.pipeline.errors import Exit
from framegate.pipeline.loading import load
from framegate.pipeline.run.rpc import RollBack, Use, ask, find_run

NICE = 19  # the run's own work goes first
CHOOSE = "framegate.stages.detect.choosing:choose"


def register(commands: Any) -> None:
    """Add the commands to `framegate models`."""
    use = commands.add_parser(
        "use",
        help="have a run's sources looked at by another model",
        description="The model is loaded, compiled, warmed up and checked beside the one in use; "
        "then it takes over between two frames, none is lost. A model that fails on the way is "
        "refused and changes nothing. The run keeps to it over each --resume.",
    )
    use.set_defaults(command=_use)
    use.add_argument("model", metavar="MODEL", help="NAME, NAME@VERSION, NAME@DIGEST, or light")
    use.add_argument("--registry", type=Path, metavar="DIR", help="folder of the models")
    back = commands.add_parser(
        "rollback",
        help="go back to the model before",
        description="At once: the model before stays warm for ten minutes.",
    )
    back.set_defaults(command=_roll_back)
    for command in (use, back):
        command.add_argument(
            "-d", dest="data", type=Path, metavar="DATA", help="the run's data folder"
        )
        command.add_argument(
            "--sources",
            metavar="A,B",
            help="for these only, so that others stay as they are (default: all)",
        )


def named(said: str | None) -> list[str]:
    """Sources of a comma-separated list; none for None."""
    return [name.strip() for name in (said or "").split(",") if name.strip()]


def _use(parsed: argparse.Namespace) -> Exit:
    folder = Path(find_run(parsed.data).folder)
    os.nice(NICE)
    model: str = load(CHOOSE)(parsed.model, folder, parsed.registry)
    ask(folder, Use(model, named(parsed.sources)))
    print(f"in use: {model}")
    return Exit.DONE


def _roll_back(parsed: argparse.Namespace) -> Exit:
    ask(Path(find_run(parsed.data).folder), RollBack(named(parsed.sources)))
    print("rolled back")
    return Exit.DONE
