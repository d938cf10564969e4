"""`framegate remove`: a run that goes on lets sources go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from framegate.pipeline.errors import Exit
from framegate.pipeline.run.rpc import Remove, ask, find_run


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "remove",
        help="remove sources from a run that goes on",
        description="The run decodes them no further and finishes what is decoded; then they are "
        "free for others. Their results stay in the store. Waits until that is done.",
    )
    command.set_defaults(command=_remove)
    command.add_argument("sources", nargs="+", metavar="NAME", help="names of sources")
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def _remove(parsed: argparse.Namespace) -> Exit:
    run = find_run(parsed.data)
    names = list(dict.fromkeys(parsed.sources))
    ask(Path(run.folder), Remove(names))
    print(f"removed: {', '.join(names)}")
    return Exit.DONE
