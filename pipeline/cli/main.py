"""The command line."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from framegate.pipeline.cli import check, doctor, models, promise, run, sources, watch, worker
from framegate.pipeline.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.logs import set_up_logging, to_user
from framegate.pipeline.redaction import redacted


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
        epilog=run.EXITS,
    )
    top.add_argument("--version", action="version", version=f"framegate {version('framegate')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, sources, watch, check, promise, doctor, worker, models):
        command.register(commands)
    return top
