"""The command line."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from framegate.pipeline.cli import models, promise, sources, worker
from framegate.pipeline.cli.check import check
from framegate.pipeline.cli.doctor import doctor
from framegate.pipeline.cli.watch import snapshot, watch
from framegate.pipeline.config.config import Config, find_config, read_config, store_said, url_said
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.logs import set_up_logging, to_user
from framegate.pipeline.outputs import add_overwrite
from framegate.pipeline.redaction import redacted
from framegate.pipeline.run.folder import runs_folder
from framegate.pipeline.run.run import RunOptions, run

_EXITS = """\
exit codes: 0 done, 1 a source failed, 2 usage or configuration, 3 store, 75 another run took over,
130 stopped twice"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    sys.path.insert(0, os.getcwd())  # a user's own stages lie beside their pipeline.toml
    parsed = _parsed(arguments)
    name = parsed.command.__name__.strip("_")
    set_up_logging("WARNING", name, getattr(parsed, "log_format", None) or "text")
    try:
        code: Exit = parsed.command(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1  # as rich does, and Python's manual advises
    except ConfigFaults as faults:
        for fault in faults.faults:
            to_user.error("%s", fault)
        return Exit.USAGE
    except FramegateError as error:
        to_user.error("%s", error)
        return error.exit
    except KeyboardInterrupt:
        return Exit.STOPPED_TWICE
    return code


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader (head, say) has seen enough."""
    polled = select.poll()
    polled.register(sys.stdout, 0)
    return bool(polled.poll(0))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; sources may stand before, between and after options."""
    top = parser()
    parsed, rest = top.parse_known_args(arguments)
    if rest and ("sources" not in parsed or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.sources += rest
    return parsed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse the command line; a word of it may be a URL with a password."""
        super().error(redacted(message))


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="framegate",
        description="Turns video files and cameras into streams of results, and never loses or "
        "doubles one.",
        epilog=_EXITS,
    )
    top.add_argument("--version", action="version", version=f"framegate {version('framegate')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    sources.register(commands)
    _add_watch(commands)
    _add_snapshot(commands)
    _add_check(commands)
    promise.register(commands)
    _add_doctor(commands)
    worker.register(commands)
    models.register(commands)
    return top


def _add_run(commands: Any) -> None:
    command = commands.add_parser(
        "run",
        help="run sources through the pipeline until they end",
        description="Decodes each source, detects and tracks objects in it, and publishes one "
        "result a frame. Ctrl-C finishes what is decoded and ends; a second one ends at once.",
        epilog=_EXITS,
    )
    command.set_defaults(command=_run)
    _add_sources(command)
    _add_config(command)
    command.add_argument("--json", action="store_true", help="print one result a line on stdout")
    command.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write an annotated video of each source there, NAME.framegate.mp4",
    )
    add_overwrite(command)
    command.add_argument(
        "--draw",
        choices=("gate",),
        help="into these videos, snapshots and the live page: what changed, where the network "
        "looked and why, and how small a change is seen",
    )
    command.add_argument(
        "--pace", choices=("realtime", "fast"), help="as its time stamps say, or as fast as it goes"
    )
    command.add_argument(
        "-d", dest="data", type=Path, metavar="DATA", help="data folder (default: a new one)"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with the run in DATA where it stopped"
    )
    command.add_argument(
        "--take-over",
        action="store_true",
        help="take sources that another run owns, unless it took them from this one",
    )


def _add_watch(commands: Any) -> None:
    command = commands.add_parser(
        "watch",
        help="show a run from another terminal",
        description="A live table of a run's sources: state, frames a second, latency, objects, "
        "drops.",
    )
    command.set_defaults(command=_watch)
    command.add_argument("sources", nargs="*", metavar="NAME", help="sources (default: all)")
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    command.add_argument("--store", metavar="URL", help="the run's store, or env:NAME; not with -d")
    command.add_argument("--json", action="store_true", help="one line of JSON a second")
    command.add_argument("--once", action="store_true", help="show once and end")


def _add_snapshot(commands: Any) -> None:
    command = commands.add_parser(
        "snapshot",
        help="a picture of what a source of a run sees now",
        description="Writes what was published last of a source as a JPEG, with its objects drawn. "
        "It asks the run's HTTP port.",
    )
    command.set_defaults(command=_snapshot)
    command.add_argument("source", metavar="NAME", help="the source")
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")
    command.add_argument(
        "-o", dest="file", type=Path, metavar="FILE", help="default: NAME.jpg; -: standard output"
    )
    command.add_argument("--plain", action="store_true", help="without boxes and labels")
    add_overwrite(command)


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        help="check configuration, sources and this machine; start nothing",
        description="Checks the whole configuration, opens each source, the model, the store and "
        "shared memory, draws the graph, and measures what this machine can hold.",
    )
    command.set_defaults(command=_check)
    _add_sources(command)
    command.add_argument(
        "--save", type=Path, metavar="DIR", help="as for run: whether its videos can be written"
    )
    add_overwrite(command)
    _add_config(command)


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="say what this machine lacks to run Framegate, and how to get it",
        description="Looks at Python, packages, models, store, memory, disk, clock and devices. "
        "Exit code 1 if something is missing.",
    )
    command.set_defaults(command=_doctor)
    command.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration")
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="data folder to be")
    command.add_argument("--json", action="store_true", help="a JSON list on stdout")


def _add_sources(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="file, glob or URL, or NAME=one of them; more to those in the configuration",
    )


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration")
    command.add_argument(
        "--store",
        metavar="URL",
        help="your Redis or Valkey (default: embedded); env:NAME for a variable that holds the URL",
    )
    command.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="let the embedded store listen there, too, for a user who may only read results",
    )
    command.add_argument(
        "--listen-password-file",
        metavar="FILE",
        help="that user's password (default: in FRAMEGATE_LISTEN_PASSWORD, or asked for)",
    )
    command.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="metrics, health and live page (default: 127.0.0.1:8686, or a free port); off",
    )
    command.add_argument(
        "--detector", metavar="MODEL", help="light, heavy, nanodet-SIDE or a model of yours"
    )
    command.add_argument("--classes", metavar="A,B", help="labels to look for (default: all)")
    command.add_argument("--min-score", type=float, metavar="S", help="least score, 0 to 1")
    command.add_argument("--log-format", choices=("text", "json"), help="of what goes to stderr")


def _changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, in the form of configuration tables."""
    changes: dict[str, Any] = {}
    store = store_said(parsed.store, parsed.listen, parsed.listen_password_file)
    if store:
        changes["store"] = store
    if parsed.http is not None:
        changes["http"] = {"listen": parsed.http}
    named = named_sources(parsed.sources)
    changes["sources"] = {name: {"url": url} for name, url in named.items()}
    if parsed.log_format is not None:
        changes["log"] = {"format": parsed.log_format}
    if getattr(parsed, "draw", None) == "gate":
        changes["gate"] = {"view": True}
    return changes


def _detection(parsed: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of detection, as options of the stage that uses models."""
    said: dict[str, Any] = {}
    if parsed.detector:
        said["detector"] = parsed.detector
    if parsed.classes is not None:
        said["classes"] = [name.strip() for name in parsed.classes.split(",") if name.strip()]
    if parsed.min_score is not None:
        said["min_score"] = parsed.min_score
    return said


def _config(parsed: argparse.Namespace) -> tuple[str, Config]:
    """Where the configuration is from, and what it and the command line say."""
    origin, text = find_config(parsed.config)
    return origin, read_config(origin, text, _changes(parsed), _detection(parsed))


def _run(parsed: argparse.Namespace) -> Exit:
    origin, config = _config(parsed)
    set_up_logging(config.log.level, "run", config.log.format)
    if not config.sources and not parsed.resume:
        raise ConfigFaults(["no source: name one, for example: framegate run clip.mp4"])
    if parsed.take_over and parsed.data is None:
        raise ConfigFaults(
            ["--take-over: needs -d DATA: a run that is taken over is known again by its folder"]
        )
    to_user.info("configuration from %s", origin)
    options = RunOptions(
        folder=parsed.data,
        resume=parsed.resume,
        take_over=parsed.take_over,
        json=parsed.json,
        save=parsed.save,
        overwrite=parsed.overwrite,
        pace=parsed.pace,
        named=frozenset(named_sources(parsed.sources)),
    )
    return run(config, options)


def _watch(parsed: argparse.Namespace) -> Exit:
    return watch(url_said(parsed.store), parsed.data, parsed.sources, parsed.json, parsed.once)


def _snapshot(parsed: argparse.Namespace) -> Exit:
    return snapshot(parsed.source, parsed.data, parsed.file, parsed.plain, parsed.overwrite)


def _check(parsed: argparse.Namespace) -> Exit:
    return check(_config(parsed)[1], parsed.save, parsed.overwrite)


def _doctor(parsed: argparse.Namespace) -> Exit:
    origin, text = find_config(parsed.config)
    return doctor(read_config(origin, text), parsed.data or runs_folder(), parsed.json)
