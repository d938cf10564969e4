"""A sink reads what the stage `events` says, tells its receiver, and then stores how far it came.

There is no queue in memory: what was not acknowledged is in the stream, and the position in the
store, written after the acknowledgement, says where to go on, whatever was killed. So each message
is told at least once, in the order of its source, with the same id each time. The bound is the
stream's own: what was trimmed before it was told is told as `lost`, with its range.
"""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.episodes import Change, Step
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.sinks.position import NotTold, NumberedEntry, SinkPositions, Standing
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.system.clocks import FirstSeen, HostClock, look, old_until, read_host_clock
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

WAIT_MS = 1000
NOTIFY_GIVE_UP_S = 3600.0
STEADY_S = 60.0  # what fails after so long fails for the first time
AGAIN = Backoff(first_s=0.25, most_s=60.0)

S = TypeVar("S")


class Away(Exception):
    """The receiver does not answer, or takes nothing now: nothing is tried before a pause.

    pause_s: seconds for which it wants to be left alone
    """

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(redacted(why))
        self.pause_s = pause_s


class MessageRefused(Exception):
    """The receiver answers, and does not take this message; those of other sources it may."""

    def __init__(self, why: str) -> None:
        super().__init__(redacted(why))


@dataclass(frozen=True)
class Message:
    """One thing that a receiver is told of a source; `id` is the same each time that it is told.

    fresh  whether it did not wait for anything: what a camera shows now belongs to it
    """

    source: str
    what: Change | NotTold
    fresh: bool = False

    @property
    def id(self) -> str:
        """What names it."""
        if isinstance(self.what, Change):
            return self.what.id
        return f"{self.source}/lost/{self.what.after}/{self.what.until}"


MessageOutcome = Literal["delivered", "muted"]


class Receiver(Protocol[S]):
    """Whom a sink tells. All of it is called in the sink's thread.

    state  of a source before its first message; stored with the position, as msgpack
    steps  of episodes that it is told of; others are passed over
    """

    state: S
    steps: Collection[Step]

    def begin(self, states: Mapping[str, S]) -> None:
        """Take note of the sources that are followed, each with its state. Away."""

    def tell(self, message: Message, state: S) -> tuple[MessageOutcome, S]:
        """Tell it, and return once the receiver has it. Away, MessageRefused.

        state: of the message's source. muted: it is not for this receiver now
        """

    def close(self) -> None:
        """Say goodbye."""


@dataclass
class _Followed:
    """A source that a sink follows.

    ends       it is none of the run any more: its rest is told
    failures   in a row, and until when nothing of it is tried (monotonic seconds)
    caught_up  whether what comes now is new: it has not waited for anything
    told       ids of the entry in hand that were taken already
    seen       how long what waits has been there; None: nothing ever waited
    """

    standing: Standing[Any]
    seen: FirstSeen | None = None
    ends: bool = False
    failures: int = 0
    due_mono: float = 0.0
    caught_up: bool = False
    told: set[str] = field(default_factory=set)


class Delivery(threading.Thread, Generic[S]):
    """The thread of one sink: it is told of sources, and to finish."""

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        receiver: Receiver[S],
        store: str,
        clock: Callable[[], HostClock] = read_host_clock,
    ) -> None:
        """store: its URL. clock: reads the clocks of this host."""
        super().__init__(name=f"sink-{name}", daemon=True)
        self._sink, self._config, self._receiver, self._url = name, config, receiver, store
        self._clock = clock
        usual = NOTIFY_GIVE_UP_S if config.kind == "notify" else 0.0
        self._give_up_s = usual if config.give_up_s is None else config.give_up_s
        self._wanted: dict[str, int] = {}
        self._followed: dict[str, _Followed] = {}
        self._finishing = False
        self._word = threading.Event()
        self._failures, self._due_mono = 0, 0.0

    def take_sources(self, past: Mapping[str, int]) -> None:
        """Follow these from now on; of others tell the rest. Any thread.

        past: the last epoch of each before this run; a new sink is not told of it
        """
        wanted = self._config.sources
        self._wanted = {name: at for name, at in past.items() if not wanted or name in wanted}
        self._word.set()

    def finish(self) -> None:
        """Tell what is there, as far as it is taken; then end. Any thread."""
        self._finishing = True
        self._word.set()

    def run(self) -> None:
        """Tell, until it is to finish. A store that is away is waited for."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                with store_errors(self._url), connect(self._url) as client:
                    self._serve(SinkPositions(client, self._sink, self._receiver.state))
                    break
            except FramegateError as error:
                failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
                level = logging.DEBUG if failures > 1 else logging.WARNING
                log.log(level, "sink %s: %s", self._sink, error)
            except Exception:  # of a library, say: other sinks go on, and so does this one
                failures += 1
                log.exception("sink %s failed; it starts again", self._sink)
            if self._finishing:
                break
            self._word.wait(Backoff().delay_s(failures, random.random()))
        self._receiver.close()

    def _serve(self, positions: SinkPositions[S]) -> None:
        while True:
            self._word.clear()
            self._join(positions)
            if sum(self._tell_some(positions, name) for name in list(self._followed)):
                continue
            self._followed = {n: f for n, f in self._followed.items() if not f.ends}
            if self._finishing:
                return
            self._wait(positions)

    def _join(self, positions: SinkPositions[S]) -> None:
        wanted = self._wanted
        for name, followed in self._followed.items():
            followed.ends = name not in wanted
        fresh = [name for name in wanted if name not in self._followed]
        for name in fresh:
            standing = positions.standing(name, wanted[name])
            self._followed[name] = _Followed(standing, positions.seen(name))
        if fresh:
            try:
                self._receiver.begin({n: f.standing.state for n, f in self._followed.items()})
            except Away as error:
                self._note_away(error)

    def _wait(self, positions: SinkPositions[S]) -> None:
        """Until there is more to tell, somebody has a word, or something is to be tried again."""
        now = time.monotonic()
        if self._due_mono > now:
            self._word.wait(self._due_mono - now)
            return
        dues = [f.due_mono - now for f in self._followed.values() if f.due_mono > now]
        free = {n: f.standing.position for n, f in self._followed.items() if f.due_mono <= now}
        wait_s = min([WAIT_MS / 1000, *dues])
        if self._word.is_set():
            return
        if not free:
            self._word.wait(wait_s if dues else None)
        elif positions.wait(free, max(1, int(wait_s * 1000))):
            self._word.wait(wait_s)

    # -- telling

    def _tell_some(self, positions: SinkPositions[S], source: str) -> bool:
        """Tell what the next entries of a source say; return whether anything was done."""
        followed = self._followed[source]
        if max(followed.due_mono, self._due_mono) > time.monotonic():
            return False
        lost, entries = positions.read(source, followed.standing)
        followed.caught_up = followed.caught_up or not entries
        try:
            if lost is not None:
                self._tell_lost(positions, source, lost, entries[0].index - 1)
            for entry in self._without_old(positions, source, entries):
                self._tell_entry(positions, source, entry)
        except Away as error:
            self._note_away(error)
            self._note_failing(positions, source, error)
            self._note_waiting(positions, self._followed)
        except MessageRefused as error:
            followed.failures += 1
            delay_s = AGAIN.delay_s(followed.failures, random.random())
            followed.due_mono = time.monotonic() + delay_s
            self._note_failing(positions, source, error)
            self._note_waiting(positions, [source])
        return bool(entries)

    def _without_old(
        self, positions: SinkPositions[S], source: str, entries: list[NumberedEntry]
    ) -> list[NumberedEntry]:
        """Tell that the first entries are given up, if they are too old; return the others."""
        followed = self._followed[source]
        if not self._give_up_s or followed.caught_up:
            return entries
        until = old_until(followed.seen, self._clock(), self._give_up_s)
        old = sum(entry.position <= until for entry in entries)
        if old:
            after, last = followed.standing.position, entries[old - 1].position
            lost = NotTold(str(after), str(last), old, "given_up")
            self._tell_lost(positions, source, lost, entries[old - 1].index)
        return entries[old:]

    def _tell_lost(
        self, positions: SinkPositions[S], source: str, lost: NotTold, index: int
    ) -> None:
        log.warning(
            "sink %s: source %s: %d entries after %s, up to %s, were not delivered: %s",
            *(self._sink, source, lost.entries, lost.after, lost.until, lost.why),
        )
        _, state = self._told(Message(source, lost))
        standing = Standing(Position.parse(lost.until), index, state)
        self._move(positions, source, standing, {"lost": lost.entries})

    def _tell_entry(self, positions: SinkPositions[S], source: str, entry: NumberedEntry) -> None:
        followed = self._followed[source]
        if entry.said is None:
            before = str(followed.standing.position)
            lost = NotTold(before, str(entry.position), 1, "unreadable")
            self._tell_lost(positions, source, lost, entry.index)
            return
        counts = {"delivered": 0, "muted": 0}
        for change in entry.said.changes.changes:
            if self._wants(change) and change.id not in followed.told:
                outcome, state = self._told(Message(source, change, followed.caught_up))
                followed.standing = replace(followed.standing, state=state)
                followed.told.add(change.id)
                counts[outcome] += 1
        standing = Standing(entry.position, entry.index, followed.standing.state)
        self._move(positions, source, standing, counts)

    def _move(
        self,
        positions: SinkPositions[S],
        source: str,
        standing: Standing[S],
        counts: Mapping[str, int],
    ) -> None:
        positions.move(source, standing, counts)
        self._followed[source].standing = standing
        self._followed[source].told.clear()

    def _told(self, message: Message) -> tuple[MessageOutcome, S]:
        followed = self._followed[message.source]
        told = self._receiver.tell(message, followed.standing.state)
        if self._failures or followed.failures:
            log.info("sink %s: messages are taken again", self._sink)
        self._failures = followed.failures = 0
        return told

    def _wants(self, change: Change) -> bool:
        rules, severities = self._config.rules, self._config.severities
        return (
            change.step in self._receiver.steps
            and (not rules or change.rule in rules)
            and (not severities or change.severity in severities)
        )

    def _note_away(self, error: Away) -> None:
        self._failures += 1
        pause_s = max(error.pause_s, AGAIN.delay_s(self._failures, random.random()))
        self._due_mono = time.monotonic() + pause_s
        if self._failures == 1:
            log.warning("sink %s: %s; it is tried again", self._sink, error)

    def _note_failing(
        self, positions: SinkPositions[S], source: str, error: Away | MessageRefused
    ) -> None:
        if self._followed[source].failures == 1:
            log.warning("sink %s: source %s: %s; it is tried again", self._sink, source, error)
        positions.note_failing(source, str(error))

    def _note_waiting(self, positions: SinkPositions[S], sources: Iterable[str]) -> None:
        """Store that what these sources have now waits, so that it can be given up in time. What
        this host sees counts: the clock of a camera may be wrong.
        """
        for source in sources:
            followed = self._followed[source]
            followed.caught_up = False
            if self._give_up_s:
                newest = positions.newest(source)
                followed.seen = look(followed.seen, newest, self._clock(), self._give_up_s)
                positions.store_seen(source, followed.seen)


ANSWER_S = 3.0
MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class CameraPictures:
    """address: HOST:PORT of the run, None where it has none. token: that it asks for, or empty."""

    address: str | None = None
    token: str = field(default="", repr=False)

    def of(self, source: str) -> bytes | None:
        """Return a JPEG of the source's newest picture with its boxes; None if there is none now.

        Waits three seconds at most for each answer of the port.
        """
        if self.address is None:
            return None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_S)
        try:
            connection.request("GET", f"/snapshot/{source}.jpg", headers=headers)
            answer = connection.getresponse()
            picture = answer.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            log.debug("no picture of %s: %s", source, error)
            return None
        finally:
            connection.close()
        if answer.status != 200 or len(picture) > MOST_BYTES:
            log.debug("no picture of %s: the port answers %d", source, answer.status)
            return None
        return picture
