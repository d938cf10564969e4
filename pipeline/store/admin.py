"""Administer a run in its store: fitness, claims of sources, positions, counters, side outputs.

The hot path, hops and reads of stages, goes over `hop` and `links`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    FramegateError,
    SourceOwned,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
)
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import (
    drop_unused,
    function,
    load_library,
    note_use,
    replicas_command,
    too_few_replicas,
)

log = logging.getLogger(__name__)

MIN_VERSION = (7, 2)
HURRY_S = 0.5
REPLICAS_TRIES = 5


class StoreAdmin:
    """A thin layer over redis-py, not for the hot path. One thread.

    Every method raises StoreLost where the store is away, StoreBusy where it takes no writes now,
    StoreRefused where it refuses for good.
    """

    def __init__(self, url: str, replicas: int = 0) -> None:
        """replicas: how many must know who owns a source before it is served."""
        self._client = connect(url)
        self.url, self._replicas = url, replicas
        self.hurried = False

    def hurry(self) -> None:
        """Wait no longer than HURRY_S for any answer from now on."""
        with contextlib.suppress(StoreLost, StoreBusy):  # a cluster is asked who holds what
            self._client = connect(self.url, HURRY_S)
        self.hurried = True

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, redis.RedisCluster)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def prepare(self) -> str:
        """Check that the store is fit, load the function library, give the store's identity.

        StoreRefused if it is too old, may evict, is a replica, or has other replicas than is said;
        StoreBusy if it is full.
        """
        with store_errors(self.url):
            servers = self._servers()
            for server in servers:
                fault = unfit(server.info(), self._replicas)
                if fault:
                    raise StoreRefused(f"store {shown(self.url)}: {fault}")
                load_library(server)
            drop_unused(self._client, servers, note_use(self._client))
            self._client.set(keys.IDENTITY, uuid.uuid4().hex, nx=True)
            return cast(bytes, self._client.get(keys.IDENTITY)).decode()

    def _servers(self) -> list[Any]:
        """Return clients of all servers that hold a part of the store."""
        client = self._client
        if not self._is_cluster:
            return [client]
        primaries = cast(Any, client).get_primaries()
        return [client.get_redis_connection(node) for node in primaries]

    def same(self, identity: str) -> bool:
        """Return whether this is still the store that `prepare` saw, not an empty one in its place.

        StoreRefused if it may evict keys by now.
        """
        with store_errors(self.url):
            for server in self._servers():
                info = server.info("memory")
                if info.get("maxmemory_policy", "noeviction") != "noeviction":
                    raise StoreRefused(f"store {shown(self.url)}: {_EVICTING % info}")
            return bool(self._client.get(keys.IDENTITY) == identity.encode())

    def check_writes(self) -> None:
        """See that it takes writes: a server whose disk is full refuses all that is not mere
        reading, even a PING. StoreBusy with its own words.
        """
        with store_errors(self.url):
            for server in self._servers():
                server.ping()

    def claim(
        self, source: str, run: str, name: str, take_over: bool, by_hand: bool = False
    ) -> None:
        """Own a source for a run, with a new generation if it was not the owner before.

        SourceOwned, with the owner's name, if another run has it and it is not to be taken over;
        TakenOver if the source was taken from this run, and nobody asks for it by hand; StoreBusy
        if the claim does not come to the replicas that are asked for.
        """
        with store_errors(self.url):
            flags = ("1" if take_over else "0", "1" if by_hand else "0")
            answer = self._replicated("claim", keys.own(source), run, name, *flags)
            owner = answer[1].decode() if len(answer) > 1 else ""
            if answer[0] == b"OWNED":
                raise SourceOwned(
                    f"source {source} is owned by run {owner}; stop that run, give this source "
                    "another name, or take it over with --take-over"
                )
            if answer[0] == b"SUPERSEDED":
                by = f" (now: {owner})" if owner else ""
                raise TakenOver(
                    f"source {source}: another run took it over{by}; this one does not take it "
                    "back by itself. To have it here again, framegate remove it there; or begin a "
                    "run with another -d and --take-over"
                )
            self._client.hset(keys.SOURCES, source, name)
            # Read once it is ours: from then on nobody forgets it, and its epochs with it.
            if forgotten := cast(bytes | None, self._client.get(keys.EPOCHS)):
                self._function("begin_after", [keys.own(source)], run, forgotten.decode())

    def release(self, source: str, run: str, removed: bool = False) -> None:
        """End this run's ownership, if it is the owner: another run may take the source.

        removed  by its user: runs that it was taken from may have it again, and it need not be
                 kept for a run that is resumed
        """
        with store_errors(self.url):
            self._function("release", [keys.own(source)], run, "1" if removed else "0")

    def release_all(self, sources: Iterable[str], run: str, removed: bool = False) -> None:
        """Release each of these, whatever becomes of the others; then raise the first error.

        A store of one server that is away is not asked once more for each source.
        """
        first: FramegateError | None = None
        for source in sources:
            try:
                self.release(source, run, removed)
            except (StoreLost, StoreBusy, StoreRefused) as error:
                first = first or error
                if isinstance(error, StoreLost) and not self._is_cluster:
                    break
        if first is not None:
            raise first

    def announced_model(self, source: str) -> tuple[str, str]:
        """Return which model of a registry looks at a source, and where its folder is, as
        HOST:FOLDER; both empty where it is none of a registry.
        """
        with store_errors(self.url):
            announced = cast(bytes | None, self._client.hget(keys.own(source), "model"))
        model, _, where = (announced or b"").decode().partition(" ")
        return model, where

    def announce_models(self, models: Mapping[str, str], run: str, where: str) -> None:
        """Tell other hosts which model each of these sources has now, where the run owns it.

        models  by source, NAME@DIGEST; others are not of a registry, and told as none
        where   HOST:FOLDER of models
        """
        with store_errors(self.url):
            for source, model in models.items():
                _, at, digest = model.partition("@")
                told = f"{model} {where}/{digest}" if at else ""
                self._function("announce", [keys.own(source)], run, told)

    def begin_anew(self, source: str) -> None:
        """Forget what decode knows of a source, which is this run's and served by nobody."""
        with store_errors(self.url):
            self._client.hdel(keys.at(source, "decode"), "s", "c")

    def detach(self, source: str, stage: str) -> None:
        """Give a side stage up: nobody waits for it any more."""
        with store_errors(self.url):
            self._function("detach", [keys.room(source), keys.at(source, stage)])

    def _replicated(self, name: str, key: str, *args: str) -> Any:
        """Return a function's reply, once what it wrote is on as many replicas as are asked for."""
        client = self._client
        if not self._replicas:
            return self._function(name, [key], *args)
        if self._is_cluster:
            node = cast(Any, client).get_node_from_key(key)
            client = cast(Any, client).get_redis_connection(node)
        found = 0
        for _ in range(REPLICAS_TRIES):
            # In one write: a wait on another connection than the call's would wait for nothing.
            with client.pipeline(transaction=False) as both:
                both.fcall(function(name), 1, key, *args)
                both.execute_command(*replicas_command(self._replicas))
                answer, found = both.execute()
            if found >= self._replicas or answer[0] != b"OK":
                return answer
            missing = too_few_replicas(found, self._replicas)
            log.warning("store %s: claiming: %s", shown(self.url), missing)
        raise StoreBusy(f"store {shown(self.url)}: {too_few_replicas(found, self._replicas)}")

    def _function(self, name: str, names: list[str], *args: str) -> Any:
        return self._client.fcall(function(name), len(names), *names, *args)

    def sources(self) -> list[str]:
        """Return the names of all sources that the store has not forgotten, sorted."""
        with store_errors(self.url):
            names = cast(list[bytes], self._client.hkeys(keys.SOURCES))
        return sorted(name.decode() for name in names)

    def epoch(self, source: str) -> int:
        """Return the last epoch of a source, 0 if it never had one."""
        with store_errors(self.url):
            return int(self._client.hget(keys.own(source), "epoch") or 0)

    def owner(self, source: str) -> str | None:
        """Return the run that owns a source, None if none does."""
        with store_errors(self.url):
            run = cast(bytes | None, self._client.hget(keys.own(source), "run"))
            return run.decode() if run else None

    def was_taken(self, source: str, run: str) -> bool:
        """Return whether another run took a source from this one, which may not take it back."""
        with store_errors(self.url):
            listed = cast(bytes | None, self._client.hget(keys.own(source), "superseded"))
            return run.encode() in (listed or b"").split()

    def positions(self, source: str, stages: list[str]) -> dict[str, Position]:
        """Return each stage's position; START before its first commit."""
        with store_errors(self.url):
            pipe = self._client.pipeline(transaction=False)
            for stage in stages:
                pipe.hget(keys.at(source, stage), "p")
            found = pipe.execute()
        return {s: Position.parse(p) if p else START for s, p in zip(stages, found, strict=True)}

    def standings(
        self, sources: list[str], stages: list[str]
    ) -> dict[str, tuple[dict[str, Position], bytes | None]]:
        """Return of each source its stages' positions and decode's state. One round trip."""
        with store_errors(self.url):
            pipe = self._client.pipeline(transaction=False)
            for source in sources:
                for stage in stages:
                    pipe.hget(keys.at(source, stage), "p")
                pipe.hget(keys.at(source, "decode"), "s")
            found = iter(pipe.execute())
        standings = {}
        for source in sources:
            at = {stage: Position.parse(next(found) or b"0-0") for stage in stages}
            standings[source] = (at, next(found))
        return standings

    def counters(self, source: str) -> dict[str, int]:
        """Return all counters of a source, read at one moment."""
        with store_errors(self.url):
            found = cast(dict[bytes, bytes], self._client.hgetall(keys.count(source)))
        return {name.decode(): int(value) for name, value in found.items()}


_EVICTING = (
    "may evict keys (maxmemory-policy %(maxmemory_policy)s); allowed is noeviction, else results "
    "would be lost silently"
)


def unfit(info: dict[str, Any], replicas: int = 0) -> str | None:
    """Return why a server with this INFO cannot be the store, None if it can.

    replicas: what [store] replicas says
    """
    version = str(info.get("redis_version", "0.0"))
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < MIN_VERSION:
        return f"version {version}; allowed are Redis 7.2 and later, Valkey 7.2 and later"
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        return _EVICTING % info
    if info.get("role", "master") != "master":
        return "is a read-only replica; allowed is the primary"
    there = int(info.get("connected_slaves", 0))
    if there and not replicas:
        return (
            f"has {there} replica{'s' if there > 1 else ''}, and [store] replicas is 0: after a "
            "failover it would not know who owns a source, and give an epoch twice; allowed is how "
            f"many of them must know that before a frame is served, 1 to {there}"
        )
    if there < replicas:
        return f"has {there} replicas connected; [store] replicas = {replicas} wants as many"
    return None
