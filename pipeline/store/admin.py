"""Administer a run in its store: check the server, claim sources, read positions and counters.

The hot path, which is hops and the reads of stages, uses `hop` and `worker_connections`.
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
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.store.hop import (
    drop_unused,
    function,
    load_library,
    note_use,
    replicas_command,
    too_few_replicas,
)
from framegate.pipeline.store.redis_client import connect, store_errors

log = logging.getLogger(__name__)

MIN_VERSION = (7, 2)
HURRY_S = 0.5
REPLICAS_TRIES = 5  # of 2 s each


class StoreAdmin:
    """A connection for the administration of a run, over redis-py. One thread.

    Every method raises StoreLost if the store is away, StoreBusy if it takes no writes now, and
    StoreRefused if it refuses for good.
    """

    def __init__(self, url: str, replicas: int = 0) -> None:
        """Connect.

        replicas  number of replicas that must have the owner of a source before it is served
        """
        self._client = connect(url)
        self.url = url
        self._replicas = replicas
        self.hurried = False

    def hurry(self) -> None:
        """Wait at most HURRY_S for each reply from now on."""
        with contextlib.suppress(StoreLost, StoreBusy):  # connecting asks a cluster for its slots
            self._client = connect(self.url, HURRY_S)
        self.hurried = True

    @property
    def _is_cluster(self) -> bool:
        return isinstance(self._client, redis.RedisCluster)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def prepare(self) -> str:
        """Check the store's servers, load the function library and return the store's identity.

        Raises StoreRefused for a server with a `server_fault`, and StoreBusy if the store is full.
        """
        with store_errors(self.url):
            servers = self._servers()
            for server in servers:
                fault = server_fault(server.info(), self._replicas)
                if fault:
                    raise StoreRefused(f"store {shown(self.url)}: {fault}")
                load_library(server)
            drop_unused(self._client, servers, note_use(self._client))
            self._client.set(keys.IDENTITY, uuid.uuid4().hex, nx=True)
            return cast(bytes, self._client.get(keys.IDENTITY)).decode()

    def _servers(self) -> list[Any]:
        """Return clients of all servers of the store."""
        client = self._client
        if not self._is_cluster:
            return [client]
        primaries = cast(Any, client).get_primaries()
        return [client.get_redis_connection(node) for node in primaries]

    def has_identity(self, identity: str) -> bool:
        """Return whether the store still has the identity that `prepare` returned.

        Raises StoreRefused if its settings now allow it to evict keys.
        """
        with store_errors(self.url):
            for server in self._servers():
                info = server.info("memory")
                if info.get("maxmemory_policy", "noeviction") != "noeviction":
                    raise StoreRefused(f"store {shown(self.url)}: {_EVICTING % info}")
            return bool(self._client.get(keys.IDENTITY) == identity.encode())

    def check_writes(self) -> None:
        """Raise StoreBusy, with the server's message, if the store takes no writes.

        A server with a full disk refuses all commands but pure reads, even PING.
        """
        with store_errors(self.url):
            for server in self._servers():
                server.ping()

    def claim(
        self,
        source: str,
        run: str,
        name: str,
        take_over: bool,
        by_hand: bool = False,
        since: int = 0,
        file: str = "",
    ) -> bool:
        """Make a run the owner of a source; a new owner increments the generation.

        Return whether it continues a file where the owner before it stopped.

        take_over  also if another run owns it
        by_hand    also if it was taken from this run: a user asks for it, or the run is the newest
                   instance of its slot
        since      version of the fleet's plan that gives it to this slot; 0: the run is no slot
        file       identity of the file that a slot reads; "": it is a camera

        Raises SourceOwned if another run owns the source; TakenOver if it was taken from this run;
        StoreBusy if too few replicas have the claim.
        """
        with store_errors(self.url):
            names = [keys.own(source), keys.at(source, "decode")]
            more = (_flag(take_over), _flag(by_hand), str(since), file)
            status, *details = self._replicated("claim", names, run, name, *more)
            if status == b"OWNED":
                raise SourceOwned(
                    f"source {source} is owned by run {details[0].decode()}; stop that run, give "
                    "this source another name, or take it over with --take-over"
                )
            if status == b"SUPERSEDED":
                by = ""
                if details[0]:
                    by = f" (now: {details[0].decode()})"
                raise TakenOver(
                    f"source {source}: another run took it over{by}; this one does not take it "
                    "back by itself. To have it here again, run framegate remove in the other "
                    "run, or start a run with another -d and --take-over"
                )
            self._client.hset(keys.SOURCES, source, name)
            # Read after the claim: no run forgets an owned source with its epochs.
            forgotten = cast(bytes | None, self._client.get(keys.EPOCHS))
            if forgotten:
                self._function("begin_after", [keys.own(source)], run, forgotten.decode())
            return bool(details[0] == b"1")

    def release(self, source: str, run: str, removed: bool = False) -> None:
        """End this run's ownership of a source; do nothing if another run owns it.

        removed  the user removed the source: runs that it was taken from may claim it again, and
                 the store may forget it at once instead of keeping it for a resumed run
        """
        with store_errors(self.url):
            self._function("release", [keys.own(source)], run, _flag(removed))

    def release_all(self, sources: Iterable[str], run: str, removed: bool = False) -> None:
        """Release all these sources, then raise the first error, if there was any.

        Stops at once if the store is one server and away.
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
        """Return the registry model of a source (NAME@DIGEST) and its folder (HOST:FOLDER).

        Both are empty if the model is not in a registry.
        """
        with store_errors(self.url):
            announced = cast(bytes | None, self._client.hget(keys.own(source), "model"))
        model, _, where = (announced or b"").decode().partition(" ")
        return model, where

    def announce_models(self, models: Mapping[str, str], run: str, where: str) -> None:
        """Publish the models of those of these sources that the run owns, for other hosts.

        models  by source: NAME@DIGEST; any other name is not in a registry and clears the model
        where   HOST:FOLDER of the registry
        """
        with store_errors(self.url):
            for source, model in models.items():
                _, at, digest = model.partition("@")
                announced = ""
                if at:
                    announced = f"{model} {where}/{digest}"
                self._function("announce", [keys.own(source)], run, announced)

    def reset_decode(self, source: str) -> None:
        """Drop the state of decode for a source that this run owns and no worker serves."""
        with store_errors(self.url):
            self._client.hdel(keys.at(source, "decode"), "s", "c")

    def detach(self, source: str, stage: str) -> None:
        """Mark a side stage as gone, so that no decoder waits for it."""
        with store_errors(self.url):
            self._function("detach", [keys.room(source), keys.at(source, stage)])

    def _replicated(self, name: str, names: list[str], *args: str) -> Any:
        """Call a function and return its reply when enough replicas have its writes."""
        client = self._client
        if not self._replicas:
            return self._function(name, names, *args)
        if self._is_cluster:
            node = cast(Any, client).get_node_from_key(names[0])
            client = cast(Any, client).get_redis_connection(node)
        missing = ""
        for _ in range(REPLICAS_TRIES):
            # In one pipeline: WAIT covers only the writes of its own connection.
            with client.pipeline(transaction=False) as pipe:
                pipe.fcall(function(name), len(names), *names, *args)
                pipe.execute_command(*replicas_command(self._replicas))
                reply, reached = pipe.execute()
            if reached >= self._replicas or reply[0] != b"OK":
                return reply
            missing = too_few_replicas(reached, self._replicas)
            log.warning("store %s: %s: %s", shown(self.url), name, missing)
        raise StoreBusy(f"store {shown(self.url)}: {missing}")

    def _function(self, name: str, names: list[str], *args: str) -> Any:
        return self._client.fcall(function(name), len(names), *names, *args)

    def sources(self) -> list[str]:
        """Return the names of all sources of the store, sorted."""
        with store_errors(self.url):
            names = cast(list[bytes], self._client.hkeys(keys.SOURCES))
        return sorted(name.decode() for name in names)

    def epoch(self, source: str) -> int:
        """Return the last epoch of a source; 0 before the first."""
        with store_errors(self.url):
            return int(self._client.hget(keys.own(source), "epoch") or 0)

    def owner(self, source: str) -> str | None:
        """Return the run that owns a source; None: no run does."""
        with store_errors(self.url):
            run = cast(bytes | None, self._client.hget(keys.own(source), "run"))
        if not run:
            return None
        return run.decode()

    def was_taken(self, source: str, run: str) -> bool:
        """Return whether another run took a source from this one."""
        with store_errors(self.url):
            listed = cast(bytes | None, self._client.hget(keys.own(source), "superseded"))
            return run.encode() in (listed or b"").split()

    def positions(self, source: str, stages: list[str]) -> dict[str, Position]:
        """Return each stage's position; START before its first commit."""
        with store_errors(self.url):
            pipe = self._client.pipeline(transaction=False)
            for stage in stages:
                pipe.hget(keys.at(source, stage), "p")
            replies = pipe.execute()
        positions = {}
        for stage, position in zip(stages, replies, strict=True):
            positions[stage] = Position.parse(position or b"0-0")
        return positions

    def positions_and_states(
        self, sources: list[str], stages: list[str]
    ) -> dict[str, tuple[dict[str, Position], bytes | None]]:
        """Return the positions of the stages and the state of decode for each source.

        It takes one round trip.
        """
        with store_errors(self.url):
            pipe = self._client.pipeline(transaction=False)
            for source in sources:
                for stage in stages:
                    pipe.hget(keys.at(source, stage), "p")
                pipe.hget(keys.at(source, "decode"), "s")
            replies = iter(pipe.execute())
        by_source = {}
        for source in sources:
            at = {stage: Position.parse(next(replies) or b"0-0") for stage in stages}
            by_source[source] = (at, next(replies))
        return by_source

    def counters(self, source: str) -> dict[str, int]:
        """Return all counters of a source, as they were at one moment."""
        with store_errors(self.url):
            counters = cast(dict[bytes, bytes], self._client.hgetall(keys.count(source)))
        return {name.decode(): int(value) for name, value in counters.items()}


def _flag(value: bool) -> str:
    return str(int(value))


_EVICTING = (
    "may evict keys (maxmemory-policy %(maxmemory_policy)s); allowed is noeviction, else results "
    "would be lost silently"
)


def server_fault(info: dict[str, Any], replicas: int = 0) -> str | None:
    """Return why a server with this INFO cannot be the store; None if it can.

    replicas  the setting [store] replicas
    """
    version = str(info.get("redis_version", "0.0"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < MIN_VERSION:
        return f"version {version}; allowed are Redis 7.2 and later, Valkey 7.2 and later"
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        return _EVICTING % info
    if info.get("role", "master") != "master":
        return "is a read-only replica; allowed is the primary"
    connected = int(info.get("connected_slaves", 0))
    if connected and not replicas:
        return (
            f"has replicas ({connected}), and [store] replicas is 0: after a failover it might not "
            "know the owner of a source and give an epoch twice; set [store] replicas to the "
            f"number of them that must know it before a frame is served, 1 to {connected}"
        )
    if connected < replicas:
        return f"has {connected} replicas connected; [store] replicas = {replicas} needs as many"
    return None
