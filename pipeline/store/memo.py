"""What a group of sources remembers: values that may be lost, and never change what is said.

A stage asks for a value by its key before it computes it, and keeps what it computed. First there
is a mirror in the worker's memory, behind it the store, where workers and hosts share it. An answer
of the store costs a wait, on a busy machine a long one: where it has nothing, it is hardly asked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from framegate.pipeline.stage import MemoLimits
from framegate.pipeline.store.memo_store import MemoStore

MIRROR_BYTES = 64 << 20
_IN_VAIN = 128  # questions in a row that the store had nothing for; after them
_SAMPLED = 16  # one in so many keys is asked for, always the same ones
_ENTRY = 300  # bytes that an entry takes beside its key and value, roughly


class Mirror:
    """The values of all groups that a worker used last. One thread."""

    def __init__(
        self, most_bytes: int = MIRROR_BYTES, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.bytes = 0
        self._most, self._now = most_bytes, now
        self._values: OrderedDict[tuple[str, bytes], tuple[float, bytes]] = OrderedDict()

    def find(self, group: str, key: bytes) -> bytes | None:
        """The value, if it is here and not too old."""
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
        """Have it for so long, unless others are used more."""
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
    """One group's. One thread. Nothing raises, nothing waits longer than milliseconds."""

    def __init__(
        self, group: str, limits: MemoLimits, mirror: Mirror, store: MemoStore | None = None
    ) -> None:
        """store: None where nothing is shared."""
        self.group, self.limits = group, limits
        self._mirror, self._store = mirror, store
        self._in_vain = 0

    def find(self, key: bytes) -> bytes | None:
        """The value that was kept under a key, a digest; None: compute it."""
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
        """Remember a value; whoever finds it gets the same bytes, or none."""
        self._mirror.keep(self.group, key, value, self.limits.ttl_s)
        if self._store:
            self._store.keep(self.group, self.limits, key, value)


class Memos:
    """All that a worker's stages remember. One thread."""

    def __init__(self, url: str | None) -> None:
        """url: of the store; None: nothing is shared."""
        self._store = None if url is None else MemoStore(url)
        self._mirror = Mirror()
        self._memos: dict[tuple[str, MemoLimits], Memo] = {}

    def of(self, group: str, limits: MemoLimits) -> Memo:
        """A group's."""
        at = group, limits
        if at not in self._memos:
            self._memos[at] = Memo(group, limits, self._mirror, self._store)
        return self._memos[at]

    def close(self) -> None:
        """Write what waits to be written, if that is done in a moment."""
        if self._store:
            self._store.close()
