"""The child process of `framegate.run`: its arguments are a socket and the program's process id."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec

from framegate._run import DRAIN_S, STOP_S, Began, Ended, Wanted
from framegate.pipeline.config.config import HttpConfig, find_config, read_config
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.run.models import ModelFunctions
from framegate.pipeline.run.run import RunOptions, run
from framegate.pipeline.system.logs import set_up_logging


def main() -> int:
    """Run what the program wants until its sources are done with and it says so; the exit code."""
    line, program = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGTERM, _leave)  # until the run takes it
    with line.makefile("rb") as lines:
        said = lines.readline()
    if not said:
        return Exit.DONE  # the program is gone
    threading.Thread(target=_end_with, args=(line, program), daemon=True).start()
    wanted = msgspec.json.decode(said, type=Wanted)
    try:
        code = _run(wanted, line)
        ended = Ended(code)
    except ConfigFaults as error:
        code, ended = error.exit, Ended(error.exit, faults=error.faults)
    except FramegateError as error:
        code, ended = error.exit, Ended(error.exit, str(error))
    finally:
        if wanted.is_temporary:
            shutil.rmtree(wanted.folder, ignore_errors=True)
    _say(line, ended)
    return code


def _run(wanted: Wanted, line: socket.socket) -> Exit:
    set_up_logging("WARNING", "run")
    origin, text = find_config(None if wanted.config is None else Path(wanted.config))
    named = named_sources(wanted.named)
    sources = {name: {"url": place} for name, place in named.items()}
    tables = {**wanted.tables, "sources": {**wanted.tables.get("sources", {}), **sources}}
    config = read_config(origin, text, tables)
    if config.http.listen is None:
        config = replace(config, http=HttpConfig("off"))
    set_up_logging(config.log.level, "run", config.log.format)

    def began(url: str, specs: Sequence[SourceSpec]) -> None:
        _say(line, Began(url, {spec.name: spec.past for spec in specs}))

    options = RunOptions(
        models=_model_functions,
        folder=Path(wanted.folder),
        resume=wanted.resume,
        take_over=wanted.take_over,
        pace=wanted.pace,
        named=frozenset(named),
        began=began,
    )
    return run(config, options)


def _model_functions() -> ModelFunctions:
    from framegate.stages.escalate.configured_models import FUNCTIONS

    return FUNCTIONS


def _say(line: socket.socket, message: Began | Ended) -> None:
    with contextlib.suppress(OSError):  # the program is gone
        line.sendall(msgspec.json.encode(message) + b"\n")


def _end_with(line: socket.socket, program: int) -> None:
    """Drain the run once the program says so or is gone; if that takes too long, end it at once."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    with contextlib.suppress(OSError):  # it is gone; or a system without such descriptors
        # A fork of the program may hold its end of the line open, but not its process.
        poll.register(os.pidfd_open(program), select.POLLIN)
    poll.poll()
    for patience_s in (DRAIN_S, STOP_S):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(patience_s)
    os.kill(os.getpid(), signal.SIGKILL)  # workers and store die with it


def _leave(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(Exit.DONE)


if __name__ == "__main__":
    sys.exit(main())
