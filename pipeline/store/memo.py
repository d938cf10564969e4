"""A cache of computed values that a group of sources shares: a mirror here, the store behind it.

A stage asks for a value by its key before it computes it, and keeps what it computed. The mirror is
in the worker's memory; in the store (memo.lua) workers and hosts share values. Asking the store
costs a wait, on a busy machine a long one: where it has nothing for long, it is asked seldom.

All of it may be lost at any time. While the store is away or slow it counts as empty, and what is
to be written to it is dropped: nobody waits, nothing fails.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.contracts.stage import MemoLimits
from framegate.pipeline.store.connection import Command, Link, readable
from framegate.pipeline.store.hop import function
from framegate.pipeline.store.links import Links
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

PATIENCE_S = 0.003  # to wait for a reply, once: while it is late, its link is not asked again
MOST_WAITING = 1 << 20  # bytes that wait to be written
MIRROR_BYTES = 64 << 20
_GATHER_S = 0.2  # for which what is to be written waits for more
_ANSWER_S = 5.0
_IN_VAIN = 128  # look-ups in a row that the store had nothing for; after them
_SAMPLED = 16  # one in so many keys is looked up, always the same ones
_ENTRY = 300  # bytes that an entry of the mirror takes beside its key and value, roughly
_FAULTS = (StoreLost, StoreBusy, StoreRefused)


def find_command(group: str, limits: MemoLimits, key: bytes) -> Command:
    """Return the call whose reply is a value's age in milliseconds and the value, or nil."""
    return ("FCALL", function("recall"), "3", *keys.memo(group), _ms(limits.ttl_s), key)


def keep_command(group: str, limits: MemoLimits, pairs: list[tuple[bytes, bytes]]) -> Command:
    """Return the call that writes values; its reply is how many bytes the group has."""
    flat = [part for pair in pairs for part in pair]
    bounds = (_ms(limits.ttl_s), str(limits.most_bytes))
    return ("FCALL", function("keep"), "3", *keys.memo(group), *bounds, *flat)


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


class MemoStore:
    """A worker's way to the values in the store. `find`, `keep`, `close`: one thread.

    A thread of its own opens connections and writes.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, MemoLimits, bytes, bytes]] = deque()
        self._waiting_bytes = 0
        self._groups: set[str] = set()
        self._open: dict[str, Link] = {}  # to be asked; made by the thread
        self._asking = threading.Lock()  # held while one is asked: none is closed meanwhile
        self._owing: set[Link] = set()
        self._is_broken = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def find(self, group: str, limits: MemoLimits, key: bytes) -> tuple[float, bytes] | None:
        """Return a value and its age in seconds; None if there is none, or not in time."""
        with self._asking:
            link = self._open.get(group)
            if link is not None:
                return self._ask(link, group, limits, key)
        self._open_for(group)
        return None

    def _ask(
        self, link: Link, group: str, limits: MemoLimits, key: bytes
    ) -> tuple[float, bytes] | None:
        try:
            if link in self._owing:
                if not _came(link, 0.0):
                    return None
                self._owing.discard(link)
                link.receive()  # the reply that was late: to another key
            link.send(find_command(group, limits, key))
            if not _came(link, PATIENCE_S):
                self._owing.add(link)
                return None
            found: list[Any] | None = link.receive()
        except _FAULTS as fault:
            log.debug("what group %s remembers cannot be read: %s", group, fault)
            self._break()
            return None
        return None if found is None else (found[0] / 1000, found[1])

    def keep(self, group: str, limits: MemoLimits, key: bytes, value: bytes) -> None:
        """Write a value soon; drop it while too much waits."""
        nbytes = len(key) + len(value)
        with self._changed:
            if self._waiting_bytes + nbytes > MOST_WAITING:
                return
            self._waiting.append((group, limits, key, value))
            self._waiting_bytes += nbytes
            if len(self._waiting) == 1:  # else the thread gathers already
                self._call_thread()

    def close(self) -> None:
        """Write what waits, if that is done in a moment, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _open_for(self, group: str) -> None:
        with self._changed:
            if group not in self._groups or self._thread is None:
                self._groups.add(group)
                self._call_thread()

    def _break(self) -> None:
        with self._changed:
            self._open = {}
            self._owing.clear()
            self._is_broken = True
            self._call_thread()

    def _call_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="memo", daemon=True)
            with contextlib.suppress(RuntimeError):  # there is none for it now: nothing is kept
                thread.start()
                self._thread = thread
        self._changed.notify()

    # -- the thread

    def _serve(self) -> None:
        failures = 0
        while not self._is_closed:
            links: list[Links] = []
            try:
                links += [Links(self._url), Links(self._url)]
                self._is_broken = False
                self._serve_on(*links)
                failures = 0
            except _FAULTS as fault:
                failures += 1
                log.debug("what is remembered cannot be written: %s", fault)
            finally:
                with self._asking, self._changed:
                    self._open = {}
                    self._owing.clear()
                for each in links:
                    each.close()
            with self._changed:
                if not self._is_closed and failures:
                    self._changed.wait_for(
                        lambda: self._is_closed, Backoff().delay_s(failures, random.random())
                    )

    def _serve_on(self, asking: Links, writing: Links) -> None:
        """Work until `close`, or until a connection breaks."""
        while not self._is_broken:
            with self._changed:
                self._changed.wait_for(self._has_work)
                new = self._groups - self._open.keys()
            opened = {group: asking.of(keys.memo_tag(group)) for group in new}
            with self._changed:
                if not self._is_broken:
                    self._open = {**self._open, **opened}
                self._changed.wait_for(lambda: self._is_closed or self._is_broken, _GATHER_S)
                batch = list(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
            self._write(writing, batch)
            if self._is_closed:
                return

    def _has_work(self) -> bool:
        new = self._groups - self._open.keys()
        return bool(self._is_closed or self._is_broken or self._waiting or new)

    def _write(self, links: Links, batch: list[tuple[str, MemoLimits, bytes, bytes]]) -> None:
        by_group: dict[tuple[str, MemoLimits], list[tuple[bytes, bytes]]] = {}
        for group, limits, key, value in batch:
            by_group.setdefault((group, limits), []).append((key, value))
        for (group, limits), pairs in by_group.items():
            link = links.of(keys.memo_tag(group))
            link.send(keep_command(group, limits, pairs))
            _answer(link)


def _answer(link: Link) -> Any:
    if not _came(link, _ANSWER_S):
        raise StoreLost("the store does not answer")
    return link.receive()


def _came(link: Link, seconds: float) -> bool:
    """Return whether the next reply is here, whole, within so many seconds."""
    until = time.monotonic() + seconds
    while not link.here():
        left = max(0.0, until - time.monotonic())
        if not readable([link.fileno()], left):
            return False
        link.fill()
    return True


class Mirror:
    """The values, of all groups, that a worker used last. One thread."""

    def __init__(
        self, most_bytes: int = MIRROR_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.bytes = 0
        self._most, self._now = most_bytes, now
        self._values: OrderedDict[tuple[str, bytes], tuple[float, bytes]] = OrderedDict()

    def find(self, group: str, key: bytes) -> bytes | None:
        """Return the value, None if it is not here or too old."""
        at = group, key
        found = self._values.get(at)
        if found is None:
            return None
        until, value = found
        if self._now() >= until:
            self._forget(at)
            return None
        self._values.move_to_end(at)
        return value

    def keep(self, group: str, key: bytes, value: bytes, ttl_s: float) -> None:
        """Hold a value for so long, unless others are used more."""
        at = group, key
        if at in self._values:
            self._forget(at)
        self._values[at] = self._now() + ttl_s, value
        self.bytes += len(key) + len(value) + _ENTRY
        while self.bytes > self._most:
            self._forget(next(iter(self._values)))

    def _forget(self, at: tuple[str, bytes]) -> None:
        _, value = self._values.pop(at)
        self.bytes -= len(at[1]) + len(value) + _ENTRY


class Memo:
    """One group's values. One thread. Nothing raises, nothing waits longer than milliseconds."""

    def __init__(
        self, group: str, limits: MemoLimits, mirror: Mirror, store: MemoStore | None = None
    ) -> None:
        """store: None where nothing is shared."""
        self.group, self.limits = group, limits
        self._mirror, self._store = mirror, store
        self._in_vain = 0

    def find(self, key: bytes) -> bytes | None:
        """Return the value that was kept under a key, a digest; None: compute it."""
        found = self._mirror.find(self.group, key)
        if found is not None:
            return found
        stored = self._stored(key)
        if stored is None:
            return None
        age_s, value = stored
        self._mirror.keep(self.group, key, value, self.limits.ttl_s - age_s)
        return value

    def _stored(self, key: bytes) -> tuple[float, bytes] | None:
        if self._store is None or (self._in_vain >= _IN_VAIN and key[-1] % _SAMPLED):
            return None
        found = self._store.find(self.group, self.limits, key)
        self._in_vain = self._in_vain + 1 if found is None else 0
        return found

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value; whoever finds it gets the same bytes, or none."""
        self._mirror.keep(self.group, key, value, self.limits.ttl_s)
        if self._store:
            self._store.keep(self.group, self.limits, key, value)


class MemoGroups:
    """The memos of all groups of a worker. One thread."""

    def __init__(self, url: str | None) -> None:
        """url: of the store; None: values stay in this process."""
        self._store = None if url is None else MemoStore(url)
        self._mirror = Mirror()
        self._memos: dict[tuple[str, MemoLimits], Memo] = {}

    def of(self, group: str, limits: MemoLimits) -> Memo:
        """Return a group's."""
        at = group, limits
        if at not in self._memos:
            self._memos[at] = Memo(group, limits, self._mirror, self._store)
        return self._memos[at]

    def close(self) -> None:
        """Write what waits to be written, if that is done in a moment."""
        if self._store:
            self._store.close()
