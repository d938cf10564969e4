"""`framegate add`: more sources for a run that goes on."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from framegate.pipeline.config.config import SourceConfig
from framegate.pipeline.config.sources import frames_of, named_sources
from framegate.pipeline.errors import ConfigFaults, Exit
from framegate.pipeline.run.folder import RunSource
from framegate.pipeline.run.rpc import Add, ask, find_run
from framegate.pipeline.run.sources import file_faults, run_source


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "add",
        help="add sources to a run that goes on",
        description="The run serves them as well, from now on and after each --resume, until "
        "they are removed. All are added, or none.",
    )
    command.set_defaults(command=_add)
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="file, glob or URL, or NAME=one of them; NAME=- reads a URL from standard input, so "
        "that its password stands on no command line",
    )
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    command.add_argument("--transport", choices=("tcp", "udp"), default="tcp", help="of RTSP")
    command.add_argument(
        "--frames",
        default="all",
        metavar="WHICH",
        help="which frames: all, keyframes, every=N or max_fps=F (default: all)",
    )
    command.add_argument(
        "--pace", choices=("realtime", "fast"), default="fast", help="of files; see run"
    )
    command.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="take them for cameras, or not (default: as their URLs look)",
    )
    command.add_argument(
        "--take-over", action="store_true", help="take sources that another run owns"
    )


def _add(parsed: argparse.Namespace) -> Exit:
    try:
        frames_of(parsed.frames)
    except ValueError as error:
        raise ConfigFaults([f"--frames {parsed.frames}: {error}"]) from error
    run = find_run(parsed.data)
    sources = [
        _source(name, _typed(name) if place == "-" else place, parsed)
        for name, place in named_sources(parsed.sources).items()
    ]
    if faults := file_faults(sources):
        raise ConfigFaults(list(faults.values()))
    ask(Path(run.folder), Add(sources, parsed.take_over))
    print(f"added: {', '.join(source.name for source in sources)}")
    return Exit.DONE


def _source(name: str, place: str, parsed: argparse.Namespace) -> RunSource:
    said = SourceConfig(
        url=place,
        pace=parsed.pace,
        live=parsed.live,
        transport=parsed.transport,
        frames=parsed.frames,
    )
    return run_source(name, said, by="add")


def _typed(name: str) -> str:
    """A URL from standard input; a terminal does not show it."""
    prompt = f"URL of {name}: "
    typed = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()
    if not typed.strip():
        raise ConfigFaults([f"source {name}: standard input gave no URL"])
    return typed.strip()
