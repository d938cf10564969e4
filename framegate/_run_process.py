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
from typing import Final, NoReturn

import msgspec

from framegate._run import DRAIN_S, STOP_S, Began, Ended, Wanted
from framegate.pipeline.config.config import COMMAND_LINE, HttpConfig, find_config, read_config
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.run.folder import read_run
from framegate.pipeline.run.run import run
from framegate.pipeline.run.run_processes import RunOptions
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import leave


def main() -> int:
    """Run as the program wants, report the end to it, and return the exit code."""
    program = socket.socket(fileno=int(sys.argv[1]))
    program_id = int(sys.argv[2])
    signal.signal(signal.SIGTERM, _exit)  # until the run sets its own handler
    with program.makefile("rb") as lines:
        request = lines.readline()
    if not request:
        return Exit.DONE  # the program has ended
    threading.Thread(target=_end_with, args=(program, program_id), daemon=True).start()
    wanted = msgspec.json.decode(request, type=Wanted)
    try:
        ended = Ended(_run(wanted, program))
    except ConfigFaults as error:
        ended = Ended(error.exit, faults=[_in_python(fault) for fault in error.faults])
    except FramegateError as error:
        ended = Ended(error.exit, _in_python(str(error)))
    finally:
        if wanted.is_temporary:
            shutil.rmtree(wanted.folder, ignore_errors=True)
    _send(program, ended)
    return ended.exit


def _run(wanted: Wanted, program: socket.socket) -> Exit:
    set_up_logging("WARNING", "run")
    file = None if wanted.config is None else Path(wanted.config)
    origin, text = find_config(file)
    named = named_sources(wanted.named)
    sources = {name: {"url": place} for name, place in named.items()}
    tables = {**wanted.tables, "sources": {**wanted.tables.get("sources", {}), **sources}}
    config = read_config(origin, text, tables)
    has_run = wanted.resume and read_run(Path(wanted.folder)) is not None
    if not config.sources and not has_run:
        raise ConfigFaults(['no source; pass one, for example: run({"door": "rtsp://..."})'])
    if config.http.listen is None:
        config = replace(config, http=HttpConfig("off"))
    set_up_logging(config.log.level, "run", config.log.format)

    def began(url: str, specs: Sequence[SourceSpec]) -> None:
        _send(program, Began(url, {spec.name: spec.past for spec in specs}))

    options = RunOptions(
        folder=Path(wanted.folder),
        resume=wanted.resume,
        take_over=wanted.take_over,
        pace=wanted.pace,
        named=frozenset(named),
        began=began,
    )
    return run(config, options)


_ARGUMENTS: Final = (
    ("another folder with -d", "another folder"),
    ("another -d", "another folder"),
    ("a shorter -d", "a shorter folder"),
    ("--resume", "resume=True"),
    ("--take-over", "take_over=True"),
    (" (--http)", ""),
    ("on the command line", "in the arguments"),
    (f"{COMMAND_LINE}:", "arguments:"),
)


def _in_python(fault: str) -> str:
    """Return a fault with the arguments of `framegate.run` for the options of the command line."""
    for option, argument in _ARGUMENTS:
        fault = fault.replace(option, argument)
    return fault


def _send(program: socket.socket, message: Began | Ended) -> None:
    with contextlib.suppress(OSError):  # the program has ended
        program.sendall(msgspec.json.encode(message) + b"\n")


def _end_with(program: socket.socket, program_id: int) -> None:
    """Drain the run when the program shuts its socket down or ends; after DRAIN_S, stop it at once.

    The process is watched as well as the socket, because a fork of the program can keep the socket
    open.
    """
    poll = select.poll()
    poll.register(program, select.POLLIN)
    with contextlib.suppress(OSError):  # the program has ended, or the kernel has no pidfd
        poll.register(os.pidfd_open(program_id), select.POLLIN)
    poll.poll()
    for patience_s in (DRAIN_S, STOP_S):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(patience_s)
    os.kill(os.getpid(), signal.SIGKILL)  # workers and store die with it


def _exit(number: int, frame: object) -> NoReturn:  # noqa: ARG001
    sys.exit(Exit.DONE)


if __name__ == "__main__":
    leave(main())
