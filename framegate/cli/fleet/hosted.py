"""A process that an engine keeps on a host: a slot of a fleet, or a heavy worker.

The engine passes its name only. The host adds the options, which have no secrets, and a file of
variables, which the process alone gets. The process is restarted here, so also while the engine
has no head; the engine replaces a host that is lost.
"""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from framegate.pipeline.config.read_options import variables_in
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.fleet.plan import FleetPlan
from framegate.pipeline.system.process import die_with_parent_of, leave, trace_crashes
from framegate.pipeline.system.retry import Backoff

HOST: Final = "FRAMEGATE_HOST"  # variable with the HostOptions of this host, as JSON
END_S: Final = 60.0  # a process that ends gets this long to finish its frames
_REST: Final = Backoff(first_s=2.0, most_s=30.0)
_LOG_BYTES: Final = 1 << 20
_CHILD: Final = "import sys; from framegate.cli.fleet.hosted import serve; serve(*sys.argv[1:])"


def actors_of(plan: FleetPlan, heavy: int) -> dict[str, dict[str, Any]]:
    """Return the wanted actors, by name, with what each needs of its host.

    A slot of another size is another actor, so a change of its cores places it again. Ray has parts
    of one core only, so cores above 1 are rounded up.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for slot, room in plan.slots.items():
        needed = room.cores
        if needed > 1:
            needed = math.ceil(needed)
        wanted[f"slot/{slot}/{room.cores:g}"] = {"num_cpus": needed}
    for number in range(1, heavy + 1):
        wanted[f"heavy/{number}"] = {"num_cpus": 0, "resources": {"gpu": 1}}
    return wanted


class HostOptions(msgspec.Struct, frozen=True):
    """The options that all processes of a host share.

    data       folder of the data folders and logs
    store      the store as env:NAME
    variables  file with the variables of the processes, such as NAME
    run        further options of framegate run
    """

    data: str
    store: str
    variables: str
    run: list[str]


def words_of(name: str, host: HostOptions) -> list[str]:
    """Return the command line of a process. name: slot/NAME/CORES or heavy/NUMBER"""
    kind, which, *_ = name.split("/")
    if kind == "slot":
        place = ["-d", f"{host.data}/{which}", "--store", host.store]
        return ["run", "--slot", which, *place, *host.run]
    return ["worker", "--heavy", "--redis", host.store]


class HostedProcess:
    """Keeps a process alive on its host, while this object and its process live."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        # The kernel ends the process with the thread that started it, so this one never ends.
        threading.Thread(target=self._keep, daemon=True).start()

    def end(self) -> None:
        """End the process as SIGTERM does: it finishes its decoded frames."""
        self._ending.set()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(END_S)

    def _keep(self) -> None:
        host = msgspec.json.decode(os.environ[HOST], type=HostOptions)
        kind, which, *_ = self._name.split("/")
        place = f"{host.data}/{kind}-{which}.log"
        log = RotatingFileHandler(place, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
        words = words_of(self._name, host)
        failures = 0
        while not self._ending.wait(_REST.delay_s(failures, random.random()) * bool(failures)):
            started = time.monotonic()
            try:
                self._serve(words, Path(host.variables), log)
            except (OSError, ValueError, FramegateError) as error:
                log.emit(logging.makeLogRecord({"msg": f"{host.variables}: {error}"}))
            failures += 1
            if time.monotonic() - started > 2 * _REST.most_s:
                failures = 0  # at once

    def _serve(self, words: Sequence[str], variables: Path, log: logging.Handler) -> None:
        """Run the process until it ends."""
        secrets = variables_in(variables.read_text(encoding="utf-8"))
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        plain.pop("OMP_NUM_THREADS", None)  # Ray sets it to the cores of the actor
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(os.getpid()), *words],
            env=plain | secrets,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        if self._ending.is_set():
            self._process.terminate()
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                log.emit(logging.makeLogRecord({"msg": line.rstrip()}))
        self._process.wait()


def serve(parent: str, *words: str) -> NoReturn:
    """Run a command in this process, which ends when its parent does."""
    die_with_parent_of(int(parent))
    trace_crashes()
    from framegate.cli.main import main

    leave(main(words))
