"""The process of a run's sinks, and its owner in the supervisor.

Sinks have a process of their own so that no receiver and no client library can delay the
supervisor or a worker. It may be killed at any moment, because the store has the positions.
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
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from framegate.pipeline.config.sinks import SinkConfig, episode_sinks
from framegate.pipeline.config.switches import AskConfig
from framegate.pipeline.contracts.errors import FramegateError, RequestRefused
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigRequest,
    EditableConfig,
    GetConfig,
)
from framegate.pipeline.contracts.redaction import redacted, remember_url
from framegate.pipeline.contracts.spec import LogFormat, SourceSpec
from framegate.pipeline.engine.child_line import ChildLine, give_spec, start_child
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import (
    AnyRequest,
    GetStatus,
    SetSources,
    SharedMemory,
    Stop,
)
from framegate.pipeline.sinks.delivery import (
    CameraPictures,
    Delivery,
    Receiver,
    ReceiverUnavailable,
)
from framegate.pipeline.sinks.heartbeat import Heartbeat, RunHealth
from framegate.pipeline.sinks.kafka import Kafka
from framegate.pipeline.sinks.mqtt import KnownRule, Mqtt, Profiles
from framegate.pipeline.sinks.mqtt_commands import MqttCommands
from framegate.pipeline.sinks.notify import Notify
from framegate.pipeline.sinks.webhook import Webhook
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.store.worker_connections import readable
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.process import die_with_parent_of, exit_in_words, leave
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.recording_sound_sinks import look_at_sinks
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

FINISH_S: Final = 5.0  # time for the last deliveries of a run
CONNECT_S: Final = 5.0
ASK_S: Final = 5.0  # for a command that the supervisor carries out
PORTS: Final = {
    "http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883, "kafka": 9092, "kafkas": 9093,
}  # fmt: skip
EXIT_S: Final = 8.0  # time for the process to end: FINISH_S, and the exit itself
RESTART: Final = Backoff(first_s=0.2, most_s=30.0)
KILLED: Final = Backoff(first_s=0.2, most_s=1.0)  # an external kill is no fault of the process
AGAIN_S: Final = 60.0  # until a sink that cannot start is tried again
_STEADY_S: Final = 60.0  # a process that lived longer resets the count of failures


class SinksSpec(msgspec.Struct, frozen=True):
    """The specification of the process, as JSON on its standard input.

    run    id of the run
    teller  id in the messages of webhooks and Kafka: that of the run, or of the store if the run is
            a slot of a fleet, because another slot may repeat a message
    store  URL of the store
    added  for each sink that was added during the run: the sources of that time, of which it gets
           what happens from then on
    rules  configured rules, by name
    profile, profiles  selected profile ("": by schedules), and the names of all
    http   HOST:PORT of the run, for pictures; None: it has no port
    token  bearer token of that port; empty: it asks for none
    """

    run: str
    teller: str
    store: str
    sinks: dict[str, SinkConfig]
    added: dict[str, tuple[str, ...]] = {}
    rules: dict[str, KnownRule] = {}
    profile: str = ""
    profiles: tuple[str, ...] = ()
    http: str | None = None
    token: str = ""
    log_level: str = "INFO"
    log_format: LogFormat = "text"


def receiver_of(name: str, spec: SinksSpec, ask: AskConfig | None = None) -> Receiver[Any]:
    """Return the receiver of a sink that gets episodes. ConfigFaults.

    ask  asks the supervisor to change the configuration; None: commands are not carried out
    """
    config = spec.sinks[name]
    pictures = CameraPictures(spec.http, spec.token)
    if config.kind == "mqtt":
        commands = None
        if config.commands and ask is not None:
            commands = MqttCommands(name, config.topic, ask)
        profiles = Profiles(spec.profile, spec.profiles)
        return Mqtt(name, config, spec.run, spec.rules, pictures, spec.store, profiles, commands)
    if config.kind == "notify":
        return Notify(name, config, pictures)
    if config.kind == "kafka":
        return Kafka(name, config, spec.teller)
    return Webhook(name, config, spec.teller)


def check_receiver(name: str, config: SinkConfig) -> str:
    """Return a line for `framegate check` about a receiver, which gets no message.

    Raises ConfigFaults if the configuration cannot be used, and ReceiverUnavailable if the host
    cannot be reached.
    """
    if config.kind != "heartbeat":
        receiver_of(name, SinksSpec("check", "check", "", {name: config})).close()
    if config.kind == "notify":
        return "Apprise knows all services of its URLs; no connection was tried"
    url = urlsplit(config.place(name))
    port = url.port or PORTS[url.scheme]
    try:
        socket.create_connection((url.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        why = f"{url.hostname}:{port} cannot be reached: {error}"
        raise ReceiverUnavailable(why) from error
    return f"{url.hostname}:{port} can be reached"


class SinksProcess:
    """The owner of the sinks' process, which runs while `serve` does and there are sinks.

    It lives in the supervisor's event loop.
    """

    def __init__(
        self,
        spec: SinksSpec,
        config: Callable[[ConfigRequest], Awaitable[EditableConfig]],
        status: Callable[[], Awaitable[RunStatus]],
    ) -> None:
        """Keep the parts.

        config  answers requests about the configuration
        status  returns the state of the run, for heartbeats
        """
        self._spec = spec
        self._config = config
        self._status = status
        self._sources: list[SourceSpec] = []
        self._line: ChildLine | None = None
        self._is_finishing = False
        self._has_finished = asyncio.Event()
        self._changed = asyncio.Event()  # `_spec` is newer than that of the process

    def take_sources(self, sources: list[SourceSpec]) -> None:
        """Deliver episodes of these sources from now on."""
        self._sources = sources
        if self._line is not None:
            self._line.tell(SetSources(sources))

    def use(
        self,
        sinks: Mapping[str, SinkConfig],
        rules: Mapping[str, KnownRule],
        profiles: Profiles,
    ) -> None:
        """Deliver to these sinks from now on. A sink that stays continues after its position; a new
        one begins with what happens from now on.

        The process delivers what it has begun and ends; the next one has the new sinks.
        """
        if not any(sink.commands for sink in sinks.values()):
            profiles = Profiles()  # no sink shows them, so a switch does not restart the process
        names = tuple(source.name for source in self._sources)
        added = {
            name: self._spec.added.get(name, names)
            for name in sinks
            if name in self._spec.added or name not in self._spec.sinks
        }
        new = msgspec.structs.replace(
            self._spec,
            sinks=dict(sinks),
            added=added,
            rules=dict(rules),
            profile=profiles.selected,
            profiles=profiles.names,
        )
        if new == self._spec:
            return
        self._spec = new
        self._changed.set()
        if self._line is not None:
            self._line.tell(Stop())

    async def serve(self) -> None:
        """Start the process, and restart it whenever it ends; return after `finish`."""
        failures = 0
        while True:
            while not self._spec.sinks:
                self._changed.clear()
                await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            code: int | None = None
            try:
                code = await self._serve_once()
            except OSError as error:  # the system has no memory, descriptor or process left
                log.warning("the sinks process cannot start: %s; trying again", error)
            if self._is_finishing and code == 0:
                self._has_finished.set()
                return
            if self._changed.is_set() and code == 0:
                failures = 0
                continue
            if time.monotonic() - began > _STEADY_S:
                failures = 0
            failures += 1
            if code is not None:
                log.warning("the sinks process ended (%s); restarting it", exit_in_words(code))
            backoff = RESTART
            if code == -signal.SIGKILL:
                backoff = KILLED
            await asyncio.sleep(backoff.delay_s(failures, random.random()))

    async def _serve_once(self) -> int:
        ours, process = await start_child("framegate.pipeline.sinks.process")
        self._line = ChildLine(
            ours, lambda _: None, lambda _: (SharedMemory("not for sinks"), None), self._answer
        )
        try:
            self._line.tell(SetSources(self._sources))
            if self._is_finishing:
                self._line.tell(Stop())
            await give_spec(process, self._spec)
            return await process.wait()
        finally:
            self._line.close()
            self._line = None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _answer(self, request: AnyRequest) -> EditableConfig | RunStatus:
        if isinstance(request, GetStatus):
            return await self._status()
        if not isinstance(request, GetConfig | ChangeConfig):
            raise RequestRefused(f"the sinks may not ask for {type(request).__name__}")
        return await self._config(request)

    async def finish(self) -> None:
        """Let the process deliver the last entries and end; wait at most EXIT_S for it."""
        if not self._spec.sinks:
            return
        self._is_finishing = True
        if self._line is not None:
            self._line.tell(Stop())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_finished.wait(), EXIT_S)


# -- In the sinks process.


def main() -> int:
    """Run the sinks until the supervisor stops them; return the exit code.

    Its arguments are the descriptor of the control socket and the pid of the supervisor; the spec
    is on standard input.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the supervisor stops this process
    die_with_parent_of(int(sys.argv[2]))
    line = ControlLine(socket.socket(fileno=int(sys.argv[1])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=SinksSpec)
    set_up_logging(spec.log_level, "sinks", spec.log_format)
    remember_url(spec.store)
    serve(line, spec.sinks, lambda name: _sink(name, spec, line))
    _report_waiting(spec, [source.name for source in line.sources or ()])
    return 0


class RunningSink(Protocol):
    """The thread of a sink."""

    def start(self) -> None:
        """Start the thread."""

    def take_sources(self, past: Mapping[str, int]) -> None:
        """Serve these sources from now on. past: last epoch of each before this run"""

    def finish(self) -> None:
        """End the thread after what is to be done."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread, at most `timeout` seconds."""


def _sink(name: str, spec: SinksSpec, line: ControlLine) -> RunningSink:
    """Return a sink that is to be started. ConfigFaults."""
    config = spec.sinks[name]
    if config.kind == "heartbeat":
        return Heartbeat(name, config, RunHealth(line, spec.store, config.alive))

    def ask(request: ConfigRequest) -> EditableConfig:
        return line.ask(request, EditableConfig, ASK_S)

    receiver = receiver_of(name, spec, ask)
    begins_now = spec.added.get(name, ())
    return Delivery(name, config, receiver, spec.store, begins_now=begins_now, run=spec.run)


def serve(line: ControlLine, names: Collection[str], sink_of: Callable[[str], RunningSink]) -> None:
    """Start the sinks and forward the supervisor's orders until it stops; then finish.

    A sink that cannot start, because a secret file is missing, say, is tried again each AGAIN_S.
    """
    sinks: list[RunningSink] = []
    faults = dict.fromkeys(names, "")  # of the sinks that have not started
    due_mono = time.monotonic()
    forwarded: Mapping[str, int] | None = None
    while True:
        # Read the order first: sources that were sent before a stop are then forwarded before it.
        must_stop = isinstance(line.ordered, Stop)
        past = {source.name: source.past for source in line.sources or ()}
        if faults and time.monotonic() >= due_mono:
            sinks += _started(faults, sink_of)
            forwarded = None
            due_mono = time.monotonic() + AGAIN_S
        for sink in sinks:
            if past != forwarded:
                sink.take_sources(past)
            if must_stop:
                sink.finish()
        forwarded = past
        if must_stop:
            break
        wait_s = None
        if faults:
            wait_s = max(0.0, due_mono - time.monotonic())
        if readable([line.wake], wait_s):
            os.eventfd_read(line.wake)
    ends = time.monotonic() + FINISH_S
    for sink in sinks:
        sink.join(max(0.0, ends - time.monotonic()))


def _started(faults: dict[str, str], sink_of: Callable[[str], RunningSink]) -> list[RunningSink]:
    """Start the sinks of `faults` that can start, and remove them there. Log the other faults."""
    started = []
    for name, before in list(faults.items()):
        try:
            sink = sink_of(name)
            sink.start()
        except Exception as error:  # also of a library: the other sinks start nevertheless
            faults[name] = redacted(str(error))
            if faults[name] != before:
                log.error("sink %s cannot start: %s; trying again", name, faults[name])
        else:
            started.append(sink)
            del faults[name]
    return started


def _report_waiting(spec: SinksSpec, sources: Sequence[str]) -> None:
    """Log the number of entries that are undelivered at the end of the run."""
    names = episode_sinks(spec.sinks)
    with contextlib.suppress(FramegateError), store_errors(spec.store):
        with connect(spec.store) as client:
            views = look_at_sinks(client, names, sources)
        for name in names:
            waiting = sum(view.waiting for view in views if view.sink == name)
            if waiting:
                log.warning(
                    "sink %s: %d entries are not delivered yet; they stay in the store, and the "
                    "sink delivers them when it starts again",
                    *(name, waiting),
                )


if __name__ == "__main__":
    leave(main())
