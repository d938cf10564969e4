"""Messages on their way to somebody who may be away: what both bridges of this folder share.

A thread of its own delivers them, in order, each until it is taken, so that a stage never waits
longer than it wants to. At most `keep` wait; of more, the oldest are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)

AGAIN_S, AGAIN_MOST_S = 0.02, 5.0


@dataclass(frozen=True)
class Message:
    """One result to deliver; `key` is `source/epoch-seq`, the same each time it is sent."""

    source: str
    key: str
    body: bytes


Session = Callable[["Outbox"], Awaitable[None]]


class Outbox:
    """A queue and the thread that empties it. The stage's thread calls put, wait, close."""

    def __init__(self, session: Session, errors: tuple[type[Exception], ...], keep: int) -> None:
        """session: takes `first` and reports `sent` for ever; after one of `errors`, again."""
        self._session, self._errors, self._keep = session, errors, keep
        self._waiting: deque[Message] = deque()
        self._dropped: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._away = False
        self._loop = asyncio.new_event_loop()
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] = self._loop.create_task(self._deliver())
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    # -- the stage's side

    def put(self, messages: Iterable[Message]) -> None:
        """Add messages; drop the oldest where there are too many."""
        with self._changed:
            self._waiting.extend(messages)
            while len(self._waiting) > self._keep:
                self._dropped[self._waiting.popleft().source] += 1
        self._loop.call_soon_threadsafe(self._fresh.set)

    def wait(self, patience_s: float) -> None:
        """Until all is delivered, the receiver is known to be away, or patience ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._away, patience_s)

    def dropped(self, source: str) -> int:
        """How many of a source's messages were dropped since the last call."""
        with self._changed:
            return self._dropped.pop(source, 0)

    def close(self, patience_s: float) -> None:
        """Deliver what is left, if the receiver is there and patience lasts; then end."""
        self.wait(patience_s)
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(patience_s)
        if not self._thread.is_alive():
            self._loop.close()

    # -- the session's side

    async def first(self) -> Message:
        """The oldest message; it stays until it is reported as sent or refused."""
        while not self._waiting:
            self._fresh.clear()
            await self._fresh.wait()
        return self._waiting[0]

    def sent(self, message: Message) -> None:
        """The receiver has it."""
        with self._changed:
            if self._waiting and self._waiting[0] is message:
                self._waiting.popleft()
            if self._away:
                log.info("the receiver is there again")
            self._away = False
            self._changed.notify_all()

    def refused(self, message: Message, why: str) -> None:
        """The receiver will never take it."""
        log.warning("%s is refused: %s", message.key, why)
        with self._changed:
            self._dropped[message.source] += 1
            self.sent(message)

    # -- the thread

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
        finally:
            self._away = True

    async def _deliver(self) -> None:
        failures = 0
        while True:
            try:
                await self._session(self)
            except self._errors as error:
                failures = 1 if not self._away else failures + 1
                self._note_away(error)
            longest_s = min(AGAIN_S * 2 ** min(failures, 10), AGAIN_MOST_S)
            await asyncio.sleep(random.uniform(0.5, 1.0) * longest_s)  # not all of a fleet at once

    def _note_away(self, error: Exception) -> None:
        with self._changed:
            if not self._away:
                log.warning("the receiver is away (%s); up to %d results wait", error, self._keep)
            self._away = True
            self._changed.notify_all()
