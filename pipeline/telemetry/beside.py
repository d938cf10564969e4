"""What goes on beside a source's frames: its recording, its sound, and who is told of it.

Read from where each keeps what it says of itself: the index of recordings, counters and the stream
of what is heard, and the positions of the sinks. Whoever looks disturbs none of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import SideOutput
from framegate.pipeline.contracts.results import SoundLabel, Sounds, SoundWindow
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.recorders import OPEN, RecorderState
from framegate.pipeline.recording.tables import FOLDER, NAME, RecordingLost
from framegate.pipeline.store.hop import END
from framegate.pipeline.telemetry.counters import sounds_of
from framegate.pipeline.telemetry.view import span

SINK_OUTCOMES: Final = ("delivered", "muted", "lost")
LOST_S: Final = 86400.0  # for so long it is told what was not recorded
STILL_S: Final = 60.0  # a file that was not written for so long does not grow any more
HEARD: Final = 60  # entries of a source's sound that are looked at: half a minute

RecorderDoes = Literal["records", "cannot", "rests"]


@dataclass(frozen=True)
class RecordingView:
    """How the recording of a source stands.

    does         records; cannot: packets come and are not kept; rests: none come
    since        UNIX seconds since which it cannot, or rests
    why          it cannot, in words
    seconds, nbytes, pinned_bytes  that are kept of the source, and of these what episodes pin
    oldest       UNIX seconds at which that begins
    total_bytes, most_bytes  of all sources together, and what these may have
    lost         seconds that came in the last day and were not recorded, by why
    """

    does: RecorderDoes
    since: float | None = None
    why: str | None = None
    seconds: float = 0.0
    nbytes: int = 0
    pinned_bytes: int = 0
    oldest: float | None = None
    total_bytes: int = 0
    most_bytes: int = 0
    lost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SoundView:
    """What is heard of a source that is listened to.

    track     whether any sound came
    windows   by what became of them: heard, unchanged, quiet, lost
    looked    share of windows, 0..1, that the network looked at; None without any
    level_db  of the newest, decibels of full scale
    labels    of the newest of the last half minute that had any, the best first
    ago_s     seconds of the media from that one to the newest
    """

    track: bool
    windows: Mapping[str, int]
    looked: float | None = None
    level_db: float | None = None
    labels: Sequence[SoundLabel] = ()
    ago_s: float | None = None


@dataclass(frozen=True)
class SinkView:
    """How a sink gets on with a source.

    delivered, muted  messages: taken, and left out on purpose
    lost              entries that were never told
    waiting           entries that are not told yet
    since, why        UNIX seconds since when the receiver takes none, and why; None: it does
    """

    sink: str
    source: str
    delivered: int
    muted: int
    lost: int
    waiting: int
    since: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class Beside:
    """All of it, of one source.

    recording  null: nothing was ever recorded of it
    sound      null: it is not listened to
    sinks      those that have begun with it
    """

    recording: RecordingView | None = None
    sound: SoundView | None = None
    sinks: Sequence[SinkView] = ()


def look_beside(
    client: Any,
    data: Path | None,
    sources: Sequence[str],
    sinks: Sequence[str] = (),
    hears: Collection[str] = (),
) -> dict[str, Beside]:
    """Return how it stands, by source. redis-py's errors.

    client  of the store
    data    folder of the run, None where it is not known: nothing is said of recordings
    sinks   names of the run's; hears: the sources that it listens to
    """
    recorded = {} if data is None else look_at_recordings(data)
    heard = look_at_sounds(client, [name for name in sources if name in hears])
    told: dict[str, list[SinkView]] = {name: [] for name in sources}
    for each in look_at_sinks(client, sinks, sources):
        told[each.source].append(each)
    return {name: Beside(recorded.get(name), heard.get(name), told[name]) for name in sources}


# -- Recordings.


def look_at_recordings(data: Path) -> dict[str, RecordingView]:
    """Return how recordings of a data folder stand, by source; of an index that cannot be read,
    nothing.
    """
    if not (data / FOLDER / NAME).is_file():
        return {}
    now = time.time()
    with suppress(RecordingLost), closing(Index(data)) as index:
        kept = {one.source: one for one in index.recorded()}
        stands = {one.source: one for one in index.recorders.states()}
        losses = index.recorders.losses(now - LOST_S)
        total = sum(one.nbytes for one in kept.values())
        found = {}
        for name in kept.keys() | stands.keys():
            here, state = kept.get(name), stands.get(name)
            does, since = _recorder_does(index.folder, state, now)
            found[name] = RecordingView(
                does=does,
                since=since,
                why=None if state is None else state.why,
                seconds=0.0 if here is None else here.seconds,
                nbytes=0 if here is None else here.nbytes,
                pinned_bytes=0 if here is None else here.pinned_bytes,
                oldest=None if here is None else here.since,
                total_bytes=total,
                most_bytes=0 if state is None else state.most_bytes,
                lost={one.why: one.seconds for one in losses if one.source == name},
            )
        return found
    return {}


def _recorder_does(
    folder: Path, state: RecorderState | None, now: float
) -> tuple[RecorderDoes, float | None]:
    """A killed process tells nothing any more: its file does not grow."""
    if state is None:
        return "rests", None
    if state.path is None:
        return "rests" if state.why is None else "cannot", state.since
    with suppress(OSError):
        written = (folder / f"{state.path}{OPEN}").stat().st_mtime
        return ("records", None) if now - written < STILL_S else ("rests", written)
    # It is being finished just now, or nobody was left to.
    return ("records", None) if now - state.since < STILL_S else ("rests", state.since)


# -- Sound.


def look_at_sounds(client: Any, sources: Sequence[str]) -> dict[str, SoundView]:
    """Return what is heard of sources that are listened to, by source."""
    pipe = client.pipeline(transaction=False)
    for source in sources:
        pipe.hgetall(keys.count(source))
        pipe.xrevrange(keys.out(source, keys.SOUND), count=HEARD)
    replies = iter(pipe.execute())
    return {source: _sound(next(replies), next(replies)) for source in sources}


def _sound(counts: Mapping[bytes, bytes], entries: Sequence[Any]) -> SoundView:
    windows = sounds_of({name.decode(): int(value) for name, value in counts.items()})
    newest = [window for _, fields in entries for window in _windows(fields)]
    if not windows or not newest:
        return SoundView(bool(windows), windows)
    with_any = next((window for window in newest if window.labels), None)
    told = sum(windows.values()) - windows["lost"]
    return SoundView(
        track=True,
        windows=windows,
        looked=windows["heard"] / told if told else None,
        level_db=newest[0].level_db,
        labels=() if with_any is None else with_any.labels,
        ago_s=None if with_any is None else newest[0].ends_s - with_any.ends_s,
    )


def _windows(fields: Mapping[bytes, bytes]) -> Iterable[SoundWindow]:
    """The windows of an entry, the newest first."""
    if fields[b"k"] == END.encode():
        return ()
    said = records.decode_versioned(fields[b"d"], SideOutput).said
    return reversed(records.decode(said, Sounds).windows)


# -- Sinks.


def look_at_sinks(client: Any, sinks: Sequence[str], sources: Sequence[str]) -> list[SinkView]:
    """Return how sinks get on; of those that have begun with a source."""
    found = []
    for source in sources if sinks else ():
        pipe = client.pipeline(transaction=False)
        pipe.xinfo_stream(keys.out(source, keys.EVENTS))
        for sink in sinks:
            pipe.hmget(keys.sink(source, sink), "n", *SINK_OUTCOMES, "since", "why")
        info, *replies = pipe.execute(raise_on_error=False)
        added = 0 if isinstance(info, Exception) else int(info["entries-added"])
        for sink, reply in zip(sinks, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] is None:
                continue
            n, delivered, muted, lost = (int(each or 0) for each in reply[:4])
            since, why = reply[4:]
            found.append(
                SinkView(
                    sink=sink,
                    source=source,
                    delivered=delivered,
                    muted=muted,
                    lost=lost,
                    waiting=max(0, added - n),
                    since=None if since is None else float(since),
                    why=None if why is None else why.decode(),
                )
            )
    return found


def is_in_trouble(one: Beside) -> bool:
    """Return whether something of it wants somebody's attention."""
    recording, sound = one.recording, one.sound
    return (
        (recording is not None and (recording.does == "cannot" or bool(recording.lost)))
        or (sound is not None and (not sound.track or bool(sound.windows.get("lost"))))
        or any(sink.since is not None or sink.lost for sink in one.sinks)
    )


# -- In words.


def in_lines(beside: Mapping[str, Beside], now: float) -> Iterator[str]:
    """Say it in few lines: what is in order together, what is not one by one. now: UNIX seconds."""
    yield from recordings_in_lines(
        {name: one.recording for name, one in beside.items() if one.recording is not None}, now
    )
    heard = {name: one.sound for name, one in beside.items() if one.sound is not None}
    if heard:
        yield f"sound: {', '.join(f'{name} {_heard(view)}' for name, view in heard.items())}"
    yield from sinks_in_lines([view for one in beside.values() for view in one.sinks], now)


def recordings_in_lines(views: Mapping[str, RecordingView], now: float) -> Iterator[str]:
    """Say how recordings stand: all together, then what each lost and which cannot go on."""
    if not views:
        return
    most = max(view.most_bytes for view in views.values())
    total = max(view.total_bytes for view in views.values())
    on = sum(view.does == "records" for view in views.values())
    of = f" of {size(most)}" if most else ""
    seconds = span(sum(view.seconds for view in views.values()))
    yield f"recording {on} of {len(views)}: {seconds} kept, {size(total)}{of}"
    for name, view in sorted(views.items()):
        if view.does == "cannot":
            yield f"{name} is not recorded for {span(now - (view.since or now))}: {view.why}"
        for why, lost in view.lost.items():
            yield f"{name}: {span(lost)} of the last day not recorded: {why.replace('_', ' ')}"


def sinks_in_lines(views: Sequence[SinkView], now: float) -> Iterator[str]:
    """Say how sinks get on, a line each, over all sources."""
    for sink in sorted({view.sink for view in views}):
        of_it = [view for view in views if view.sink == sink]
        said = [f"{sum(view.delivered for view in of_it)} told"]
        for name, words in (("muted", "muted"), ("waiting", "waiting"), ("lost", "lost")):
            if n := sum(getattr(view, name) for view in of_it):
                said.append(f"{n} {words}")
        failing = [view for view in of_it if view.since is not None]
        if failing:
            first = min(failing, key=lambda view: view.since or now)
            said.append(f"takes nothing for {span(now - (first.since or now))}: {first.why}")
        yield f"sink {sink}: {', '.join(said)}"


def _heard(view: SoundView) -> str:
    if not view.track:
        return "has no sound"
    if view.labels:
        best = view.labels[0]
        when = "" if not view.ago_s else f" {span(view.ago_s)} ago"
        said = f"{best.label} {best.score:.2f}{when}"
    else:
        said = "nothing of note"
    return said if view.looked is None else f"{said} ({view.looked:.0%} looked at)"


def size(nbytes: float) -> str:
    """So many bytes, for people."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= of:
            return f"{nbytes / of:.3g} {unit}"
    return f"{nbytes / 1e3:.0f} kB"
