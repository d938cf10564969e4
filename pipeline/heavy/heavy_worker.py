"""A heavy worker: takes questions off the store, looks in batches, replies; drains when told to."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from framegate.pipeline import records
from framegate.pipeline.errors import FramegateError, StoreBusy, StoreLost
from framegate.pipeline.heavy.batching import Batching, BatchLimits
from framegate.pipeline.heavy.heavy_asks import CLAIM_S, HeavyAsks, InHand, killed_too_many
from framegate.pipeline.heavy.heavy_wire import ALIVE_S, AskedFar, Replied
from framegate.pipeline.heavy.questions import Seen
from framegate.pipeline.records import DegradedReason
from framegate.pipeline.retry import Backoff

log = logging.getLogger(__name__)

_WAIT_S = 1.0
_HUNG_S = 60.0  # a look that takes longer: others may have its questions
_AHEAD = 2  # batches in hand: one is looked at, one waits; the rest is for other workers
_LEAST_HELD = 8  # only among those in hand do sources take turns


class Looker(Protocol):
    """The heavy model. policy: hash of what decides its answers; precision: a part of that."""

    policy: str
    precision: str

    def look(self, asked: Sequence[AskedFar]) -> Sequence[Seen | None]:
        """What is in each picture; None for one that is damaged. One thread."""
        ...


class HeavyWorker:
    """One process's work. `serve` in the main thread; `stop` from a signal handler."""

    def __init__(self, asks: HeavyAsks, looker: Looker, limits: BatchLimits) -> None:
        self._asks, self._looker = asks, looker
        self._ready = threading.Condition()
        self._waiting: Batching[bytes] = Batching(limits)
        self._held: dict[bytes, InHand] = {}
        self._room = max(_AHEAD * limits.most, _LEAST_HELD)
        self._looking_since: float | None = None
        self._kept_mono = self._claimed_mono = -math.inf
        self._stopping = threading.Event()
        self._reads = True
        self._fault: FramegateError | None = None

    def stop(self) -> None:
        """Take no more questions; `serve` ends when those in hand are answered."""
        self._stopping.set()

    def serve(self) -> None:
        """Answer until `stop`. StoreRefused if the store takes no questions of ours any more."""
        reader = threading.Thread(target=self._read, name="heavy-reader", daemon=True)
        reader.start()
        while (batch := self._next()) is not None:
            self._answer(batch)
        reader.join()
        self._asks.leave()
        if self._fault is not None:
            raise self._fault

    # -- the reader's thread

    def _read(self) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    self._keep()
                    if room := self._free():
                        self._put(self._asks.take(room, _WAIT_S))
                    if failures:
                        log.warning("the store is back")
                    failures = 0
                except (StoreLost, StoreBusy) as error:
                    failures += 1
                    level = logging.WARNING if failures in (1, 5) else logging.DEBUG
                    log.log(level, "%s; trying again", error)
                    self._stopping.wait(Backoff().delay_s(failures, random.random()))
        except FramegateError as error:
            self._fault = error
        finally:
            with self._ready:
                self._reads = False
                self._ready.notify_all()

    def _keep(self) -> None:
        """Now and then: hold on to what is in hand, take over what nobody holds on to."""
        now = time.monotonic()
        if now - self._kept_mono >= ALIVE_S / 4:
            self._asks.hold(self._still_held(now))
            self._kept_mono = now
        if now - self._claimed_mono >= CLAIM_S / 2 and (room := self._free()):
            self._asks.strike_off()
            self._put(self._asks.claim(room))
            self._claimed_mono = now

    def _free(self) -> int:
        """How many more may be taken; waits a while for a first one."""
        with self._ready:
            self._ready.wait_for(
                lambda: len(self._held) < self._room or self._stopping.is_set(), _WAIT_S
            )
            return 0 if self._stopping.is_set() else max(0, self._room - len(self._held))

    def _put(self, taken: Sequence[InHand]) -> None:
        with self._ready:
            for one in taken:
                if one.entry not in self._held:
                    self._held[one.entry] = one
                    source = f"{one.asked.asker}:{one.asked.source}"
                    self._waiting.add(source, one.entry, one.asked.urgent, one.taken_mono)
            self._ready.notify_all()

    def _still_held(self, now: float) -> list[InHand]:
        with self._ready:
            since = self._looking_since
            return [] if since is not None and now - since > _HUNG_S else [*self._held.values()]

    # -- the main thread

    def _next(self) -> list[InHand] | None:
        """Wait for the next batch; None once all is answered and no more is taken."""
        with self._ready:
            while True:
                now = time.monotonic()
                batch = self._waiting.take(now if self._reads else math.inf)
                if batch:
                    return [self._held[entry] for entry in batch]
                if not self._reads:
                    return None
                ready_s = self._waiting.ready_at()
                self._ready.wait(_WAIT_S if ready_s is None else max(0.0, ready_s - now))

    def _answer(self, batch: Sequence[InHand]) -> None:
        now = self._looking_since = time.monotonic()
        replies: list[tuple[InHand, Replied]] = []
        wanted = []
        for one in batch:
            if killed_too_many(one):
                log.warning("a question of %s is given up: its lookers died", one.asked.source)
                replies.append((one, self._none(one, "unanswered")))
            elif one.due_mono is not None and one.due_mono <= now:
                replies.append((one, self._none(one, "late")))
            else:
                wanted.append(one)
        if wanted:
            looked = zip(wanted, self._looked([one.asked for one in wanted]), strict=True)
            replies += [(one, self._said(one, seen)) for one, seen in looked]
        try:
            self._asks.reply(replies)
        except (StoreLost, StoreBusy) as error:
            log.warning("%s; whoever takes these %d questions looks again", error, len(batch))
        with self._ready:
            self._looking_since = None
            for one in batch:
                del self._held[one.entry]
            self._ready.notify_all()

    def _looked(self, asked: Sequence[AskedFar]) -> Sequence[Seen | None]:
        try:
            return self._looker.look(asked)
        except Exception:
            if len(asked) == 1:
                log.exception("no answer to a question of %s", asked[0].source)
                return [None]
        return [found for one in asked for found in self._looked([one])]

    def _said(self, one: InHand, seen: Seen | None) -> Replied:
        if seen is None:
            return self._none(one, "unanswered")
        took_s = time.monotonic() - one.taken_mono
        number, policy, precision = one.asked.number, self._looker.policy, self._looker.precision
        return Replied(records.VERSION, number, policy, seen, took_s=took_s, precision=precision)

    def _none(self, one: InHand, reason: DegradedReason) -> Replied:
        return Replied(
            records.VERSION,
            one.asked.number,
            self._looker.policy,
            reason=reason,
            took_s=time.monotonic() - one.taken_mono,
            precision=self._looker.precision,
        )
