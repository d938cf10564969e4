"""Deliver the changes of episodes to one receiver outside this host: order, retries, positions.

A sink has no queue in memory. Changes wait in the stream of their source, and the store keeps the
position of the sink, which is written after the receiver acknowledged. After a kill of any process
a sink continues there, so it delivers each message at least once, in the order of the source, with
the same id each time. The length of the stream is the limit: if entries are trimmed before they
are delivered, the receiver gets their range as `Undelivered`.
"""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.episodes import Change, Step
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.sinks.position import (
    NumberedEntry,
    SinkPosition,
    SinkPositions,
    Undelivered,
)
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.clocks import FirstSeen, HostClock, look, old_until, read_host_clock
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

WAIT_S: Final = 1.0
NOTIFY_GIVE_UP_S: Final = 3600.0
STEADY_S: Final = 60.0  # a connection that lasted longer resets the count of failures
RETRY: Final = Backoff(first_s=0.25, most_s=60.0)

PICTURE_TIMEOUT_S: Final = 3.0
PICTURE_MAX_BYTES: Final = 4 << 20

S = TypeVar("S")


class ReceiverUnavailable(Exception):
    """The receiver cannot be reached or accepts no message now. The sink pauses all its sources.

    pause_s  seconds for which the receiver asks to be left alone
    """

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(redacted(why))
        self.pause_s = pause_s


class MessageRefused(Exception):
    """The receiver answers but refuses this message. The sink pauses only its source."""

    def __init__(self, why: str) -> None:
        super().__init__(redacted(why))


@dataclass(frozen=True)
class Message:
    """A message about a source: a change of an episode, or a range of entries that were lost.

    is_fresh  the message did not wait, so that a picture taken now belongs to it
    """

    source: str
    content: Change | Undelivered
    is_fresh: bool = False

    @property
    def id(self) -> str:
        """Return the id; a repeated message has the same."""
        if isinstance(self.content, Change):
            return self.content.id
        return f"{self.source}/lost/{self.content.after}/{self.content.until}"


MessageOutcome = Literal["delivered", "muted"]


class Receiver(Protocol[S]):
    """A receiver of messages. The thread of its sink calls all methods.

    initial_state  state of a source before its first message; the store keeps states as msgpack
    steps          steps of episodes that it receives; the sink skips others
    """

    initial_state: S
    steps: Collection[Step]

    def begin(self, states: Mapping[str, S]) -> None:
        """Take the sources that the sink follows, with the state of each.

        Raises ReceiverUnavailable.
        """

    def deliver(self, message: Message, state: S) -> tuple[MessageOutcome, S]:
        """Deliver a message; return once the receiver acknowledged it.

        state  state of the message's source; the new state is returned
        Returns `muted` if the message was left out on purpose, as in quiet hours. Raises
        ReceiverUnavailable and MessageRefused.
        """

    def close(self) -> None:
        """Close the connection."""


@dataclass
class _FollowedSource:
    """A source that a sink follows.

    at             position up to which all is done
    seen           notes about the age of waiting entries; None: no message ever waited
    ends           the run does not have this source any more; its last entries are delivered
    is_empty       the last look at the stream found no entry after `at`
    failures       number of failures in a row
    due_mono       monotonic seconds before which nothing of it is delivered
    is_caught_up   all entries were delivered at least once since the last failure
    delivered_ids  ids of changes of the entry at work that the receiver has: an entry whose
                   delivery fails in the middle continues there
    """

    at: SinkPosition[Any]
    seen: FirstSeen | None = None
    ends: bool = False
    is_empty: bool = False
    failures: int = 0
    due_mono: float = 0.0
    is_caught_up: bool = False
    delivered_ids: set[str] = field(default_factory=set)


class Delivery(threading.Thread, Generic[S]):
    """The thread of one sink.

    `take_sources` and `finish` are for any thread; all other state belongs to this one.
    """

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        receiver: Receiver[S],
        store: str,
        clock: Callable[[], HostClock] = read_host_clock,
        begins_now: Collection[str] = (),
        run: str = "",
    ) -> None:
        """Keep the parts.

        store       URL of the store
        clock       reads the clocks of this host
        begins_now  sources of which a new sink gets only what happens from now on
        run         id of the run
        """
        super().__init__(name=f"sink-{name}", daemon=True)
        self._sink = name
        self._config = config
        self._receiver = receiver
        self._url = store
        self._clock = clock
        self._begins_now = begins_now
        self._run = run
        self._give_up_s = 0.0  # 0: never
        if config.give_up_s is not None:
            self._give_up_s = config.give_up_s
        elif config.kind == "notify":
            self._give_up_s = NOTIFY_GIVE_UP_S
        self._wanted: dict[str, int] = {}
        self._followed: dict[str, _FollowedSource] = {}
        self._is_finishing = False
        self._wake = threading.Event()
        self._failures = 0
        self._due_mono = 0.0

    def take_sources(self, past: Mapping[str, int]) -> None:
        """Follow these sources from now on; deliver only the last entries of all others.

        past  last epoch of each source before this run; a new sink starts after it
        """
        wanted = self._config.sources
        self._wanted = {name: at for name, at in past.items() if not wanted or name in wanted}
        self._wake.set()

    def finish(self) -> None:
        """Deliver the entries that are there, except where the receiver fails, then end."""
        self._is_finishing = True
        self._wake.set()

    def run(self) -> None:
        """Deliver until `finish`, connecting again whenever the store or the receiver fails."""
        failures = 0
        while True:
            began = time.monotonic()
            fault: Exception
            try:
                with store_errors(self._url), connect(self._url) as client:
                    self._serve(SinkPositions(client, self._sink, self._receiver.initial_state))
                    break
            except Exception as error:  # a fault of the receiver's library must not end the sink
                fault = error
            if time.monotonic() - began > STEADY_S:
                failures = 0
            failures += 1
            self._log_failure(fault, failures)
            # An order that came before ends no wait: each attempt reads all orders.
            self._wake.clear()
            if self._is_finishing:
                break
            self._wake.wait(Backoff().delay_s(failures, random.random()))
        self._receiver.close()

    def _log_failure(self, fault: Exception, failures: int) -> None:
        if not isinstance(fault, FramegateError):
            log.error("sink %s failed; restarting it", self._sink, exc_info=fault)
            return
        level = logging.WARNING
        if failures > 1:
            level = logging.DEBUG
        log.log(level, "sink %s: %s", self._sink, fault)

    def _serve(self, positions: SinkPositions[S]) -> None:
        while True:
            # Cleared before the orders are read, so that an order given meanwhile ends the wait.
            self._wake.clear()
            self._follow_wanted(positions)
            # One page of each source per turn: no source holds up the others.
            progress = [self._deliver_page(positions, name) for name in list(self._followed)]
            if any(progress):
                continue
            for name in [name for name in self._followed if self._is_done(positions, name)]:
                del self._followed[name]
            if self._is_finishing:
                return
            self._wait(positions)

    def _is_done(self, positions: SinkPositions[S], source: str) -> bool:
        """Return whether the run does not have a source, and its last entries are delivered.

        They are not waited for if another run has the source, because its sink delivers them.
        """
        followed = self._followed[source]
        if not followed.ends:
            return False
        return followed.is_empty or positions.owner(source) not in ("", self._run)

    def _follow_wanted(self, positions: SinkPositions[S]) -> None:
        wanted = self._wanted
        for name, followed in self._followed.items():
            followed.ends = name not in wanted
        added = [name for name in wanted if name not in self._followed]
        for name in added:
            at = positions.load(name, wanted[name], name in self._begins_now)
            self._followed[name] = _FollowedSource(at, positions.first_seen(name))
        if added:
            try:
                self._receiver.begin({n: each.at.state for n, each in self._followed.items()})
            except ReceiverUnavailable as error:
                self._pause_all(error)

    def _wait(self, positions: SinkPositions[S]) -> None:
        """Wait for an entry, for another thread, or for the end of a pause."""
        now = time.monotonic()
        if self._due_mono > now:
            self._wake.wait(self._due_mono - now)
            return
        if self._wake.is_set():
            return
        if not self._followed:
            self._wake.wait()
            return
        wait_s = WAIT_S
        ready: dict[str, Position] = {}
        for name, followed in self._followed.items():
            if followed.due_mono > now:
                wait_s = min(wait_s, followed.due_mono - now)
            else:
                ready[name] = followed.at.position
        if not ready or not positions.wait(ready, max(1, int(wait_s * 1000))):
            self._wake.wait(wait_s)

    # -- One source.

    def _deliver_page(self, positions: SinkPositions[S], source: str) -> bool:
        """Deliver the next entries of a source; return whether there were any."""
        followed = self._followed[source]
        followed.is_empty = False
        if max(followed.due_mono, self._due_mono) > time.monotonic():
            return False
        lost, entries = positions.read(source, followed.at)
        followed.is_empty = not entries
        if not entries:
            followed.is_caught_up = True
        try:
            if lost is not None:
                self._report_lost(positions, source, lost, entries[0].index - 1)
            for entry in self._give_up_old(positions, source, entries):
                self._deliver_entry(positions, source, entry)
        except ReceiverUnavailable as error:
            self._pause_all(error)
            self._note_failing(positions, source, error)
            self._note_waiting(positions, self._followed)
        except MessageRefused as error:
            followed.failures += 1
            delay_s = RETRY.delay_s(followed.failures, random.random())
            followed.due_mono = time.monotonic() + delay_s
            self._note_failing(positions, source, error)
            self._note_waiting(positions, [source])
        return bool(entries)

    def _give_up_old(
        self, positions: SinkPositions[S], source: str, entries: list[NumberedEntry]
    ) -> list[NumberedEntry]:
        """Return the entries younger than `give_up_s`; report the others as lost."""
        followed = self._followed[source]
        if not self._give_up_s or followed.is_caught_up:
            return entries
        until = old_until(followed.seen, self._clock(), self._give_up_s)
        old = [entry for entry in entries if entry.position <= until]
        if old:
            after = str(followed.at.position)
            lost = Undelivered(after, str(old[-1].position), len(old), "given_up")
            self._report_lost(positions, source, lost, old[-1].index)
        return entries[len(old) :]

    def _report_lost(
        self, positions: SinkPositions[S], source: str, lost: Undelivered, index: int
    ) -> None:
        """Deliver the loss of a range. index: that of its last entry."""
        log.warning(
            "sink %s: source %s: %d entries after %s, up to %s, were not delivered: %s",
            *(self._sink, source, lost.entries, lost.after, lost.until, lost.why),
        )
        _, state = self._deliver(Message(source, lost))
        at = SinkPosition(Position.parse(lost.until), index, state)
        self._advance(positions, source, at, {"lost": lost.entries})

    def _deliver_entry(
        self, positions: SinkPositions[S], source: str, entry: NumberedEntry
    ) -> None:
        followed = self._followed[source]
        if entry.events is None:
            before = str(followed.at.position)
            lost = Undelivered(before, str(entry.position), 1, "unreadable")
            self._report_lost(positions, source, lost, entry.index)
            return
        counts = {"delivered": 0, "muted": 0}
        for change in entry.events.changes.changes:
            if self._wants(change) and change.id not in followed.delivered_ids:
                outcome, state = self._deliver(Message(source, change, followed.is_caught_up))
                followed.at = replace(followed.at, state=state)
                followed.delivered_ids.add(change.id)
                counts[outcome] += 1
        at = SinkPosition(entry.position, entry.index, followed.at.state)
        self._advance(positions, source, at, counts)

    def _advance(
        self,
        positions: SinkPositions[S],
        source: str,
        at: SinkPosition[S],
        counts: Mapping[str, int],
    ) -> None:
        positions.store(source, at, counts)
        self._followed[source].at = at
        self._followed[source].delivered_ids.clear()

    def _deliver(self, message: Message) -> tuple[MessageOutcome, S]:
        followed = self._followed[message.source]
        outcome, state = self._receiver.deliver(message, followed.at.state)
        if outcome == "muted":  # the receiver was not tried
            return outcome, state
        if self._failures or followed.failures:
            log.info("sink %s: the receiver accepts messages again", self._sink)
        self._failures = 0
        followed.failures = 0
        return outcome, state

    def _wants(self, change: Change) -> bool:
        rules = self._config.rules
        severities = self._config.severities
        return (
            change.muted is None
            and change.step in self._receiver.steps
            and (not rules or change.rule in rules)
            and (not severities or change.severity in severities)
        )

    # -- Failures.

    def _pause_all(self, error: ReceiverUnavailable) -> None:
        self._failures += 1
        pause_s = max(error.pause_s, RETRY.delay_s(self._failures, random.random()))
        self._due_mono = time.monotonic() + pause_s
        if self._failures == 1:
            log.warning("sink %s: %s; trying again", self._sink, error)

    def _note_failing(
        self, positions: SinkPositions[S], source: str, error: ReceiverUnavailable | MessageRefused
    ) -> None:
        if self._followed[source].failures == 1:
            log.warning("sink %s: source %s: %s; trying again", self._sink, source, error)
        positions.note_failing(source, str(error))

    def _note_waiting(self, positions: SinkPositions[S], sources: Iterable[str]) -> None:
        """Note the newest entry of sources that wait, so that entries can be given up by age.

        The age of an entry counts from the time at which this host first saw it, because the clock
        of a camera may be wrong.
        """
        for source in sources:
            followed = self._followed[source]
            followed.is_caught_up = False
            if self._give_up_s:
                newest = positions.newest(source)
                followed.seen = look(followed.seen, newest, self._clock(), self._give_up_s)
                positions.store_first_seen(source, followed.seen)


@dataclass(frozen=True)
class CameraPictures:
    """The pictures of cameras, as the run's HTTP port returns them.

    address  HOST:PORT of the run; None: there are no pictures
    token    bearer token of the port; empty: it asks for none
    """

    address: str | None = None
    token: str = field(default="", repr=False)

    def newest(self, source: str) -> bytes | None:
        """Return the source's newest picture with its boxes as JPEG, or None if there is none.

        Each read of the port waits at most 3 s.
        """
        if self.address is None:
            return None
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection(self.address, timeout=PICTURE_TIMEOUT_S)
        try:
            connection.request("GET", f"/snapshot/{source}.jpg", headers=headers)
            response = connection.getresponse()
            picture = response.read(PICTURE_MAX_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            log.debug("no picture of %s: %s", source, error)
            return None
        finally:
            connection.close()
        if response.status != 200 or len(picture) > PICTURE_MAX_BYTES:
            log.debug(
                "no picture of %s: status %d, %d bytes", source, response.status, len(picture)
            )
            return None
        return picture
