"""What a person wants to see of a source, read from the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
)

State = Literal[
    "waiting", "connecting", "running", "lost", "stopped", "finished", "failed", "removed"
]
RECENT = 30
WINDOW_S = 5.0  # over so long a rate is taken, where looks are close together
LONGEST_S = 60.0  # a source that runs and publishes nothing for so long has a rate of 0
LEAST_S = 0.5  # looks closer together than this say nothing


@dataclass(frozen=True)
class Sample:
    """A source at one moment: its counters, its last published results, and its end, if any.

    done        whether decode has nothing more to say: an end may be of an earlier life
    connection  of a camera
    promise     what was told of it last
    owned       whether a run has it; removed: whether it was removed from the last that had it
    hurried     a file at full speed: its frames wait in line for the network
    lasts_s     of a file, as its container says
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

    since       UNIX seconds since which a camera is in its state
    drops       frames by reason; in_flight: decoded, and neither published nor dropped
    late        a camera's packets that were left out undecoded, as decoding fell behind
    reconnects  times that a camera came back
    clock_off_s  seconds by which a camera's clock is ahead of this host's (negative: behind), where
                that is more than a day, so that its frames get their time of arrival; else 0
    fps         published frames a second; None where the time is too short to say: at a first
                look, or if nothing came yet of a source that runs
    p50_s, ...  latencies in seconds, arrival to publish; none of a file at full speed, whose frames
                wait in line as far as credit goes: that says nothing of how long one takes
    objects     objects a frame by label, over the last results
    looked      share of these frames, 0..1, that were looked at; none without frames
    looks       frames since the beginning by how they were looked at and why
    escalations of these, those that the heavy model was to be asked about: done, or why not
    promise     where it stands, if there is one
    done        share of a file, 0..1, that is published; left_s: seconds until all of it is, if it
                goes on as between the samples
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
        """ended: no run goes on there, whatever a killed one has left in the store."""
        self.client = connect(url)
        self._url, self._ended = url, ended
        self._before: dict[str, tuple[Sample, Sample]] = {}  # an older and a younger one

    def sources(self) -> list[str]:
        """Names of all sources of the store, sorted."""
        with store_errors(self._url):
            return sorted(name.decode() for name in self.client.hkeys(keys.SOURCES))

    def look(self, sources: Sequence[str]) -> list[View]:
        """Each source since a look some seconds ago, or the last (at first: since its beginning).

        Who looks often, or from several places at once, so gets steady rates, and a source of one
        frame in ten seconds is not told to stand still in between.
        """
        views = []
        for source in sources:
            now = self.sample(source)
            old, young = self._before.get(source, (None, None))
            if old is None or young is None:
                self._before[source] = (now, now)
            elif (rest_s := now.taken_mono - young.taken_mono) >= WINDOW_S and (
                _published(now) > _published(young) or rest_s >= LONGEST_S
            ):
                old = young
                self._before[source] = (old, now)
            views.append(view(source, old, now))
        for gone in self._before.keys() - set(sources):
            del self._before[gone]
        return views

    def forget(self) -> None:
        """Let the next look be since the beginning again."""
        self._before.clear()

    def sample(self, source: str) -> Sample:
        """A source at this moment."""
        with store_errors(self._url):
            pipe = self.client.pipeline(transaction=False)
            pipe.hgetall(keys.count(source))
            pipe.xrevrange(keys.results(source), count=RECENT)
            pipe.hmget(keys.at(source, "decode"), "p", "s", "c")
            pipe.hmget(keys.own(source), "run", "name")
            pipe.xrevrange(keys.out(source, keys.CERTIFY), count=2)
            counts, entries, (started, state, connection), (run, owner), told = pipe.execute()
        results: list[Result] = []
        end = None
        for index, (_, fields) in enumerate(entries):
            if fields[b"k"] != END.encode():
                results.append(records.decode_versioned(fields[b"d"], Result))
            elif index == 0:
                end = records.decode_versioned(fields[b"d"], End)
        counters = {name.decode(): int(value) for name, value in counts.items()}
        decoding = records.decode(state, DecodeState) if state else None
        return Sample(
            time.monotonic(),
            counters,
            results,
            end,
            bool(started),
            done=decoding is not None and decoding.done,
            connection=records.decode_versioned(connection, Connection) if connection else None,
            owned=bool(run) and not self._ended,
            removed=not run and owner == b"",
            promise=_promise(told),
            hurried=decoding is not None and connection is None and decoding.pace is None,
            lasts_s=None if decoding is None else decoding.lasts_s,
        )

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
    """What changed between two samples, and what stands."""
    old = before.counters if before else {}
    change = {name: n - old.get(name, 0) for name, n in now.counters.items()}
    recent = change if any(n for name, n in change.items() if PREFIX in name) else now.counters
    p50_s, p95_s, p99_s = (
        None if now.hurried else percentile(recent, share) for share in (0.5, 0.95, 0.99)
    )
    elapsed = now.taken_mono - before.taken_mono if before else 0.0
    objects = Counter(o.label for result in now.results for o in result.objects)
    count, drops, state = now.counters.get, drops_of(now.counters), _state(now)
    ended = state in ("finished", "failed", "removed")
    return View(
        source=source,
        state=state,
        since=now.connection.since if now.connection and not ended else None,
        decoded=count("decoded", 0),
        published=count("published", 0),
        failed=count("failed", 0),
        dropped=sum(drops.values()),
        drops=drops,
        late=count("late", 0),
        in_flight=count("decoded", 0) - count("published", 0) - sum(drops.values()),
        reconnects=max(0, count("connects", 0) - 1),
        fps=_rate(change.get("published", 0), elapsed, state),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        objects={label: n / len(now.results) for label, n in objects.most_common()},
        fault=_fault(now, ended),
        looked=share_looked(looks_of(recent)),
        looks=looks_of(now.counters),
        escalations=escalations_of(now.counters),
        promise=now.promise,
        done=_done(now),
        left_s=None if before is None or ended else _left_s(before, now),
        clock_off_s=now.connection.clock_off_s if now.connection and not ended else 0.0,
    )


def _done(now: Sample) -> float | None:
    """The share of a file before the newest result, by its time stamps."""
    pts = now.results[0].pts if now.results else None
    return None if pts is None or not now.lasts_s else min(1.0, max(0.0, pts / now.lasts_s))


def _left_s(before: Sample, now: Sample) -> float | None:
    old, new = _done(before) or 0.0, _done(now)
    if new is None or new <= old:
        return None
    return (1 - new) * (now.taken_mono - before.taken_mono) / (new - old)


def _promise(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> PromiseNews | None:
    """The newest news; at the end of a source they are its last words."""
    for _, fields in entries:
        if fields[b"k"] != END.encode():
            said = records.decode_versioned(fields[b"d"], SideOutput).said
            return records.decode(said, PromiseNews)
        words = records.decode_versioned(fields[b"d"], End).said.get(keys.CERTIFY)
        if words is not None:
            return records.decode(words, PromiseNews)
    return None


def drops_of(counters: Mapping[str, int]) -> dict[str, int]:
    """Dropped frames by reason."""
    return {
        name.removeprefix(DROPPED): n for name, n in counters.items() if name.startswith(DROPPED)
    }


def _state(now: Sample) -> State:
    if now.removed:
        return "removed"
    if now.end is not None and now.end.last and now.done:
        return "failed" if now.end.fault else "finished"
    if not now.owned:
        return "stopped" if now.started else "waiting"
    if now.connection is not None and now.connection.state != "connected":
        return now.connection.state
    return "running" if now.started else "waiting"


def _fault(now: Sample, ended: bool) -> str | None:
    """Why it ended, or what its connection lacks. The newest end may be an earlier run's."""
    if ended:
        return now.end.fault if now.end else None
    return now.connection.fault if now.connection is not None else None


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
WORDS = 16  # of a terminal's columns, for what may take several lines
GAP = 2  # of a terminal's columns, between two of the table's
HEAD = 2  # of a terminal's lines


def as_table(views: Sequence[View], width: int | None = None, height: int | None = None) -> Group:
    """The views as a table, and below it what is wrong with sources, a line each.

    width, height  that every line and all lines together may take; None: as much as they want.
                   Where there are too few lines, sources in trouble are shown first, and how many
                   are not
    """
    faults = [v for v in views if v.fault]
    shown, hidden = list(views), 0
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
    """A table that cuts no word and no number in a terminal of that width.

    wrapped: columns of words, to the left, which may take several lines. left_out: what a terminal
    that is too narrow goes without, the least wanted first.
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
        words = name in (*wrapped, "source", "state")
        justify: JustifyMethod = "left" if words else "right"
        table.add_column(name, justify=justify, no_wrap=name not in wrapped, overflow="fold")
    for row in zip(*(columns[name] for name in kept), strict=True):
        table.add_row(*row)
    return table


def _wants(name: str, cells: Sequence[Text]) -> int:
    """So wide is a column."""
    return max(len(name), *(len(line) for cell in cells for line in cell.plain.split("\n")), 0)


def _columns(views: Sequence[View]) -> dict[str, list[Text]]:
    """What a table says, by the names of its columns; none of which nothing is to be said."""
    shown: dict[str, list[str]] = {
        "frames": [str(v.published) for v in views],
        "fps": [rate(v.fps) for v in views],
    }
    if any(v.done is not None and v.state != "finished" for v in views):
        shown["done, left"] = [_progress(v) for v in views]
    if any(v.looked is not None for v in views):
        shown["looked"] = [f"{v.looked:.0%}" if v.looked is not None else "-" for v in views]
    if any(v.p50_s is not None for v in views):
        shown["p50 ms"] = [_ms(v.p50_s) for v in views]
        shown["p95 ms"] = [_ms(v.p95_s) for v in views]
        shown["p99 ms"] = [_ms(v.p99_s) for v in views]
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
        shown["promise"] = [in_short(v.promise) if v.promise else "-" for v in views]
    shown["objects a frame"] = [_objects(v) or "-" for v in views]
    return {
        "source": [Text(v.source) for v in views],
        "state": [Text(v.state, STYLES[v.state]) for v in views],
        **{name: [Text(cell) for cell in cells] for name, cells in shown.items()},
    }


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f}"


def _objects(v: View) -> str:
    return ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:4])


def _progress(v: View) -> str:
    if v.done is None or v.state == "finished":
        return "-"
    return f"{v.done:.0%}" + ("" if v.left_s is None else f", {span(v.left_s)}")


def span(seconds: float) -> str:
    """So long, for people."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min" if seconds < 597 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def warnings(v: View) -> list[str]:
    """Return sentences about a source that works, but not as it should."""
    if not v.clock_off_s:
        return []
    return [clock_in_words(v.clock_off_s, time.time())]


def rate(fps: float | None) -> str:
    """Frames a second for a table."""
    return "-" if fps is None else f"{fps:.1f}"


def _asked(v: View) -> tuple[str, str]:
    """Shares of published frames that were escalated, and that were to be and are degraded."""
    done, frames = v.escalations.get("done", 0), max(1, v.published)
    return f"{done / frames:.1%}", f"{(sum(v.escalations.values()) - done) / frames:.1%}"


def as_line(v: View) -> str:
    """A view as one line of text, for logs."""
    latency = f", p50 {v.p50_s * 1e3:.0f} ms, p99 {(v.p99_s or 0) * 1e3:.0f} ms" if v.p50_s else ""
    objects = ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:3])
    # The log has said the whole fault when it occurred.
    fault = f" ({v.fault.partition(':')[0]})" if v.fault else ""
    degraded = _degraded(v.escalations)
    late = f", {v.late} left out late" if v.late else ""
    looked = f", {v.looked:.0%} looked at" if v.looked is not None and v.looked < 1 else ""
    fps = "" if v.fps is None else f", {v.fps:.1f} fps"
    return (
        f"{v.source}: {v.state}{fault}, {v.published} frames{fps}{looked}"
        f"{latency}, {v.dropped} dropped{_reasons(v.drops)}{late}{degraded}, {v.failed} failed; "
        f"a frame: {objects or 'no objects'}"
    )


def in_sum(views: Sequence[View]) -> str:
    """All sources together as one line of text, for logs."""
    states = Counter(v.state for v in views)
    escalations: Counter[str] = Counter()
    drops: Counter[str] = Counter()
    for v in views:
        escalations.update(v.escalations)
        drops.update(v.drops)
    published = sum(v.published for v in views)
    failed = sum(v.failed for v in views)
    left = max((v.left_s for v in views if v.left_s is not None), default=None)
    slowest = max((v.p99_s for v in views if v.p99_s is not None), default=None)
    return (
        f"{len(views)} sources: {', '.join(f'{n} {state}' for state, n in states.most_common())}; "
        f"{published} frames, {sum(v.fps or 0.0 for v in views):.1f} fps"
        f"{'' if slowest is None else f', p99 up to {slowest * 1e3:.0f} ms'}"
        f", {drops.total()} dropped{_reasons(drops)}{_degraded(escalations)}, {failed} failed"
        f"{'' if left is None else f'; files end in about {span(left)}'}"
    )


def _degraded(escalations: Mapping[str, int]) -> str:
    """Frames that stand as the light path saw them for want of an answer, and why; or nothing."""
    whys = {why: n for why, n in escalations.items() if why != "done" and n}
    return f", {sum(whys.values())} degraded{_reasons(whys)}" if whys else ""


def _reasons(counts: Mapping[str, int]) -> str:
    """Return counts by reason in parentheses, after a blank; nothing if all are 0."""
    counted = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()) if n)
    return f" ({counted})" if counted else ""
