"""The process of a run's sinks, and what keeps it alive.

It is apart from the supervisor so that no receiver, and no library that speaks to one, can hold up
or end a run; and from workers, which have frames to do. It may be killed at any moment: where its
sinks stand is in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.contracts.redaction import remember_url
from framegate.pipeline.contracts.spec import LogFormat, SourceSpec
from framegate.pipeline.engine import control
from framegate.pipeline.engine.child_line import ChildLine
from framegate.pipeline.engine.control import ControlLine, SetSources, SharedMemory, Stop
from framegate.pipeline.sinks.delivery import Away, CameraPictures, Delivery, Receiver
from framegate.pipeline.sinks.mqtt import KnownRule, Mqtt
from framegate.pipeline.sinks.notify import Notify
from framegate.pipeline.sinks.webhook import Webhook
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.connection import readable
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import die_with_parent_of, start_module
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.beside import look_at_sinks

log = logging.getLogger(__name__)

FINISH_S: Final = 5.0
REACH_S: Final = 5.0
PORTS: Final = {"http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
PATIENCE_S: Final = 8.0
AGAIN: Final = Backoff(first_s=0.2, most_s=30.0)
KILLED: Final = Backoff(first_s=0.2, most_s=1.0)  # by somebody else: it did nothing wrong
_STEADY_S: Final = 60.0  # a process that lived so long did not fail at its start


class SinksSpec(msgspec.Struct, frozen=True):
    """What the process is told.

    run    of which it tells episodes
    store  its URL
    rules  that are configured, by name
    http   HOST:PORT of the run, for pictures; None where it has none
    token  that is asked for there; empty: none
    """

    run: str
    store: str
    sinks: dict[str, SinkConfig]
    rules: dict[str, KnownRule] = {}
    http: str | None = None
    token: str = ""
    log_level: str = "INFO"
    log_format: LogFormat = "text"


def receiver_of(name: str, spec: SinksSpec) -> Receiver[Any]:
    """Return whom a sink tells. ConfigFaults if what it is configured with cannot be used."""
    config, pictures = spec.sinks[name], CameraPictures(spec.http, spec.token)
    if config.kind == "mqtt":
        return Mqtt(name, config, spec.run, spec.rules, pictures)
    if config.kind == "notify":
        return Notify(name, config, pictures)
    return Webhook(name, config, spec.run)


def reached(name: str, config: SinkConfig) -> str:
    """Return a line for `framegate check`: whether a receiver could be told; it is told nothing.

    ConfigFaults if it never could; Away if it is not there now.
    """
    receiver_of(name, SinksSpec("check", "", {name: config})).close()
    if config.kind == "notify":
        return "Apprise knows its services; none was asked"
    url = urlsplit(config.place(name))
    port = url.port or PORTS[url.scheme]
    try:
        socket.create_connection((url.hostname or "", port), REACH_S).close()
    except OSError as error:
        raise Away(f"{url.hostname}:{port} cannot be reached: {error}") from error
    return f"{url.hostname}:{port} can be reached"


class SinksProcess:
    """Keeps the process while `serve` runs. Lives in the supervisor's event loop."""

    def __init__(self, spec: SinksSpec) -> None:
        self._spec = spec
        self._sources: list[SourceSpec] = []
        self._line: ChildLine | None = None
        self._finishing = False
        self._finished = asyncio.Event()

    def take_sources(self, sources: list[SourceSpec]) -> None:
        """Tell of these from now on."""
        self._sources = sources
        if self._line is not None:
            self._line.tell(SetSources(sources))

    async def serve(self) -> None:
        """Start it, and again whenever it ends; for ever."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                code = await self._serve_once()
            except OSError as error:  # no memory, descriptor or process left for it now
                log.warning("the process of the sinks cannot start: %s; trying again", error)
                code = None
            if self._finishing and code == 0:
                self._finished.set()
                return
            failures = 1 if time.monotonic() - began > _STEADY_S else failures + 1
            if code is not None:
                log.warning("the process of the sinks ended (%s): another begins", code)
            pauses = KILLED if code == -signal.SIGKILL else AGAIN
            await asyncio.sleep(pauses.delay_s(failures, random.random()))

    async def _serve_once(self) -> int:
        ours, theirs = control.make_pair()
        try:
            words = (str(theirs.fileno()), str(os.getpid()))
            process = await start_module(
                "framegate.pipeline.sinks", *words, descriptors=(theirs.fileno(),)
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._line = ChildLine(
            ours, lambda _: None, lambda _: (SharedMemory("not for sinks"), None)
        )
        try:
            self._line.tell(SetSources(self._sources))
            if self._finishing:
                self._line.tell(Stop())
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(msgspec.json.encode(self._spec))
                await process.stdin.drain()
            process.stdin.close()
            return await process.wait()
        finally:
            self._line.close()
            self._line = None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def finish(self) -> None:
        """Let it tell what is there, if that is taken soon; then it ends."""
        self._finishing = True
        if self._line is not None:
            self._line.tell(Stop())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._finished.wait(), PATIENCE_S)


# -- the process itself


def main() -> int:
    """Control socket and parent as arguments; the spec on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor says when
    die_with_parent_of(int(sys.argv[2]))
    line = ControlLine(socket.socket(fileno=int(sys.argv[1])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=SinksSpec)
    set_up_logging(spec.log_level, "sinks", spec.log_format)
    remember_url(spec.store)
    try:
        deliveries = [
            Delivery(name, config, receiver_of(name, spec), spec.store)
            for name, config in spec.sinks.items()
        ]
    except ConfigFaults as error:  # what was right at the start is not any more
        log.error("%s", error)
        return int(error.exit)
    serve(line, deliveries)
    _tell_rest(spec, [source.name for source in line.sources or ()])
    return 0


def serve(line: ControlLine, deliveries: Sequence[Delivery[Any]]) -> None:
    """Hand on what the supervisor says, until it says to stop; then finish."""
    for delivery in deliveries:
        delivery.start()
    told: Mapping[str, int] | None = None
    while True:
        stops = isinstance(line.ordered, Stop)  # before a look at sources that were told before it
        past = {source.name: source.past for source in line.sources or ()}
        for delivery in deliveries:
            if past != told:
                delivery.take_sources(past)
            if stops:
                delivery.finish()
        told = past
        if stops:
            break
        readable([line.wake])
        os.eventfd_read(line.wake)
    ends = time.monotonic() + FINISH_S
    for delivery in deliveries:
        delivery.join(max(0.0, ends - time.monotonic()))


def _tell_rest(spec: SinksSpec, sources: Sequence[str]) -> None:
    """Say what is left to be told as the run ends."""
    with contextlib.suppress(FramegateError), store_errors(spec.store):
        with connect(spec.store) as client:
            views = look_at_sinks(client, list(spec.sinks), sources)
        for name in spec.sinks:
            if waiting := sum(view.waiting for view in views if view.sink == name):
                log.warning(
                    "sink %s: %d entries are not delivered yet; they stay in the store, and the "
                    "resumed run delivers them",
                    *(name, waiting),
                )
