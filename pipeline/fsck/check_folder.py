"""Checks of recordings, their index, pins, gaps, the database of episodes and state planes.

Pure: each check maps a snapshot to findings.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any, Final

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.fsck.snapshot import (
    Discrepancy,
    FolderPart,
    FolderSnapshot,
    RecordedFile,
    RecordingFacts,
    SourceFacts,
)
from framegate.pipeline.recording.changed_parts import FOLDER as CHANGES
from framegate.pipeline.recording.index import OPEN_S, Pin, Segment

_REPAIR: Final = "framegate fsck --repair rebuilds it"
_NEXT: Final = "framegate run --resume or framegate fsck --repair completes it"
_HAIR_S: Final = 2e-3  # two times that were computed in another order differ by less
_OVERLAP_S: Final = 1.0  # the longest fragment: a gap may begin within it
_YOUNG_S: Final = 86400.0  # no limit of age is shorter
_FEW: Final = 100  # no limit of number is smaller
_FIELDS: Final = ("epoch", "nbytes", "head", "init", "is_key", "sound", "source")
_TIMES: Final = ("pts", "pts_end", "shift_s", "captured", "captured_end")
_LEVELS: Final = {"detection": 1, "alert": 2}


def check_folder(snapshot: FolderSnapshot) -> list[Discrepancy]:
    """Return all that is inconsistent in the files of a data folder."""
    return list(itertools.chain.from_iterable(check(snapshot) for check in _CHECKS))


def _fault(subject: str, found: object, expected: object, part: FolderPart) -> Discrepancy:
    return Discrepancy("fault", subject, str(found), str(expected), _REPAIR, part)


def _listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    text = ", ".join(names[:3])
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return text


# -- files


def _check_files(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    for file, why in snapshot.unreadable.items():
        part, advice = _UNREADABLE.get(file, (None, ""))
        if file.startswith(f"{CHANGES}/"):
            advice = "remove it: its frames then count as not compared"
        yield Discrepancy(
            "fault",
            file,
            why,
            "a readable file",
            advice or "restore it from a copy, or begin a new run with another -d",
            part,
        )
    if snapshot.leftovers:
        yield Discrepancy(
            "unfinished",
            "files of interrupted writes",
            _listed(snapshot.leftovers),
            "none",
            "framegate fsck --repair removes them",
            "leftovers",
        )


_UNREADABLE: Final[Mapping[str, tuple[FolderPart, str]]] = {
    "recordings/index.db": (
        "index",
        "framegate fsck --repair moves it aside and makes another from the files",
    ),
    "recordings/pins.db": (
        "pins",
        "framegate fsck --repair moves it aside and pins the clips of all known episodes again",
    ),
    "events.db": (
        "episodes",
        "framegate fsck --repair moves it aside and makes another from the store; verdicts, and "
        "episodes that the store no longer has, are only in the old file; clips stay pinned",
    ),
}


# -- recordings


def _check_index(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that each file has a row with its contents, and each row a file."""
    recordings = snapshot.recordings
    if recordings is None:
        return
    rows = {row.path: row for row in recordings.rows}
    by_source: defaultdict[str, list[str]] = defaultdict(list)
    for file in recordings.files:  # each takes its row from `rows`; rows without a file are left
        row = rows.pop(file.path, None)
        subject = f"recording {file.path}"
        if file.is_open:
            yield Discrepancy(
                "unfinished", subject, "it is not finished", "a finished file", _NEXT, "index"
            )
        elif file.segment is None:
            yield Discrepancy(
                "fault",
                subject,
                file.fault,
                "whole fragments",
                "remove it: no part of it can be played",
            )
        elif file.nbytes != file.segment.nbytes:
            yield Discrepancy(
                "fault",
                subject,
                f"{file.nbytes} bytes",
                f"{file.segment.nbytes} bytes of whole fragments",
                "the rest of the file is damaged; the part before it can be played",
            )
        elif row is None:
            by_source[file.source].append(file.path)
        elif different := _differences(row, file.segment):
            yield _fault(f"row of {subject}", *different, "index")
    for source, paths in by_source.items():
        yield Discrepancy(
            "unfinished",
            f"recordings of source {source}",
            f"{len(paths)} files without a row: {_listed(paths)}",
            "a row for each file",
            "the next recording, framegate recordings or framegate fsck --repair adds them",
            "index",
        )
    if rows:
        yield _fault(
            "recordings/index.db",
            f"{len(rows)} rows without a file: {_listed(sorted(rows))}",
            "a file for each row",
            "index",
        )
    yield from _check_sums(recordings)


def row_is_right(row: Segment, file: RecordedFile) -> bool:
    """Return whether a row agrees with its file."""
    return file.segment is not None and _differences(row, file.segment) is None


def _differences(row: Segment, file: Segment) -> tuple[str, str] | None:
    """Return the fields in which a row and its file differ, with the values of each."""
    names = [name for name in _FIELDS if getattr(row, name) != getattr(file, name)]
    names += [name for name in _TIMES if abs(getattr(row, name) - getattr(file, name)) > _HAIR_S]
    if not names:
        return None
    found = ", ".join(f"{name} {getattr(row, name)}" for name in names)
    expected = ", ".join(f"{name} {getattr(file, name)}" for name in names)
    return found, f"{expected}, as the file has it"


def _check_sums(recordings: RecordingFacts) -> Iterator[Discrepancy]:
    sums: dict[str, tuple[int, int]] = {}
    for row in recordings.rows:
        n, nbytes = sums.get(row.source, (0, 0))
        sums[row.source] = (n + 1, nbytes + row.nbytes)
    for source in sorted(sums.keys() | recordings.counted.keys()):
        stored = recordings.counted.get(source, (0, 0))
        right = sums.get(source, (0, 0))
        if stored != right:
            yield _fault(
                f"sum of the recordings of source {source}",
                f"{stored[0]} files of {stored[1]} bytes",
                f"{right[0]} files of {right[1]} bytes",
                "index",
            )


def _check_overlaps(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that no packet is recorded twice, and that no gap covers a time that was recorded."""
    recordings = snapshot.recordings
    if recordings is None:
        return
    files = [file for file in recordings.files if file.segment is not None and file.segment.epoch]
    in_order = sorted(files, key=lambda file: (file.source, _epoch(file.segment), file.decoded))
    for before, after in pairwise(in_order):
        is_same_source = before.source == after.source
        is_same_epoch = _epoch(before.segment) == _epoch(after.segment)
        overlaps = after.decoded[0] < before.decoded[1] - _HAIR_S
        if is_same_source and is_same_epoch and overlaps:
            yield Discrepancy(
                "fault",
                f"recording {after.path}",
                f"it begins at {after.decoded[0]:.3f} s",
                f"at or after {before.decoded[1]:.3f} s, where {before.path} ends",
                "both can be played; report it with the logs of the run",
            )
    rows = _RowsByTime(recordings.rows)
    for gap in recordings.gaps:
        for row in rows.between(gap.source, gap.since, gap.until):
            if min(gap.until, row.captured_end) - max(gap.since, row.captured) > _OVERLAP_S:
                yield Discrepancy(
                    "fault",
                    f"gap of source {gap.source} ({gap.why})",
                    f"{gap.since:.3f} to {gap.until:.3f}",
                    f"no part of {row.path}, {row.captured:.3f} to {row.captured_end:.3f}",
                    "the recording is right; the gap is longer than the lost time",
                )


class _RowsByTime:
    """Rows of an index in order of time, because a folder may have a million rows and episodes."""

    def __init__(self, rows: Sequence[Segment]) -> None:
        self._rows: defaultdict[str, list[Segment]] = defaultdict(list)
        for row in sorted(rows, key=_captured):
            self._rows[row.source].append(row)
        self._longest_s = max((row.captured_end - row.captured for row in rows), default=0.0)

    def between(self, source: str, since: float, until: float) -> Iterator[Segment]:
        """Yield the rows of a source with pictures of a span, UNIX seconds, in order."""
        rows = self._rows[source]
        first = bisect_left(rows, since - self._longest_s, key=_captured)
        for row in itertools.islice(rows, first, None):
            if row.captured >= until:
                return
            if row.captured_end > since:
                yield row


def _captured(row: Segment) -> float:
    return row.captured


def _epoch(segment: Segment | None) -> int:
    if segment is None:
        return 0
    return segment.epoch


# -- pins


def _check_pins(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that pins and episodes agree, and that each row is marked by its pins."""
    recordings = snapshot.recordings
    if recordings is None or "recordings/pins.db" in snapshot.unreadable:
        return
    if snapshot.episodes is not None:
        for pin in stray_pins(snapshot):
            yield _fault(
                f"pin {pin.why}", "there is no such episode", "an episode for each pin", "pins"
            )
    by_why = {pin.why: pin for pin in recordings.pins}
    for clip in clips(snapshot):
        pinned = by_why.get(clip.why)
        if pinned is None:
            yield _fault(f"episode {clip.why}", "its clip is not pinned", "a pin", "pins")
        elif pinned.since > clip.since + _HAIR_S or pinned.until < clip.until - _HAIR_S:
            yield _fault(
                f"pin {clip.why}",
                f"{pinned.since:.3f} to {pinned.until:.3f}",
                f"{clip.since:.3f} to {clip.until:.3f}, its clip",
                "pins",
            )
    levels: defaultdict[str, int] = defaultdict(int)
    rows = _RowsByTime(recordings.rows)
    for pin in recordings.pins:
        for row in rows.between(pin.source, pin.since, pin.until):
            levels[row.path] = max(levels[row.path], _LEVELS[pin.severity])
    for row in recordings.rows:
        if levels[row.path] != row.pinned:
            yield _fault(
                f"row of recording {row.path}: pinned", row.pinned, levels[row.path], "index"
            )


def stray_pins(snapshot: FolderSnapshot) -> list[Pin]:
    """Return pins of episodes that neither the database nor the store has.

    Pins that are older than the limits of age and number are left out: their episodes may have been
    removed. So are pins from before the stored stream, and those of a source with an unreadable
    entry: if the database was made again, it lacks their episodes.
    """
    recordings = snapshot.recordings
    episodes = snapshot.episodes
    if recordings is None or episodes is None:
        return []
    known = set(episodes.episodes)
    streams_since = {source.name: _stream_since(source) for source in snapshot.sources}
    for source in snapshot.sources:
        for entry in source.events:
            known |= {change.episode for change in entry.changes.changes}
    oldest = _oldest(snapshot)
    return [
        pin
        for pin in recordings.pins
        if pin.why not in known and pin.since >= max(oldest, streams_since.get(pin.source, inf))
    ]


def _stream_since(source: SourceFacts) -> float:
    """Return the time since which the store has all episodes of a source, UNIX seconds."""
    if not source.events_are_whole:
        return inf
    if source.events_stream.removed == 0:
        return -inf
    captured = (entry.captured for entry in source.events if entry.captured is not None)
    return next(captured, inf)


def clips(snapshot: FolderSnapshot) -> list[Pin]:
    """Return the pins that the episodes of the database should have, for their recorded clips."""
    recordings = snapshot.recordings
    episodes = snapshot.episodes
    if recordings is None or episodes is None:
        return []
    rows = _RowsByTime(recordings.rows)
    pins = []
    for episode, values in episodes.episodes.items():
        if values["clip_before_s"] is None:
            continue
        since = values["began_captured"] - values["clip_before_s"]
        until = values["last_captured"] + values["clip_after_s"]
        if values["ended_by"] is None:
            until += OPEN_S
        if any(rows.between(values["source"], since, until)):
            pins.append(Pin(episode, values["source"], since, until, values["severity"]))
    return pins


def _oldest(snapshot: FolderSnapshot) -> float:
    """Return the time since which no limit of age or number can have removed an episode."""
    assert snapshot.episodes is not None
    return _kept_since(snapshot.episodes.episodes, snapshot.now)


def _kept_since(rows: Mapping[str, Mapping[str, Any]], now: float) -> float:
    """Return the time since which no limit of age or number can have removed a row of a table."""
    began = [float(row["began_captured"]) for row in rows.values()]
    if len(began) >= _FEW:
        return min(began)
    return min([*began, now - _YOUNG_S])


# -- episodes


def _check_episodes(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that the database has each episode of the stream once, with the same values."""
    stored = snapshot.episodes
    streamed = snapshot.streamed
    if stored is None:
        return
    yield from _check_read(snapshot)
    for episode, row in streamed.episodes.items():
        is_whole = (episode, "start", 0) in streamed.changes
        stored_row = stored.episodes.get(episode)
        if stored_row is None:
            if row["began_captured"] >= _oldest(snapshot):
                yield _fault(f"episode {episode}", "it is not in events.db", "a row", "episodes")
        elif is_whole and stored_row != row:
            names = [name for name in row if stored_row.get(name) != row[name]]
            found = ", ".join(f"{name} {stored_row.get(name)}" for name in names)
            expected = ", ".join(f"{name} {row[name]}" for name in names)
            yield _fault(
                f"episode {episode}", found, f"{expected}, as the store has it", "episodes"
            )
    for key, change in streamed.changes.items():
        episode, step, number = key
        stored_change = stored.changes.get(key)
        if episode in stored.episodes and stored_change != change:
            subject = f"change {step} {number} of episode {episode}"
            yield _fault(subject, stored_change or "none", change, "episodes")
    for episode in strange_episodes(snapshot):
        yield _fault(
            f"episode {episode}", "events.db has it", "none: the store does not have it", "episodes"
        )
    for visit in strayed_visits(snapshot):
        yield _fault(f"visit {visit}", "events.db differs", "as the store has it", "episodes")


def strayed_visits(snapshot: FolderSnapshot) -> dict[str, Mapping[str, Any]]:
    """Return the rows of visits, by id, that the database does not have as the stream has them.

    Visits that a limit can have removed may be missing.
    """
    stored = snapshot.episodes
    if stored is None:
        return {}
    strayed = {}
    oldest = _kept_since(stored.visits, snapshot.now)
    for visit, row in snapshot.streamed.visits.items():
        if visit not in stored.visits and row["began_captured"] < oldest:
            continue
        if stored.visits.get(visit) != row:
            strayed[visit] = row
    return strayed


def _check_read(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    assert snapshot.episodes is not None
    for source in snapshot.sources:
        for stage, told in source.told.items():
            read = snapshot.episodes.read.get((source.name, stage), START)
            if read > told.stream.last:
                yield _fault(
                    f"source {source.name}: events.db was read up to",
                    read,
                    f"at most {told.stream.last} of {stage}",
                    "episodes",
                )
            later = [entry for entry in told.entries if entry.position > read]
            if later:
                yield Discrepancy(
                    "unfinished",
                    f"source {source.name}: events.db",
                    f"{len(later)} entries of {stage} are not in it",
                    "all of them",
                    _NEXT,
                    "episodes",
                )


def strange_episodes(snapshot: FolderSnapshot) -> list[str]:
    """Return the episodes of the database that began within the stored stream and are not in it.

    Episodes of a source with an unreadable entry are left out: they may have begun in that entry.
    """
    stored = snapshot.episodes
    if stored is None:
        return []
    first = {
        source.name: source.events[0].position
        for source in snapshot.sources
        if source.events and source.events_are_whole
    }
    strange = []
    for episode, row in stored.episodes.items():
        since = first.get(row["source"])
        if since is None or episode in snapshot.streamed.episodes:
            continue
        if Position(row["told_epoch"], row["told_seq"]) >= since:
            strange.append(episode)
    return strange


def _check_states(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    for state in snapshot.states:
        if not state.is_whole:
            yield Discrepancy(
                "fault",
                f"source {state.source}: state of {state.stage}",
                f"{state.file} does not contain it",
                f"the content of position {state.position}",
                "no action: the stage looks at the whole next frame, with reason reanchored",
            )


_CHECKS: Final[tuple[Callable[[FolderSnapshot], Iterator[Discrepancy]], ...]] = (
    _check_files,
    _check_index,
    _check_overlaps,
    _check_pins,
    _check_episodes,
    _check_states,
)
