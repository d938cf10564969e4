"""What a person wants to see of a source, read from the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from pipeline import keys, records
from pipeline.hop import END
from pipeline.latency import PREFIX, percentile
from pipeline.records import End, Result
from pipeline.store_faults import store_errors
from pipeline.store_url import connect

State = Literal["waiting", "running", "stopped", "finished", "failed"]
RECENT = 30


@dataclass(frozen=True)
class Sample:
    """A source at one moment: its counters, its last published results, and its end, if any."""

    taken_mono: float
    counters: Mapping[str, int]
    results: Sequence[Result]
    end: End | None
    started: bool


@dataclass(frozen=True)
class View:
    """A source over the time between two samples.

    fps        published frames a second; latencies in seconds, arrival to publish
    objects    objects a frame by label, over the last results
    """

    source: str
    state: State
    decoded: int
    published: int
    failed: int
    dropped: int
    fps: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    objects: Mapping[str, float]
    fault: str | None


class Viewer:
    """Samples sources over its own connection. One thread."""

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._url = url
        self._before: dict[str, Sample] = {}

    def sources(self) -> list[str]:
        """Names of all sources of the store, sorted."""
        with store_errors(self._url):
            return sorted(name.decode() for name in self._client.hkeys(keys.SOURCES))

    def look(self, sources: Sequence[str]) -> list[View]:
        """Each source since the last look (the first time: since its beginning)."""
        views = []
        for source in sources:
            now = self._sample(source)
            views.append(view(source, self._before.get(source), now))
            self._before[source] = now
        return views

    def forget(self) -> None:
        """Let the next look be since the beginning again."""
        self._before.clear()

    def _sample(self, source: str) -> Sample:
        with store_errors(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.hgetall(keys.count(source))
            pipe.xrevrange(keys.results(source), count=RECENT)
            pipe.hget(keys.at(source, "decode"), "p")
            counts, entries, started = pipe.execute()
        results: list[Result] = []
        end = None
        for index, (_, fields) in enumerate(entries):
            if fields[b"k"] != END.encode():
                results.append(records.decode_versioned(fields[b"d"], Result))
            elif index == 0:
                end = records.decode_versioned(fields[b"d"], End)
        counters = {name.decode(): int(value) for name, value in counts.items()}
        return Sample(time.monotonic(), counters, results, end, bool(started))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def view(source: str, before: Sample | None, now: Sample) -> View:
    """What changed between two samples, and what stands."""
    old = before.counters if before else {}
    change = {name: n - old.get(name, 0) for name, n in now.counters.items()}
    recent = change if any(n for name, n in change.items() if PREFIX in name) else now.counters
    elapsed = now.taken_mono - before.taken_mono if before else 0.0
    objects = Counter(o.label for result in now.results for o in result.objects)
    return View(
        source=source,
        state=_state(now),
        decoded=now.counters.get("decoded", 0),
        published=now.counters.get("published", 0),
        failed=now.counters.get("failed", 0),
        dropped=sum(n for name, n in now.counters.items() if name.startswith("dropped:")),
        fps=change.get("published", 0) / elapsed if elapsed else 0.0,
        p50_s=percentile(recent, 0.50),
        p95_s=percentile(recent, 0.95),
        p99_s=percentile(recent, 0.99),
        objects={label: n / len(now.results) for label, n in objects.most_common()},
        fault=now.end.fault if now.end else None,
    )


def _state(now: Sample) -> State:
    if now.end is not None and now.end.last:
        return "failed" if now.end.fault else "finished"
    return "running" if now.started else "waiting"


_STYLES = {
    "waiting": "yellow",
    "running": "green",
    "stopped": "yellow",
    "finished": "bold",
    "failed": "red",
}


def as_table(views: Sequence[View]) -> Table:
    """The views as a table for a terminal."""
    table = Table(expand=False)
    table.add_column("source")
    table.add_column("state")
    columns = ("frames", "fps", "p50 ms", "p95 ms", "p99 ms", "dropped", "failed")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("objects a frame")
    for v in views:
        objects = ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:4])
        table.add_row(
            v.source,
            f"[{_STYLES[v.state]}]{v.state}[/]",
            str(v.published),
            f"{v.fps:.1f}",
            *(f"{p * 1e3:.0f}" if p is not None else "-" for p in (v.p50_s, v.p95_s, v.p99_s)),
            str(v.dropped),
            str(v.failed),
            v.fault or objects or "-",
        )
    return table


def as_line(v: View) -> str:
    """A view as one line of text, for logs."""
    latency = f", p50 {v.p50_s * 1e3:.0f} ms, p99 {(v.p99_s or 0) * 1e3:.0f} ms" if v.p50_s else ""
    objects = ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:3])
    return (
        f"{v.source}: {v.state}, {v.published} frames, {v.fps:.1f} fps{latency}, "
        f"{v.dropped} dropped, {v.failed} failed; a frame: {objects or 'no objects'}"
    )
