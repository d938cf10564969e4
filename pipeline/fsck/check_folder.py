"""Checks of recordings, their index, pins, gaps, the database of episodes and state planes.

Pure: each check maps a snapshot to findings.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from framegate.pipeline.contracts.records import START
from framegate.pipeline.fsck.snapshot import (
    Discrepancy,
    FolderPart,
    FolderSnapshot,
    RecordedFile,
    RecordingFacts,
)
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
    return [finding for check in _CHECKS for finding in check(snapshot)]


def _fault(subject: str, found: object, expected: object, part: FolderPart) -> Discrepancy:
    return Discrepancy("fault", subject, str(found), str(expected), _REPAIR, part)


def _listed(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


# -- files


def _check_files(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    for file, why in snapshot.unreadable.items():
        part, advice = _UNREADABLE.get(file, (None, ""))
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
        "episodes that the store no longer has, are only in the old file",
    ),
}


# -- recordings


def _check_index(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that each file has a row with its contents, and each row a file."""
    held = snapshot.recordings
    if held is None:
        return
    rows = {row.path: row for row in held.rows}
    by_source: defaultdict[str, list[str]] = defaultdict(list)
    for file in held.files:
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
                "remove it: nothing of it can be played",
            )
        elif file.nbytes != file.segment.nbytes:
            yield Discrepancy(
                "fault",
                subject,
                f"{file.nbytes} bytes",
                f"{file.segment.nbytes} bytes of whole fragments",
                "the rest of the file is damaged; what is before it can be played",
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
    yield from _check_sums(held)


def row_is_right(row: Segment, file: RecordedFile) -> bool:
    """Return whether a row agrees with its file."""
    return file.segment is not None and _differences(row, file.segment) is None


def _differences(row: Segment, file: Segment) -> tuple[str, str] | None:
    """Return the fields in which a row and its file differ: as the row and as the file has them."""
    names = [name for name in _FIELDS if getattr(row, name) != getattr(file, name)]
    names += [name for name in _TIMES if abs(getattr(row, name) - getattr(file, name)) > _HAIR_S]
    if not names:
        return None
    found, expected = (
        ", ".join(f"{name} {getattr(which, name)}" for name in names) for which in (row, file)
    )
    return found, f"{expected}, as the file has it"


def _check_sums(held: RecordingFacts) -> Iterator[Discrepancy]:
    sums: dict[str, tuple[int, int]] = {}
    for row in held.rows:
        n, nbytes = sums.get(row.source, (0, 0))
        sums[row.source] = (n + 1, nbytes + row.nbytes)
    for source in sorted(sums.keys() | held.counted.keys()):
        counted, added = held.counted.get(source, (0, 0)), sums.get(source, (0, 0))
        if counted != added:
            found, expected = (f"{n} files of {nbytes} bytes" for n, nbytes in (counted, added))
            yield _fault(f"sum of the recordings of source {source}", found, expected, "index")


def _check_overlaps(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that no packet is recorded twice, and that no gap covers a time that was recorded."""
    held = snapshot.recordings
    if held is None:
        return
    files = [file for file in held.files if file.segment is not None and file.segment.epoch]
    in_order = sorted(files, key=lambda file: (file.source, _epoch(file.segment), file.decoded))
    for before, after in pairwise(in_order):
        same = (before.source, _epoch(before.segment)) == (after.source, _epoch(after.segment))
        if same and after.decoded[0] < before.decoded[1] - _HAIR_S:
            yield Discrepancy(
                "fault",
                f"recording {after.path}",
                f"it begins at {after.decoded[0]:.3f} s",
                f"at or after {before.decoded[1]:.3f} s, where {before.path} ends",
                "both can be played; report it with the logs of the run",
            )
    rows = _RowsByTime(held.rows)
    for gap in held.gaps:
        for row in rows.between(gap.source, gap.since, gap.until):
            if min(gap.until, row.captured_end) - max(gap.since, row.captured) > _OVERLAP_S:
                yield Discrepancy(
                    "fault",
                    f"gap of source {gap.source} ({gap.why})",
                    f"{gap.since:.3f} to {gap.until:.3f}",
                    f"no part of {row.path}, {row.captured:.3f} to {row.captured_end:.3f}",
                    "the recording is right; the gap is longer than what was lost",
                )


class _RowsByTime:
    """Rows of an index, found by time: a folder has a million of them, and as many episodes."""

    def __init__(self, rows: Sequence[Segment]) -> None:
        self._rows: defaultdict[str, list[Segment]] = defaultdict(list)
        for row in sorted(rows, key=_captured):
            self._rows[row.source].append(row)
        self._longest_s = max((row.captured_end - row.captured for row in rows), default=0.0)

    def between(self, source: str, since: float, until: float) -> Iterator[Segment]:
        """Yield the rows of a source with pictures of a time, UNIX seconds, in order."""
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
    return 0 if segment is None else segment.epoch


# -- pins


def _check_pins(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that pins and episodes agree, and that each row is marked by its pins."""
    held = snapshot.recordings
    if held is None or "recordings/pins.db" in snapshot.unreadable:
        return
    if snapshot.episodes is not None:
        for pin in stray_pins(snapshot):
            yield _fault(
                f"pin {pin.why}", "there is no such episode", "an episode for each pin", "pins"
            )
    by_why = {pin.why: pin for pin in held.pins}
    for wanted in clips(snapshot):
        there = by_why.get(wanted.why)
        if there is None:
            yield _fault(f"episode {wanted.why}", "its clip is not pinned", "a pin", "pins")
        elif there.since > wanted.since + _HAIR_S or there.until < wanted.until - _HAIR_S:
            yield _fault(
                f"pin {wanted.why}",
                f"{there.since:.3f} to {there.until:.3f}",
                f"{wanted.since:.3f} to {wanted.until:.3f}, its clip",
                "pins",
            )
    levels: defaultdict[str, int] = defaultdict(int)
    rows = _RowsByTime(held.rows)
    for pin in held.pins:
        for row in rows.between(pin.source, pin.since, pin.until):
            levels[row.path] = max(levels[row.path], _LEVELS[pin.severity])
    for row in held.rows:
        if levels[row.path] != row.pinned:
            yield _fault(
                f"row of recording {row.path}: pinned", row.pinned, levels[row.path], "index"
            )


def stray_pins(snapshot: FolderSnapshot) -> list[Pin]:
    """Return pins of episodes that neither the database nor the store has, and that no limit of age
    can have removed.
    """
    held, episodes = snapshot.recordings, snapshot.episodes
    if held is None or episodes is None:
        return []
    known = set(episodes.episodes)
    for source in snapshot.sources:
        known |= {change.episode for entry in source.events for change in entry.changes.changes}
    oldest = _oldest(snapshot)
    return [pin for pin in held.pins if pin.why not in known and pin.since >= oldest]


def clips(snapshot: FolderSnapshot) -> list[Pin]:
    """Return the pins that the episodes of the database should have: their clips, as far as
    anything was recorded then.
    """
    held, episodes = snapshot.recordings, snapshot.episodes
    if held is None or episodes is None:
        return []
    rows = _RowsByTime(held.rows)
    found = []
    for episode, values in episodes.episodes.items():
        if values["clip_before_s"] is None:
            continue
        since = values["began_captured"] - values["clip_before_s"]
        later = 0.0 if values["ended_by"] is not None else OPEN_S
        until = values["last_captured"] + values["clip_after_s"] + later
        if any(rows.between(values["source"], since, until)):
            found.append(Pin(episode, values["source"], since, until, values["severity"]))
    return found


def _oldest(snapshot: FolderSnapshot) -> float:
    """Return since when no episode can have gone for its age or their number, UNIX seconds."""
    assert snapshot.episodes is not None
    began = [float(row["began_captured"]) for row in snapshot.episodes.episodes.values()]
    if len(began) >= _FEW:
        return min(began)
    return min([*began, snapshot.now - _YOUNG_S])


# -- episodes


def _check_episodes(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    """Check that the database has each episode of the stream once, with the same values."""
    held, streamed = snapshot.episodes, snapshot.streamed
    if held is None:
        return
    yield from _check_read(snapshot)
    for episode, row in streamed.episodes.items():
        is_whole = (episode, "start", 0) in streamed.changes
        stored = held.episodes.get(episode)
        if stored is None:
            if row["began_captured"] >= _oldest(snapshot):
                yield _fault(f"episode {episode}", "it is not in events.db", "a row", "episodes")
        elif is_whole and stored != row:
            names = [name for name in row if stored.get(name) != row[name]]
            found, expected = (
                ", ".join(f"{name} {which.get(name)}" for name in names) for which in (stored, row)
            )
            yield _fault(
                f"episode {episode}", found, f"{expected}, as the store has it", "episodes"
            )
    for key, change in streamed.changes.items():
        if key[0] in held.episodes and held.changes.get(key) != change:
            what = f"change {key[1]} {key[2]} of episode {key[0]}"
            yield _fault(what, held.changes.get(key, "none"), change, "episodes")
    for episode in strange_episodes(snapshot):
        yield _fault(
            f"episode {episode}", "events.db has it", "none: the store does not have it", "episodes"
        )


def _check_read(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    assert snapshot.episodes is not None
    for source in snapshot.sources:
        read, last = snapshot.episodes.read.get(source.name, START), source.events_stream.last
        if read > last:
            yield _fault(
                f"source {source.name}: events.db was read up to",
                read,
                f"at most {last}",
                "episodes",
            )
        later = [entry for entry in source.events if entry.position > read]
        if later:
            yield Discrepancy(
                "unfinished",
                f"source {source.name}: events.db",
                f"{len(later)} entries of events are not in it",
                "all of them",
                _NEXT,
                "episodes",
            )


def strange_episodes(snapshot: FolderSnapshot) -> list[str]:
    """Return episodes of the database that should be in what is left of the stream, and are not."""
    held, streamed = snapshot.episodes, snapshot.streamed
    if held is None:
        return []
    first = {source.name: source.events[0].position for source in snapshot.sources if source.events}
    found = []
    for episode, row in held.episodes.items():
        since = first.get(row["source"])
        said_at: tuple[Any, Any] = (row["told_epoch"], row["told_seq"])
        if since is not None and said_at >= tuple(since) and episode not in streamed.episodes:
            found.append(episode)
    return found


def _check_states(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    for state in snapshot.states:
        if not state.is_whole:
            yield Discrepancy(
                "fault",
                f"source {state.source}: state of {state.stage}",
                f"{state.file} does not contain it",
                f"the content of position {state.position}",
                "nothing: the stage looks at the whole next frame, with reason reanchored",
            )


_CHECKS: Final[tuple[Callable[[FolderSnapshot], Iterator[Discrepancy]], ...]] = (
    _check_files,
    _check_index,
    _check_overlaps,
    _check_pins,
    _check_episodes,
    _check_states,
)
