"""Sample the sources of a store, and show them as a table or as lines of text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import DROPPED, Connection, DecodeState, End, SideOutput
from framegate.pipeline.contracts.results import PromiseNews, Result, in_short
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.hop import END
from framegate.pipeline.system.clocks import clock_in_words
from framegate.pipeline.telemetry.counters import (
    PREFIX,
    escalations_of,
    looks_of,
    percentile,
    share_looked,
    with_prefix,
)

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
    fps         published frames per second; None if the period is too short
    p50_s, ...  latencies in seconds, from arrival to publication; None for a file at full speed,
                because its frames queue up to the credit
    objects     objects per frame by label, over the last results
    looked      share of the recent frames, 0..1, with a look; None without frames
    looks       frames since the beginning by kind of look and by reason
    escalations  frames for the heavy model: those that are done, and others by reason
    promise     state of the promise, if there is one
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
    labels: Counter[str] = Counter()
    for result in now.results:
        labels.update(detected.label for detected in result.objects)
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
        objects={label: n / len(now.results) for label, n in labels.most_common()},
        fault=None,
        looked=share_looked(looks_of(recent)),
        looks=looks_of(now.counters),
        escalations=escalations_of(now.counters),
        promise=now.promise,
        done=_done(now),
    )
    if state in ("finished", "failed", "removed"):
        if now.end is not None:
            seen = replace(seen, fault=now.end.fault)
        return seen
    # The newest end may belong to an earlier run, so only the connection counts here.
    if before is not None:
        seen = replace(seen, left_s=_left_s(before, now))
    camera = now.connection
    if camera is not None:
        seen = replace(seen, since=camera.since, fault=camera.fault, clock_off_s=camera.clock_off_s)
    return seen


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


def drops_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Return the dropped frames by reason."""
    return with_prefix(counters, DROPPED)


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


STYLES = {
    "waiting": "yellow",
    "connecting": "yellow",
    "running": "green",
    "lost": "red",
    "stopped": "yellow",
    "finished": "bold",
    "failed": "red",
    "removed": "dim",
}


LEFT_OUT = (
    *("p95 ms", "p50 ms", "degraded", "looked", "p99 ms", "late", "asked", "failed", "promise"),
    *("dropped", "done, left", "objects a frame"),
)
WRAPPED = ("promise", "objects a frame")
WORDS = 16  # characters of a column that may wrap
GAP = 2  # characters between two columns
HEAD = 2  # lines of the table's head


def as_table(views: Sequence[View], width: int | None = None, height: int | None = None) -> Group:
    """Return the views as a table, and below it a line for each fault.

    width, height  size of the terminal; None: unlimited. If there are too few lines, sources with
                   faults are shown first, and the last line has the number of hidden sources
    """
    faults = [v for v in views if v.fault]
    shown = list(views)
    hidden = 0
    if height is not None and len(views) + len(faults) + HEAD > height:
        faults = faults[: height // 3]
        rows = max(1, height - HEAD - len(faults) - 1)
        shown = sorted(views, key=lambda v: v.fault is None)[:rows]
        hidden = len(views) - len(shown)
    below = [Text(f"{v.source}: {v.fault}", STYLES[v.state], overflow="fold") for v in faults]
    for v in shown:
        below += [Text(f"{v.source}: {words}", "yellow", overflow="fold") for words in warnings(v)]
    if hidden:
        below.append(Text(f"and {hidden} more", "dim"))
    table = fitted(_columns(shown), WRAPPED, LEFT_OUT, width)
    return Group(table, *(Constrain(line, width) for line in below))


def fitted(
    columns: Mapping[str, Sequence[Text]],
    wrapped: Sequence[str],
    left_out: Sequence[str],
    width: int | None,
) -> Table:
    """Return a table in which no word and no number is cut.

    wrapped   columns of text that may wrap
    left_out  columns that a narrow terminal leaves out, in this order
    width     width of the terminal; None: unlimited
    """
    wants = {name: _wants(name, cells) for name, cells in columns.items()}
    for name in wrapped:
        wants[name] = min(wants.get(name, 0), WORDS)
    kept = list(columns)
    for name in left_out:
        if width is None or sum(wants[each] + GAP for each in kept) - GAP <= width:
            break
        kept = [each for each in kept if each != name]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in kept:
        justify: JustifyMethod = "right"
        if name in (*wrapped, "source", "state"):
            justify = "left"
        table.add_column(name, justify=justify, no_wrap=name not in wrapped, overflow="fold")
    for row in zip(*(columns[name] for name in kept), strict=True):
        table.add_row(*row)
    return table


def _wants(name: str, cells: Sequence[Text]) -> int:
    """Return the width of a column."""
    lines = "\n".join([name, *(cell.plain for cell in cells)]).split("\n")
    return max(len(line) for line in lines)


def _columns(views: Sequence[View]) -> dict[str, list[Text]]:
    """Return the columns of a table by name. Columns without content are left out."""
    shown: dict[str, list[str]] = {
        "frames": [str(v.published) for v in views],
        "fps": [rate(v.fps) for v in views],
    }
    if any(v.done is not None and v.state != "finished" for v in views):
        shown["done, left"] = [_progress(v) for v in views]
    if any(v.looked is not None for v in views):
        shown["looked"] = [_or_dash(v.looked, "{:.0%}") for v in views]
    if any(v.p50_s is not None for v in views):
        shown["p50 ms"] = [_or_dash(v.p50_s, "{:.0f}", 1e3) for v in views]
        shown["p95 ms"] = [_or_dash(v.p95_s, "{:.0f}", 1e3) for v in views]
        shown["p99 ms"] = [_or_dash(v.p99_s, "{:.0f}", 1e3) for v in views]
    shown["dropped"] = [str(v.dropped) for v in views]
    if any(v.failed for v in views):
        shown["failed"] = [str(v.failed) for v in views]
    if any(v.late for v in views):
        shown["late"] = [str(v.late) for v in views]
    if any(v.escalations for v in views):
        asked = [_asked(v) for v in views]
        shown["asked"] = [done for done, _ in asked]
        shown["degraded"] = [degraded for _, degraded in asked]
    if any(v.promise for v in views):
        shown["promise"] = [_promise_in_short(v) for v in views]
    shown["objects a frame"] = [_objects(v) or "-" for v in views]
    return {
        "source": [Text(v.source) for v in views],
        "state": [Text(v.state, STYLES[v.state]) for v in views],
        **{name: [Text(cell) for cell in cells] for name, cells in shown.items()},
    }


def _or_dash(value: float | None, form: str, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    return form.format(value * factor)


def _promise_in_short(v: View) -> str:
    if v.promise is None:
        return "-"
    return in_short(v.promise)


def _objects(v: View, most: int = 4) -> str:
    return ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:most])


def _progress(v: View) -> str:
    if v.done is None or v.state == "finished":
        return "-"
    if v.left_s is None:
        return f"{v.done:.0%}"
    return f"{v.done:.0%}, {span(v.left_s)}"


def span(seconds: float) -> str:
    """Return a duration with a unit."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 597:
        return f"{seconds / 60:.1f} min"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def warnings(v: View) -> list[str]:
    """Return warnings about a source that runs."""
    if not v.clock_off_s:
        return []
    return [clock_in_words(v.clock_off_s, time.time())]


def rate(fps: float | None) -> str:
    """Return frames per second for a table."""
    return _or_dash(fps, "{:.1f}")


def _asked(v: View) -> tuple[str, str]:
    """Return the shares of published frames that were escalated, and that are degraded."""
    done = v.escalations.get("done", 0)
    frames = max(1, v.published)
    return f"{done / frames:.1%}", f"{(sum(v.escalations.values()) - done) / frames:.1%}"


def as_line(v: View) -> str:
    """Return a view as one line for logs."""
    state: str = v.state
    if v.fault:  # the log has the whole fault from the time when it occurred
        state += f" ({v.fault.partition(':')[0]})"
    parts = [f"{v.source}: {state}", f"{v.published} frames"]
    if v.fps is not None:
        parts.append(f"{v.fps:.1f} fps")
    if v.looked is not None and v.looked < 1:
        parts.append(f"{v.looked:.0%} looked at")
    if v.p50_s:
        parts.append(f"p50 {v.p50_s * 1e3:.0f} ms")
        parts.append(f"p99 {(v.p99_s or 0) * 1e3:.0f} ms")
    parts.append(f"{v.dropped} dropped{_reasons(v.drops)}")
    if v.late:
        parts.append(f"{v.late} left out late")
    parts += _degraded(v.escalations)
    parts.append(f"{v.failed} failed")
    return f"{', '.join(parts)}; a frame: {_objects(v, 3) or 'no objects'}"


def in_sum(views: Sequence[View]) -> str:
    """Return all sources together as one line for logs."""
    states = Counter(v.state for v in views)
    escalations: Counter[str] = Counter()
    drops: Counter[str] = Counter()
    for v in views:
        escalations.update(v.escalations)
        drops.update(v.drops)
    parts = [
        f"{sum(v.published for v in views)} frames",
        f"{sum(v.fps or 0.0 for v in views):.1f} fps",
    ]
    latencies = [v.p99_s for v in views if v.p99_s is not None]
    if latencies:
        parts.append(f"p99 up to {max(latencies) * 1e3:.0f} ms")
    parts.append(f"{drops.total()} dropped{_reasons(drops)}")
    parts += _degraded(escalations)
    parts.append(f"{sum(v.failed for v in views)} failed")
    counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
    line = f"{len(views)} sources: {counts}; {', '.join(parts)}"
    rests = [v.left_s for v in views if v.left_s is not None]
    if rests:
        line += f"; files end in about {span(max(rests))}"
    return line


def _degraded(escalations: Mapping[str, int]) -> list[str]:
    """Return the frames without an answer of the heavy model, as at most one part of a line."""
    reasons = {reason: n for reason, n in escalations.items() if reason != "done" and n}
    if not reasons:
        return []
    return [f"{sum(reasons.values())} degraded{_reasons(reasons)}"]


def _reasons(counts: Mapping[str, int]) -> str:
    """Return the counts by reason in parentheses after a space, or nothing if all are 0."""
    counted = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()) if n)
    if not counted:
        return ""
    return f" ({counted})"
