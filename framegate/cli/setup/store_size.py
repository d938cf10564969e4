"""The size of a store: the connections, hops and primaries that sources need, for `check`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import redis

from framegate.cli.console.terminal import counted
from framegate.cli.setup.capacity import SPARE
from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.config.sources import frames_of
from framegate.pipeline.contracts.source import Frames
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.store.redis_client import connect, store_errors

# CPU of the server for a hop, in ms: valkey-server with 32 cameras, one hop a frame, the larger of
# two heights. A server runs all functions in one thread.
HOP_CPU_MS: Final = 0.162
HOP_SOURCE: Final = "benchmarks/results/floor.json"
USUAL_FPS: Final = 25.0  # of a source that nobody has opened
OF_A_RUN: Final = 16  # connections of the supervisor, events, sinks and the HTTP process, at most
OF_A_WORKER: Final = 2  # connections of a worker to a server; to a cluster, for each source


@dataclass(frozen=True)
class StoreLoad:
    """The work for a store.

    what     the sources in words
    sources  number of sources
    fps      frames per second of all sources together
    runs     runs, or slots of a fleet
    workers  workers of each run
    hops     hops of a frame: workers that it passes
    """

    what: str
    sources: int
    fps: float
    runs: int
    workers: int
    hops: int

    @property
    def hops_per_s(self) -> float:
        """Return the hops per second of all sources."""
        return self.fps * self.hops

    @property
    def primaries(self) -> int:
        """Return the number of primaries that these hops need."""
        return max(1, math.ceil(self.hops_per_s * HOP_CPU_MS / 1e3 / SPARE))

    def connections(self, servers: int, is_cluster: bool) -> int:
        """Return the connections to one server. servers: those that share the sources"""
        of_workers = self.runs * self.workers
        if is_cluster:
            of_workers = math.ceil(self.sources * self.hops / servers)
        return self.runs * OF_A_RUN + OF_A_WORKER * of_workers


@dataclass(frozen=True)
class StoreSize:
    """The size of a store that answers. most: its `maxclients`; 0: it does not state it"""

    most: int
    primaries: int
    is_cluster: bool


def load_of(config: Config, url: str, rates: Iterable[float]) -> StoreLoad:
    """Return the load of the fleet whose plan the store has, else that of a run of this machine.

    rates  frames per second of each source of the configuration
    StoreLost, StoreBusy, StoreRefused.
    """
    placed = place(stage_specs(config.stages), config.placement)
    workers, hops = len(in_shards(placed, config.workers.shards)), len(placed)
    with closing(FleetStore(url)) as store:
        plan = store.plan()
    if plan is None or not plan.sources:
        each = list(rates)
        words = f"{counted(len(each), 'source')} with {sum(each):.3g} frames/s"
        return StoreLoad(words, len(each), sum(each), 1, workers, hops)
    fps = 0.0
    for source in plan.sources.values():
        fps += wanted_fps(USUAL_FPS, frames_of(source.keys.get("frames", "all")))
    words = (
        f"the fleet's {counted(len(plan.sources), 'source')} in {counted(len(plan.slots), 'slot')} "
        f"with {fps:.6g} frames/s ({USUAL_FPS:g} each, or its max_fps)"
    )
    return StoreLoad(words, len(plan.sources), fps, len(plan.slots), workers, hops)


def size_of(url: str) -> StoreSize:
    """Return the size of a store. StoreLost, StoreBusy, StoreRefused."""
    with store_errors(url), closing(connect(url)) as client:
        clients: dict[str, Any] = client.info("clients")
        primaries, is_cluster = 1, isinstance(client, redis.RedisCluster)
        if is_cluster:
            primaries = len(client.get_primaries())
    return StoreSize(int(clients.get("maxclients", 0)), primaries, is_cluster)


def needs_in_words(load: StoreLoad, size: StoreSize) -> str:
    """Return what a load needs, and what the store has."""
    connections = load.connections(size.primaries, size.is_cluster)
    return (
        f"{load.what} need {load.hops_per_s:.6g} hops/s, {_primaries(load.primaries)} and "
        f"about {connections} connections\n"
        f"it has {_primaries(size.primaries)} and maxclients {size.most or 'unknown'}; a "
        f"hop takes {HOP_CPU_MS:g} ms of a primary's core ({HOP_SOURCE}), of which {SPARE:.0%} may "
        "be used"
    )


def _primaries(number: int) -> str:
    if number == 1:
        return "1 primary"
    return f"{number} primaries"


def size_doubts(load: StoreLoad, size: StoreSize) -> list[str]:
    """Return what the store has too little of, with remedies."""
    doubts = []
    connections = load.connections(size.primaries, size.is_cluster)
    if size.most and connections > size.most:
        doubts.append(
            f"{connections} connections are needed, and maxclients is {size.most}: raise it"
        )
    if load.primaries > size.primaries:
        doubts.append(
            f"{load.hops_per_s:.6g} hops/s need {load.primaries} primaries: split the sources over "
            f"{load.primaries} stores, each with a fleet of its own, or use a cluster with as "
            "many primaries"
        )
    return doubts


def wanted_fps(fps: float, frames: Frames) -> float:
    """Return the frames per second to process of a source of `fps`; unknown for key frames."""
    return min(fps / frames.every, frames.max_fps or fps)
