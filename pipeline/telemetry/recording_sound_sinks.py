"""Read the state of each source's recording, sound and sinks, beside that of its frames.

It is read from the index of recordings, the counters and the stream of sounds, and the positions of
the sinks. Reading disturbs none of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import SideOutput
from framegate.pipeline.contracts.results import SoundLabel, Sounds, SoundWindow
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER, NAME, RecordingLost
from framegate.pipeline.recording.recorder_states import RecorderState
from framegate.pipeline.store.hop import END
from framegate.pipeline.system.clocks import span
from framegate.pipeline.telemetry.counters import sounds_of

SINK_OUTCOMES: Final = ("delivered", "muted", "lost")
LOST_S: Final = 86400.0  # period for which lost recording time is reported
STILL_S: Final = 60.0  # a file that was not written for this long does not grow any more
HEARD: Final = 60  # entries of the sound stream that are read: half a minute

RecorderDoes = Literal["records", "cannot", "rests"]


@dataclass(frozen=True)
class RecordingView:
    """The state of a source's recording.

    does         records; cannot: packets arrive but are not stored; rests: no packets arrive
    since        UNIX seconds since when it cannot record, or rests
    why          reason why it cannot record
    seconds      recorded seconds that are stored
    nbytes       their size
    pinned_bytes  the part of it that episodes protect from retention
    oldest       UNIX seconds of the oldest recording
    total_bytes  size of the recordings of all sources
    most_bytes   limit for that size
    lost         seconds of the last day that arrived but were not recorded, by reason
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
    """The sound of a source.

    track     the source has sound
    windows   number of windows by outcome: heard, unchanged, quiet, lost
    looked    share of windows, 0..1, that the network processed; None without windows
    level_db  level of the newest window, decibels of full scale
    labels    labels of the newest window of the last half minute that has any, best first
    ago_s     seconds of media time from that window to the newest
    """

    track: bool
    windows: Mapping[str, int]
    looked: float | None = None
    level_db: float | None = None
    labels: Sequence[SoundLabel] = ()
    ago_s: float | None = None


@dataclass(frozen=True)
class SinkView:
    """The state of a sink for one source.

    delivered  messages that the receiver accepted
    muted      messages that were left out on purpose
    lost       entries that were never delivered
    waiting    entries that are not delivered yet
    since      UNIX seconds since when the receiver accepts no messages; None: it accepts them
    why        the reason
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
    """The recording, the sound and the sinks of one source.

    recording  null: it was never recorded
    sound      null: its sound is not used
    sinks      sinks that have started with it
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
    """Return the state of each source. Raises redis-py's errors.

    client  connection to the store
    data    data folder of the run; None: unknown, so recordings are left out
    sinks   names of the run's sinks
    hears   sources whose sound is used
    """
    recordings: dict[str, RecordingView] = {}
    if data is not None:
        recordings = look_at_recordings(data)
    sounds = look_at_sounds(client, [name for name in sources if name in hears])
    sinks_of: dict[str, list[SinkView]] = {name: [] for name in sources}
    for each in look_at_sinks(client, sinks, sources):
        sinks_of[each.source].append(each)
    return {
        name: Beside(recordings.get(name), sounds.get(name), sinks_of[name]) for name in sources
    }


# -- Recordings.


def look_at_recordings(data: Path) -> dict[str, RecordingView]:
    """Return the recordings of a data folder by source; none if the index cannot be read."""
    if not (data / FOLDER / NAME).is_file():
        return {}
    now = time.time()
    with suppress(RecordingLost), closing(Index(data)) as index:
        recorded = {each.source: each for each in index.recorded()}
        states = {each.source: each for each in index.recorders.states()}
        losses = index.recorders.losses(now - LOST_S)
        total_bytes = sum(each.nbytes for each in recorded.values())
        views = {}
        for name in recorded.keys() | states.keys():
            state = states.get(name)
            does, since = _recorder_does(index.folder, state, now)
            lost = {loss.why: loss.seconds for loss in losses if loss.source == name}
            view = RecordingView(does, since, total_bytes=total_bytes, lost=lost)
            if state is not None:
                view = replace(view, why=state.why, most_bytes=state.most_bytes)
            stored = recorded.get(name)
            if stored is not None:
                view = replace(
                    view,
                    seconds=stored.seconds,
                    nbytes=stored.nbytes,
                    pinned_bytes=stored.pinned_bytes,
                    oldest=stored.since,
                )
            views[name] = view
        return views
    return {}


def _recorder_does(
    folder: Path, state: RecorderState | None, now: float
) -> tuple[RecorderDoes, float | None]:
    """Return the activity of a recorder, and since when.

    A killed process leaves its state behind, but its file does not grow any more.
    """
    if state is None:
        return "rests", None
    if state.growing_file is None:
        if state.why is None:
            return "rests", state.since
        return "cannot", state.since
    # Without an open file the recorder is just finishing it, or was killed while it did.
    written = state.since
    with suppress(OSError):
        written = (folder / state.growing_file).stat().st_mtime
    if now - written < STILL_S:
        return "records", None
    return "rests", written


# -- Sound.


def look_at_sounds(client: Any, sources: Sequence[str]) -> dict[str, SoundView]:
    """Return the sound of sources by name. The sound of these sources must be used."""
    pipe = client.pipeline(transaction=False)
    for source in sources:
        pipe.hgetall(keys.count(source))
        pipe.xrevrange(keys.out(source, keys.SOUND), count=HEARD)
    replies = iter(pipe.execute())
    return {source: _sound(next(replies), next(replies)) for source in sources}


def _sound(counts: Mapping[bytes, bytes], entries: Sequence[Any]) -> SoundView:
    windows = sounds_of({name.decode(): int(value) for name, value in counts.items()})
    newest_first: list[SoundWindow] = []
    for _, fields in entries:
        newest_first += _windows(fields)
    view = SoundView(bool(windows), windows)
    if not windows or not newest_first:
        return view
    view = replace(view, level_db=newest_first[0].level_db)
    processed = sum(windows.values()) - windows["lost"]
    if processed:
        view = replace(view, looked=windows["heard"] / processed)
    labelled = next((window for window in newest_first if window.labels), None)
    if labelled is not None:
        ago_s = newest_first[0].ends_s - labelled.ends_s
        view = replace(view, labels=labelled.labels, ago_s=ago_s)
    return view


def _windows(fields: Mapping[bytes, bytes]) -> Iterable[SoundWindow]:
    """Return the windows of an entry, newest first."""
    if fields[b"k"] == END.encode():
        return ()
    output = records.decode_versioned(fields[b"d"], SideOutput).said
    return reversed(records.decode(output, Sounds).windows)


# -- Sinks.


def look_at_sinks(client: Any, sinks: Sequence[str], sources: Sequence[str]) -> list[SinkView]:
    """Return the state of each sink that has started with a source."""
    views: list[SinkView] = []
    if not sinks:
        return views
    for source in sources:
        pipe = client.pipeline(transaction=False)
        pipe.xinfo_stream(keys.out(source, keys.EVENTS))
        for sink in sinks:
            pipe.hmget(keys.sink(source, sink), "n", *SINK_OUTCOMES, "since", "why")
        info, *replies = pipe.execute(raise_on_error=False)
        added = 0
        if not isinstance(info, Exception):
            added = int(info["entries-added"])
        for sink, reply in zip(sinks, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] is None:
                continue
            n, delivered, muted, lost = (int(each or 0) for each in reply[:4])
            view = SinkView(sink, source, delivered, muted, lost, waiting=max(0, added - n))
            since, why = reply[4:]
            if since is not None:
                view = replace(view, since=float(since))
            if why is not None:
                view = replace(view, why=why.decode())
            views.append(view)
    return views


def is_in_trouble(beside: Beside) -> bool:
    """Return whether a person should look at the recording, the sound or a sink."""
    recording = beside.recording
    if recording is not None and (recording.does == "cannot" or recording.lost):
        return True
    sound = beside.sound
    if sound is not None and (not sound.track or sound.windows.get("lost")):
        return True
    return any(sink.since is not None or sink.lost for sink in beside.sinks)


# -- As text.


def in_lines(beside: Mapping[str, Beside], now: float) -> Iterator[str]:
    """Yield a short report: everything in order together, each problem on a line of its own.

    now  UNIX seconds
    """
    recordings: dict[str, RecordingView] = {}
    sounds: list[str] = []
    sinks: list[SinkView] = []
    for name, each in beside.items():
        if each.recording is not None:
            recordings[name] = each.recording
        if each.sound is not None:
            sounds.append(f"{name} {_sound_in_words(each.sound)}")
        sinks += each.sinks
    yield from recordings_in_lines(recordings, now)
    if sounds:
        yield f"sound: {', '.join(sounds)}"
    yield from sinks_in_lines(sinks, now)


def recordings_in_lines(views: Mapping[str, RecordingView], now: float) -> Iterator[str]:
    """Yield one line for all recordings, then one for each problem."""
    if not views:
        return
    most_bytes = max(view.most_bytes for view in views.values())
    total = size(max(view.total_bytes for view in views.values()))
    if most_bytes:
        total = f"{total} of {size(most_bytes)}"
    active = sum(view.does == "records" for view in views.values())
    seconds = span(sum(view.seconds for view in views.values()))
    yield f"recording {active} of {len(views)}: {seconds} kept, {total}"
    for name, view in sorted(views.items()):
        if view.does == "cannot":
            yield f"{name} is not recorded for {span(now - (view.since or now))}: {view.why}"
        for why, lost in view.lost.items():
            yield f"{name}: {span(lost)} of the last day not recorded: {why.replace('_', ' ')}"


def sinks_in_lines(views: Sequence[SinkView], now: float) -> Iterator[str]:
    """Yield one line for each sink, over all sources."""
    for sink in sorted({view.sink for view in views}):
        of_sink = [view for view in views if view.sink == sink]
        parts = [f"{sum(view.delivered for view in of_sink)} delivered"]
        for name in ("muted", "waiting", "lost"):
            count = sum(getattr(view, name) for view in of_sink)
            if count:
                parts.append(f"{count} {name}")
        failing = [view for view in of_sink if view.since is not None]
        if failing:
            first = min(failing, key=lambda view: view.since or now)
            parts.append(f"failing for {span(now - (first.since or now))}: {first.why}")
        yield f"sink {sink}: {', '.join(parts)}"


def _sound_in_words(view: SoundView) -> str:
    if not view.track:
        return "has no sound"
    text = "nothing of note"
    if view.labels:
        best = view.labels[0]
        text = f"{best.label} {best.score:.2f}"
        if view.ago_s:
            text += f" {span(view.ago_s)} ago"
    if view.looked is not None:
        text += f" ({view.looked:.0%} looked at)"
    return text


def size(nbytes: float) -> str:
    """Return a number of bytes with a unit."""
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= unit_bytes:
            return f"{nbytes / unit_bytes:.3g} {unit}"
    return f"{nbytes / 1e3:.0f} kB"
