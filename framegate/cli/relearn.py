"""Options of `tune` and `train`: learn again only if it is needed, and let runs use the model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framegate.cli.terminal import say
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.run.rpc import Use, ask, find_run
from framegate.stages.learning.choices import LEAST_NEW

if TYPE_CHECKING:
    from framegate.stages.learning.later_footage import NewFootage


def add_relearn(command: Any) -> None:
    """Add the options to a command with NAME, --from and --registry."""
    group = command.add_argument_group("repeated learning")
    group.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing unless there is no model NAME, or there is as much new footage as it "
        f"learned from, at least {LEAST_NEW} pictures",
    )
    group.add_argument(
        "--use",
        action="store_true",
        help="let the runs whose data folders are among the footage use the new model",
    )


def is_needed(parsed: argparse.Namespace) -> bool:
    """Print and return whether learning is needed; without --if-needed, it always is."""
    if parsed.use and not _folders(parsed.sources):
        raise ConfigFaults(
            ["--use needs a run: no --from is a run's data folder (DATA or DATA:SOURCE)"]
        )
    if not parsed.if_needed:
        return True
    from framegate.stages.learning.later_footage import new_footage

    footage = new_footage(parsed.name, tuple(parsed.sources), parsed.registry)
    why = reason(footage, parsed.name)
    if why:
        say(why, "needed: ")
    else:
        say(
            f"{parsed.name} learned from {footage.learned} pictures, {footage.new} are new",
            "nothing to do: ",
        )
    return bool(why)


def reason(footage: NewFootage, name: str) -> str:
    """Return why the model must be learned again; "" if that is not needed."""
    if footage.learned is None:
        return f"there is no model {name}"
    if footage.new >= max(footage.learned, LEAST_NEW):
        return f"{footage.new} pictures are new; it learned from {footage.learned}"
    return ""


def use_added(parsed: argparse.Namespace, ref: str) -> None:
    """Let the runs among the footage use an added model, for the sources that the footage is of."""
    from framegate.stages.detect.run_models import choose

    for folder, only in _folders(parsed.sources).items():
        run = Path(find_run(folder).folder)
        model = choose(ref, run, parsed.registry)
        ask(run, Use(model, sorted(only)))
        say(f"{model}, by {', '.join(sorted(only)) or 'all sources'} of {folder}", "in use: ")


def _folders(words: Sequence[str]) -> dict[Path, set[str]]:
    """Return the data folders among the footage, with the named sources; none named means all."""
    folders: dict[Path, set[str]] = {}
    for place in named_sources(words).values():
        folder, _, source = place.rpartition(":")
        if not Path(place).exists() and Path(folder).is_dir() and keys.is_name(source):
            folders.setdefault(Path(folder), set()).add(source)
        elif Path(place).is_dir():
            folders[Path(place)] = set()
    return folders
