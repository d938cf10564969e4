"""Sample the sources of a store, and derive rates, latencies and states from two samples.

`source_table` shows a View on a terminal and in logs; the HTTP API returns it as JSON.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.drops import drops_of
from framegate.pipeline.contracts.records import Connection, DecodeState, End, SideOutput
from framegate.pipeline.contracts.results import PromiseNews, Result
from framegate.pipeline.store.hop import END
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.telemetry.counters import escalations_of, looks_of, share_looked
from framegate.pipeline.telemetry.detector_choice import line_of
from framegate.pipeline.telemetry.histograms import PREFIX, percentile
from framegate.pipeline.telemetry.little_found import advice_of

State = Literal[
    "waiting", "connecting", "running", "lost", "stopped", "finished", "failed", "removed"
]
RECENT = 30  # results that a sample contains
WINDOW_S = 5.0  # shortest period for a rate, if samples are taken more often
LONGEST_S = 60.0  # a running source that publishes nothing for this long has a rate of 0
LEAST_S = 0.5  # a shorter period gives no rate


@dataclass(frozen=True)
class Sample:
    """A source at one moment: its counters, its last published results, and its end, if any.

    done        decode has finished; without it, an end may belong to an earlier run
    connection  connection of a camera
    promise     last state of its promise
    owned       a run owns the source
    removed     it was removed from the last run that owned it
    hurried     a file at full speed, whose frames queue for the network
    lasts_s     duration of a file, from its container
    """

    taken_mono: float
    counters: Mapping[str, int]
    results: Sequence[Result]
    end: End | None
    started: bool
    done: bool = True
    connection: Connection | None = None
    owned: bool = True
    removed: bool = False
    promise: PromiseNews | None = None
    hurried: bool = False
    lasts_s: float | None = None


@dataclass(frozen=True)
class View:
    """A source over the time between two samples.

    since       UNIX seconds since when a camera is in its state
    drops       dropped frames by reason
    in_flight   frames that are decoded but neither published nor dropped
    late        packets of a camera that were skipped because decoding fell behind
    reconnects  number of times that a camera came back
    clock_off_s  seconds by which the camera's clock is ahead of this host's (negative: behind), if
                it is more than a day, so that frames get their time of arrival; else 0
    url_fault   why the recorded stream of a source with `look_at` is away; None: it is here
    fps         published frames per second; None if the period is too short
    p50_s, ...  latencies in seconds, from arrival to publication; None for a file at full speed,
                because its frames queue up to the credit
    objects     objects per frame by label, over the last results
    looked      share of the recent frames, 0..1, with a look; None without frames
    looks       frames since the beginning by kind of look and by reason
    escalations  frames for the heavy model: those that are done, and others by reason
    promise     state of the promise, if there is one
    detector    what detects in its last picture, and what would find more; None without a result
    advice      what to try, if much moved and little was found
    done        share of a file, 0..1, that is published
    left_s      seconds until a file ends, at the current rate
    """

    source: str
    state: State
    since: float | None
    decoded: int
    published: int
    failed: int
    dropped: int
    drops: Mapping[str, int]
    late: int
    in_flight: int
    reconnects: int
    fps: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    objects: Mapping[str, float]
    fault: str | None
    looked: float | None
    looks: Mapping[str, Mapping[str, int]]
    escalations: Mapping[str, int]
    promise: PromiseNews | None
    done: float | None = None
    left_s: float | None = None
    clock_off_s: float = 0.0
    url_fault: str | None = None
    detector: str | None = None
    advice: str | None = None


class Viewer:
    """Samples sources over its own connection, `client`. One thread."""

    def __init__(self, url: str, ended: bool = False) -> None:
        """Connect to a store. ended: no run is active, although a killed run left its traces."""
        self.client = connect(url)
        self._url = url
        self._ended = ended
        self._before: dict[str, tuple[Sample, Sample]] = {}  # an older and a newer sample

    def sources(self) -> list[str]:
        """Return the names of all sources of the store, sorted."""
        with store_errors(self._url):
            return sorted(name.decode() for name in self.client.hkeys(keys.SOURCES))

    def look(self, sources: Sequence[str]) -> list[View]:
        """Return each source over the last seconds, at the first call since its beginning.

        The period is at least WINDOW_S and ends after a published frame, so frequent calls get
        steady rates, and a source with one frame in ten seconds is not shown as stopped.
        """
        views = []
        for source in sources:
            now = self.sample(source)
            older, newer = self._before.get(source, (None, None))
            if older is None or newer is None:
                self._before[source] = (now, now)
            else:
                period_s = now.taken_mono - newer.taken_mono
                has_news = _published(now) > _published(newer) or period_s >= LONGEST_S
                if period_s >= WINDOW_S and has_news:
                    older = newer
                    self._before[source] = (older, now)
            views.append(view(source, older, now))
        for gone in self._before.keys() - set(sources):
            del self._before[gone]
        return views

    def forget(self) -> None:
        """Make the next `look` cover the time since the beginning."""
        self._before.clear()

    def sample(self, source: str) -> Sample:
        """Return a source at this moment."""
        with store_errors(self._url):
            pipe = self.client.pipeline(transaction=False)
            pipe.hgetall(keys.count(source))
            pipe.xrevrange(keys.results(source), count=RECENT)
            pipe.hmget(keys.at(source, "decode"), "p", "s", "c")
            pipe.hmget(keys.own(source), "run", "name")
            pipe.xrevrange(keys.out(source, keys.CERTIFY), count=2)
            counts, entries, decode_at, (run, owner), news = pipe.execute()
        started, state, connection = decode_at
        results: list[Result] = []
        end = None
        for index, (_, fields) in enumerate(entries):
            if fields[b"k"] != END.encode():
                results.append(records.decode_versioned(fields[b"d"], Result))
            elif index == 0:
                end = records.decode_versioned(fields[b"d"], End)
        sample = Sample(
            time.monotonic(),
            {name.decode(): int(value) for name, value in counts.items()},
            results,
            end,
            bool(started),
            done=False,
            owned=bool(run) and not self._ended,
            removed=not run and owner == b"",
            promise=_promise(news),
        )
        if connection:
            connected = records.decode_versioned(connection, Connection)
            sample = replace(sample, connection=connected)
        if state:
            decoding = records.decode(state, DecodeState)
            hurried = connection is None and decoding.pace is None
            sample = replace(sample, done=decoding.done, hurried=hurried, lasts_s=decoding.lasts_s)
        return sample

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def _published(sample: Sample) -> int:
    return sample.counters.get("published", 0)


def _rate(published: int, elapsed: float, state: State) -> float | None:
    if elapsed < LEAST_S or (not published and elapsed < LONGEST_S and state == "running"):
        return None
    return published / elapsed


def view(source: str, before: Sample | None, now: Sample) -> View:
    """Return a source over the time between two samples.

    before  None: since the beginning, without a rate
    """
    old: Mapping[str, int] = {}
    elapsed_s = 0.0
    if before is not None:
        old = before.counters
        elapsed_s = now.taken_mono - before.taken_mono
    recent: Mapping[str, int] = {name: n - old.get(name, 0) for name, n in now.counters.items()}
    published = recent.get("published", 0)
    if not any(n for name, n in recent.items() if PREFIX in name):
        recent = now.counters  # nothing was published in this period
    p50_s = p95_s = p99_s = None
    if not now.hurried:
        p50_s, p95_s, p99_s = (percentile(recent, share) for share in (0.5, 0.95, 0.99))
    count = now.counters.get
    drops = drops_of(now.counters)
    state = _state(now)
    seen = View(
        source=source,
        state=state,
        since=None,
        decoded=count("decoded", 0),
        published=count("published", 0),
        failed=count("failed", 0),
        dropped=sum(drops.values()),
        drops=drops,
        late=count("late", 0),
        in_flight=count("decoded", 0) - count("published", 0) - sum(drops.values()),
        reconnects=max(0, count("connects", 0) - 1),
        fps=_rate(published, elapsed_s, state),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        objects=_objects_per_frame(now.results),
        fault=None,
        looked=share_looked(looks_of(recent)),
        looks=looks_of(now.counters),
        escalations=escalations_of(now.counters),
        promise=now.promise,
        done=_done(now),
        detector=_detector(now),
        advice=_advice(now),
    )
    if state in ("finished", "failed", "removed"):
        if now.end is not None:
            seen = replace(seen, fault=now.end.fault)
        return seen
    # The newest end may belong to an earlier run, so only the connection counts here.
    if before is not None:
        seen = replace(seen, left_s=_left_s(before, now))
    if now.connection is not None:
        seen = _with_connection(seen, now.connection)
    return seen


def _with_connection(seen: View, camera: Connection) -> View:
    return replace(
        seen,
        since=camera.since,
        fault=camera.fault,
        clock_off_s=camera.clock_off_s,
        url_fault=camera.url_fault,
    )


def _objects_per_frame(results: Sequence[Result]) -> dict[str, float]:
    """Return the mean number of objects by label, the most frequent first."""
    labels: Counter[str] = Counter()
    for result in results:
        labels.update(detected.label for detected in result.objects)
    return {label: count / len(results) for label, count in labels.most_common()}


def _detector(now: Sample) -> str | None:
    if not now.results:
        return None
    newest = now.results[0]
    return line_of(newest.models, *newest.look_size)


def _advice(now: Sample) -> str | None:
    if not now.results:
        return None
    newest = now.results[0]
    return advice_of(now.counters, newest.models, newest.look_size)


def _done(now: Sample) -> float | None:
    """Return the share of a file up to the newest result, by its time stamps."""
    if not now.results or not now.lasts_s:
        return None
    pts = now.results[0].pts
    if pts is None:
        return None
    return min(1.0, max(0.0, pts / now.lasts_s))


def _left_s(before: Sample, now: Sample) -> float | None:
    old = _done(before) or 0.0
    new = _done(now)
    if new is None or new <= old:
        return None
    return (1 - new) * (now.taken_mono - before.taken_mono) / (new - old)


def _promise(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> PromiseNews | None:
    """Return the newest state of a promise; the end of a source contains the last one."""
    for _, fields in entries:
        if fields[b"k"] != END.encode():
            news = records.decode_versioned(fields[b"d"], SideOutput).said
            return records.decode(news, PromiseNews)
        last_news = records.decode_versioned(fields[b"d"], End).said.get(keys.CERTIFY)
        if last_news is not None:
            return records.decode(last_news, PromiseNews)
    return None


def _state(now: Sample) -> State:
    if now.removed:
        return "removed"
    if now.end is not None and now.end.last and now.done:
        if now.end.fault:
            return "failed"
        return "finished"
    if now.owned and now.connection is not None and now.connection.state != "connected":
        return now.connection.state
    if not now.started:
        return "waiting"
    if now.owned:
        return "running"
    return "stopped"
