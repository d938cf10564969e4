"""Reads result streams from outside as they grow, and checks what must never happen.

All tests of fleets use it. Nothing of Framegate's own code is used: any Redis client sees the same.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
import redis

from tests.support.commands import Reader

LOOK_S: Final = 0.05
AWAY: Final = (redis.ConnectionError, redis.TimeoutError)  # a test kills the store, or cuts it off
TIMES: Final = ("captured", "published")

Parts = tuple[int, int]


@dataclass
class _Source:
    """What was seen of a source; `digests` by the id of an entry, in the order of the stream."""

    name: str
    last: str = "0-0"
    digests: dict[str, bytes] = field(default_factory=dict)
    frames: int = 0
    generation: int = 0
    owners: dict[int, set[bytes]] = field(default_factory=dict)


class Checker:
    """Follows sources until `close`, which raises what was wrong.

    looks  how often it has read all that a source has

    Ids grow, so no entry of an earlier epoch follows one of a later epoch. No id has two contents.
    No entry has an epoch that was not given. A source has one owner in each generation, and
    generations grow. At each moment, decoded = published + dropped + in flight, and the counter of
    published frames is the number of frames in the stream.
    """

    def __init__(
        self, url: str, *sources: str, may_lose: bool = False, every_s: float = LOOK_S
    ) -> None:
        """Begin to follow.

        may_lose  whether the store may be set back, as by a failover: then entries may be lost, and
                  each that is published again has the same content, except for its times
        every_s   seconds from the end of a look at all sources to the next one
        """
        self._reader = Reader(url)
        self._may_lose = may_lose
        self._every_s = every_s
        self._sources = [_Source(name) for name in sources]
        self._faults: list[str] = []
        self.looks = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._closing.wait(self._every_s):
            for source in self._sources:
                with suppress(*AWAY):
                    self._look(source)

    def _look(self, source: _Source) -> dict[str, int]:
        """Read all that a source has at one moment; return its counters."""
        key = f"fg:{{{source.name}}}"
        pipe = self._reader.client.pipeline(transaction=True)
        pipe.hmget(f"{key}:own", "run", "generation", "epoch")
        pipe.hgetall(f"{key}:count")
        pipe.hget(f"{key}:at:decode", "p")
        pipe.xrange(f"{key}:results", f"({source.last}", "+")
        own, counts, decoded_to, entries = pipe.execute()
        self.looks += 1
        for entry, fields in entries:
            self._note(source, entry.decode(), fields)
        counters = {name.decode(): int(value) for name, value in counts.items()}
        self._check_owner(source, own)
        if not self._may_lose:
            self._check_epoch(source, int(own[2] or 0))
            self._check_counters(source, counters, (decoded_to or b"0-0").decode())
        return counters

    def _note(self, source: _Source, entry: str, fields: dict[bytes, bytes]) -> None:
        if _parts(entry) <= _parts(source.last):
            self._faults.append(f"{source.name}: {entry} follows {source.last}")
        source.last = entry
        source.frames += fields[b"k"] == b"frame"
        source.digests[entry] = self._digest(fields)

    def _digest(self, fields: dict[bytes, bytes]) -> bytes:
        data = fields[b"d"]
        if self._may_lose:
            record: dict[str, Any] = msgpack.unpackb(data)
            data = msgpack.packb({k: v for k, v in record.items() if k not in TIMES})
        return hashlib.sha256(fields[b"k"] + data).digest()

    def _check_owner(self, source: _Source, own: list[bytes | None]) -> None:
        run, generation = own[0], int(own[1] or 0)
        if generation < source.generation and not self._may_lose:
            self._faults.append(f"{source.name}: generation {generation} after {source.generation}")
        source.generation = generation
        if run:
            source.owners.setdefault(generation, set()).add(run)

    def _check_epoch(self, source: _Source, given: int) -> None:
        if _parts(source.last)[0] > given:
            self._faults.append(f"{source.name}: {source.last} was published, given was {given}")

    def _check_counters(self, source: _Source, counters: dict[str, int], decoded_to: str) -> None:
        flight = _in_flight(counters)
        published = counters.get("published", 0)
        if published != source.frames:
            self._faults.append(
                f"{source.name}: {published} were counted as published, and there are "
                f"{source.frames} frames up to {source.last}"
            )
        (epoch, seq), (last_epoch, last_seq) = _parts(decoded_to), _parts(source.last)
        if flight < 0 or (epoch == last_epoch and flight > seq - last_seq):
            self._faults.append(
                f"{source.name}: {flight} in flight, decoded to {decoded_to} and published to "
                f"{source.last}: {counters}"
            )

    def close(self) -> None:
        """End, look a last time at all entries, and assert that nothing was wrong."""
        self.stop()
        for source in self._sources:
            counters = self._look(source)
            whole = self._reader.client.xrange(f"fg:{{{source.name}}}:results")
            now = {entry.decode(): self._digest(fields) for entry, fields in whole}
            for entry, digest in now.items():
                if source.digests.get(entry) != digest:
                    self._faults.append(f"{source.name}: {entry} came too late, or has changed")
            if not self._may_lose:
                for entry in source.digests.keys() - now.keys():
                    self._faults.append(f"{source.name}: {entry} is gone")
                if _in_flight(counters):
                    self._faults.append(f"{source.name} is not at rest: {counters}")
            self._faults += [
                f"{source.name}: generation {generation} has the owners {runs}"
                for generation, runs in source.owners.items()
                if len(runs) > 1
            ]
        self._reader.close()
        assert self.looks > len(self._sources), "nothing was seen while the streams grew"
        assert not self._faults, "\n".join(self._faults)

    def stop(self) -> None:
        """End without a verdict."""
        self._closing.set()
        self._thread.join()


def _in_flight(counters: dict[str, int]) -> int:
    dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
    return counters.get("decoded", 0) - counters.get("published", 0) - dropped


def _parts(position: str) -> Parts:
    epoch, _, seq = position.partition("-")
    return int(epoch), int(seq)


@contextmanager
def checked(url: str, *sources: str, may_lose: bool = False) -> Iterator[Checker]:
    """Check these sources during the block, whose end must find them at rest."""
    checker = Checker(url, *sources, may_lose=may_lose)
    try:
        yield checker
    except BaseException:
        checker.stop()
        raise
    checker.close()
