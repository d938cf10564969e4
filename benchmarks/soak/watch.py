"""Samples of a run from outside: accounting, ids, latencies, and the resources that it holds."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from bisect import bisect
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis

from benchmarks.harness.process_tree import own_memory_bytes, tree
from benchmarks.harness.report import percentile
from benchmarks.soak.guests import Span
from benchmarks.soak.small_disk import Recorded
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.runs import Run

SHAKEN_S = 8.0
SETTLED = 0.2
FLAT_SHARE = 0.05
LOG_MB = 80.0


class Drops(NamedTuple):
    """Frames that a camera had decoded and dropped at a time, UNIX seconds."""

    at: float
    decoded: int
    dropped: int


class Shown:
    """Which frame of a camera each result of its stream has.

    twice  results whose frame was published under another id, and ids that got another frame
    """

    def __init__(self) -> None:
        self.last = ""
        self.twice = 0
        self._frames: dict[str, tuple[int, float | None]] = {}
        self._ids: dict[tuple[int, float], str] = {}

    def has(self, entry: str, result: Result) -> bool:
        """Return whether this very result was seen before; otherwise note it."""
        frame = result.epoch, result.pts
        is_known = self._frames.get(entry) == frame
        if is_known:
            return True
        is_other = entry in self._frames
        self._frames[entry] = frame
        if result.pts is not None:
            is_other |= self._ids.setdefault((result.epoch, result.pts), entry) != entry
        self.twice += is_other
        return False


class Watch:
    """Samples a run from outside: accounting, ids, latencies, and what it holds."""

    def __init__(self, run: Run, sources: Sequence[str], odd: Sequence[str] = ()) -> None:
        """sources: cameras that stay; odd: others that stay, whose latency is not looked at. The
        guests are given with each sample.
        """
        self._run, self._sources, self._odd = run, tuple(sources), tuple(odd)
        self.recorded = Recorded(run.folder)
        self._shown: dict[str, Shown] = {}
        self.latencies: list[tuple[float, float]] = []  # of those that stay: UNIX s, seconds
        self.samples: list[dict[str, float]] = []
        self.results = self.unbalanced = self.unread = 0
        self.counters: dict[str, int] = {}
        self.drops: dict[str, list[Drops]] = {name: [] for name in odd}

    def sample_drops(self) -> None:
        """Note what each of the odd cameras has decoded and dropped so far."""
        for name, counters in counters_of(self._run, self._odd).items():
            if counters:
                dropped = sum(n for key, n in counters.items() if key.startswith("dropped:"))
                self.drops[name].append(Drops(time.time(), counters.get("decoded", 0), dropped))

    def sample(self, elapsed_s: float, guests: Iterable[str]) -> None:
        """Take one sample; a store that is away at this moment is none."""
        try:
            self._read_store((*self._sources, *self._odd, *guests))
        except (StoreLost, StoreBusy, redis.RedisError):
            self.unread += 1
            return
        self.recorded.sample((*self._sources, *self._odd))
        pids = tree(self._run.process.pid)
        self.samples.append(
            {
                "elapsed_s": elapsed_s,
                "memory_mb": own_memory_bytes(self._run.process.pid) / 2**20,
                "descriptors": sum(len(_descriptors(pid)) for pid in pids),
                "shared_mb": _shared_bytes(self._run.process.pid) / 2**20,
                "log_mb": _folder_bytes(self._run.folder / "store") / 2**20,
            }
        )

    def _read_store(self, sources: Sequence[str]) -> None:
        client: Any = redis.Redis.from_url(self._run.url, protocol=2, socket_timeout=5)
        store = StoreAdmin(self._run.url)
        try:
            total: dict[str, int] = {}
            for source in sources:
                counters = store.counters(source)
                self.unbalanced += not _balanced(counters)
                if source in self._sources:
                    for name, n in counters.items():
                        total[name] = total.get(name, 0) + n
                self._follow(client, source)
            self.counters = total
        finally:
            store.close()
            client.close()

    @property
    def doubled(self) -> int:
        """Return how many results came twice."""
        return sum(shown.twice for shown in self._shown.values())

    def _follow(self, client: Any, source: str) -> None:
        """Read on in the published stream.

        If the last entry of the previous look is gone, the store was set back. Then all is read.
        """
        shown = self._shown.setdefault(source, Shown())
        key = keys.results(source)
        since = "-"
        if shown.last and client.xrange(key, shown.last, shown.last):
            since = f"({shown.last}"
        for entry, fields in client.xrange(key, since):
            shown.last = entry.decode()
            if fields[b"k"] != b"frame":
                continue
            result = records.decode_versioned(fields[b"d"], Result)
            if shown.has(shown.last, result):
                continue
            self.results += 1
            if source in self._sources and result.captured_from == "rtcp":
                self.latencies.append((result.captured, result.published - result.captured))

    def slope(self, what: str) -> dict[str, Any]:
        """Mean, most, how much the peaks have grown from the first half to the second, and whether
        that is flat.
        """
        kept = self.samples[int(len(self.samples) * SETTLED) :]
        values = [sample[what] for sample in kept]
        grown = grown_share(values)
        flat = max(values) <= LOG_MB if what == "log_mb" else grown <= FLAT_SHARE
        return {
            "mean": round(statistics.fmean(values), 1),
            "most": round(max(values), 1),
            "grown_share": round(grown, 4),
            "flat": flat,
        }


def grown_share(values: Sequence[float]) -> float:
    """Return how much higher the peaks of the second half are than those of the first."""
    half = len(values) // 2
    first, second = _peak(values[:half] or values), _peak(values[half:])
    return second / first - 1 if first else 0.0


def _peak(values: Sequence[float]) -> float:
    """Mean of the highest tenth: a sawtooth has peaks, not a slope."""
    highest = sorted(values)[-max(1, len(values) // 10) :]
    return statistics.fmean(highest)


def p99_by_span(
    latencies: Iterable[tuple[float, float]], spans: Sequence[Span], kills: Sequence[float]
) -> dict[bool, float]:
    """Seconds, with hostile cameras and without; none of a frame within SHAKEN_S after a kill."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for captured, latency in latencies:
        at = bisect(kills, captured + 1.0)  # in flight at a kill is shaken as well
        if at and captured < kills[at - 1] + SHAKEN_S:
            continue
        for span in spans:
            if span.since <= captured < span.until:
                found[span.hostile].append(latency)
    return {hostile: percentile(each, 0.99) for hostile, each in found.items() if each}


def dropped_share(drops: Sequence[Drops], shaken: Sequence[float]) -> float | None:
    """Return the dropped frames per decoded frame, without the time within SHAKEN_S after a shake;
    None if nothing is left. shaken: UNIX seconds, rising.
    """
    decoded = dropped = 0
    for before, after in itertools.pairwise(drops):
        at = bisect(shaken, after.at)
        is_shaken = at > 0 and before.at < shaken[at - 1] + SHAKEN_S
        if not is_shaken:
            decoded += after.decoded - before.decoded
            dropped += after.dropped - before.dropped
    return round(dropped / decoded, 4) if decoded else None


def _balanced(counters: dict[str, int]) -> bool:
    """Law 4: what is in flight is neither negative nor more than credit and batches allow."""
    return 0 <= _in_flight(counters) <= 64


def _in_flight(counters: dict[str, int]) -> int:
    dropped = sum(n for name, n in counters.items() if name.startswith("dropped:"))
    return counters.get("decoded", 0) - counters.get("published", 0) - dropped


def unaccounted(folder: Path, sources: Iterable[str]) -> int:
    """Return how many frames are neither published nor counted as dropped, nor the contrary, over
    the sources of a run that has ended. folder: its data folder
    """
    embedded = EmbeddedStore(folder / "store", "everysec")
    embedded.start()
    try:
        with closing(StoreAdmin(embedded.url)) as store:
            return sum(abs(_in_flight(store.counters(source))) for source in sources)
    finally:
        embedded.stop()


def _descriptors(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/fd")
    return []


def _shared_bytes(pid: int) -> int:
    """Shared memory that the supervisor holds: nameless files in /dev/shm."""
    sizes = {}
    for descriptor in _descriptors(pid):
        with suppress(OSError):
            path = f"/proc/{pid}/fd/{descriptor}"
            if os.readlink(path).startswith("/dev/shm/"):
                found = os.stat(path)
                sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


def counters_of(run: Run, sources: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the counters of each source; none for those that the store cannot give now."""
    found: dict[str, dict[str, int]] = {name: {} for name in sources}
    store = StoreAdmin(run.url)
    with suppress(StoreLost, StoreBusy, redis.RedisError):
        found = {name: store.counters(name) for name in found}
    store.close()
    return found
