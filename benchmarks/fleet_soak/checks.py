"""Check the fleet from outside: episodes, memory, silence, recordings, and its logs."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_soak.soak_fleet import HOSTS, SoakFleet
from benchmarks.harness.process_tree import memory_of, own_memory_bytes
from benchmarks.soak.small_disk import Recorded
from benchmarks.soak.watch import SETTLED, grown_share
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import (
    Change,
    EventEntry,
    read_events,
    read_last_events,
)
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.store.hop import END
from tests.support.runs import environment

ENGINE: Final = "keeper"
ALL: Final = "all slots"
_TRACEBACK: Final = re.compile(r"^Traceback .*(?:\n[ \t].*)*\n(\S.*)", re.MULTILINE)
_ERROR: Final = re.compile(r"^\S+ ERROR +(.*)", re.MULTILINE)
_SHOWN: Final = 20


@dataclass
class Episodes:
    """What the streams of the stage `events` had when the fleet was at rest.

    started, ended  episodes
    faults          changes that came twice, or in an order that cannot be
    """

    started: int = 0
    ended: int = 0
    faults: list[str] = field(default_factory=list)

    def read(self, fleet: SoakFleet) -> None:
        """Read all changes of all sources."""
        for source in fleet.sources:
            seen: dict[str, list[Change]] = {}
            for identity, fields in fleet.client.xrange(keys.out(source, keys.EVENTS)):
                entry = _entry(source, Position.parse(identity), fields)
                for change in entry.changes.changes if entry is not None else ():
                    seen.setdefault(change.episode, []).append(change)
            self._check(seen)

    def _check(self, episodes: Mapping[str, Sequence[Change]]) -> None:
        for episode, changes in episodes.items():
            ids = Counter(change.id for change in changes)
            self.faults += [f"{each} came {n} times" for each, n in ids.items() if n > 1]
            steps = [change.step for change in changes]
            is_ended = steps[-1] == "end"
            middle = steps[1:]
            if is_ended:
                middle = steps[1:-1]
            if steps[0] != "start" or set(middle) - {"update"}:
                self.faults.append(f"{episode} has the steps {steps}")
            self.started += 1
            self.ended += is_ended


def _entry(source: str, position: Position, fields: Mapping[bytes, bytes]) -> EventEntry | None:
    if fields[b"k"] != END.encode():
        return read_events(source, position, fields[b"d"])
    return read_last_events(source, position, records.decode_versioned(fields[b"d"], End))


class Memory:
    """Samples the anonymous memory of each slot with its workers, and of an engine, in MB.

    That of the engine is the mean of the hosts that are up, so a killed host does not change it.
    """

    def __init__(self, fleet: SoakFleet) -> None:
        """Sample nothing so far."""
        self._fleet = fleet
        self._samples: dict[str, list[tuple[float, float]]] = {
            name: [] for name in (*fleet.all_slots, ALL, ENGINE)
        }

    def sample(self, elapsed_s: float) -> None:
        """Take one sample of what is up."""
        slots = 0
        engines: list[int] = []
        for name in HOSTS:
            for slot, pid in self._fleet.runs(name).items():
                size = own_memory_bytes(pid)
                slots += size
                self._samples[slot].append((elapsed_s, size / 1e6))
            engine = sum(memory_of(pid) for pid in self._fleet.engine(name))
            if engine:
                engines.append(engine)
        self._samples[ALL].append((elapsed_s, slots / 1e6))
        if engines:
            self._samples[ENGINE].append((elapsed_s, statistics.fmean(engines) / 1e6))

    def rows(self, seconds: float) -> dict[str, dict[str, float]]:
        """Return by slot: the median of the first and last fifth after the caches are full, and how
        much higher the peaks of the second half are than those of the first.
        """
        rows = {}
        for name, samples in self._samples.items():
            kept = [size for at, size in samples if at >= seconds * SETTLED] or [0.0]
            part = max(1, len(kept) // 5)
            rows[name] = {
                "begin_mb": round(_median(kept[:part]), 1),
                "end_mb": round(_median(kept[-part:]), 1),
                "grown_share": round(grown_share(kept), 4),
            }
        return rows


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


class Silence:
    """Follows how long a source has no result while store, links and hosts are up.

    Time in which something waits for its repair does not count, and does not begin it again.

    worst_s  the longest such time so far, and its source
    """

    def __init__(self, fleet: SoakFleet) -> None:
        """Look at nothing so far."""
        self._fleet = fleet
        self._counts: dict[str, int] = {}
        self._silent_s: dict[str, float] = {}
        self._looked_s: float | None = None
        self.worst_s: tuple[float, str] = (0.0, "")

    def sample(self, now_s: float, is_whole: bool) -> None:
        """Look at all sources. is_whole: whether nothing waits for its repair"""
        more_s = 0.0
        if is_whole and self._looked_s is not None:
            more_s = now_s - self._looked_s
        self._looked_s = now_s
        for source, count in zip(self._fleet.sources, self._fleet.published(), strict=True):
            if count == self._counts.get(source):
                self._silent_s[source] += more_s
            else:
                self._counts[source], self._silent_s[source] = count, 0.0
            self.worst_s = max(self.worst_s, (round(self._silent_s[source], 1), source))


class Recordings:
    """Follows the recordings of each slot's data folder."""

    def __init__(self, fleet: SoakFleet) -> None:
        """Follow nothing so far."""
        self._sources = fleet.sources
        self._of = {slot: Recorded(fleet.data(slot)) for slot in fleet.all_slots}

    def sample(self) -> None:
        """Note which files there are."""
        for recorded in self._of.values():
            recorded.sample(self._sources)

    def files(self) -> int:
        """Return how many files were acknowledged."""
        return sum(recorded.files for recorded in self._of.values())

    def lost(self) -> int:
        """Return how many files are lost."""
        return sum(sum(recorded.lost().values()) for recorded in self._of.values())


def fsck_faults(fleet: SoakFleet) -> list[str]:
    """Return what `framegate fsck` finds in the data folder of each slot, and in the store."""
    faults = []
    for slot in fleet.all_slots:
        words = ("fsck", str(fleet.data(slot)), "--store", fleet.store.url, "--json")
        done = subprocess.run(
            (sys.executable, "-m", "framegate.cli", *words),
            env=environment(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            faults += [f"{slot}, exit code {done.returncode}: {line}" for line in said]
    return faults


def logged(logs: Sequence[Path]) -> dict[str, Any]:
    """Return the last lines of tracebacks in the logs of the hosts, and the errors, with counts."""
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    errors = Counter(re.sub(r"\d+", "N", line) for line in _ERROR.findall(text))
    return {
        "tracebacks": Counter(_TRACEBACK.findall(text)),
        "errors": dict(errors.most_common(_SHOWN)),
    }
