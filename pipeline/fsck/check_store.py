"""Check the store: results, accounting, positions, events and sinks of each source.

Each check is a pure function from facts to findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from framegate.pipeline.contracts.drops import drops_of
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.fsck.snapshot import Discrepancy, FolderSnapshot, SourceFacts
from framegate.pipeline.sinks.position import LAST_SEQ
from framegate.pipeline.telemetry.counters import ESCALATED, LOOKS_PREFIX

# The stage that publishes has this name in keys (see stages/publish.py). A graph without a stage of
# this name is not checked for it.
PUBLISHER: Final = "cache"
_LOST: Final = (
    "nothing else in the folder has these data; report it with the logs of the run, and begin a "
    "new run with another -d"
)


def check_store(snapshot: FolderSnapshot) -> list[Discrepancy]:
    """Return all that is inconsistent in the store, in the order of its sources."""
    findings = list(_check_run(snapshot))
    for source in snapshot.sources:
        for check in _CHECKS:
            findings += check(source)
    return findings


def _fault(source: SourceFacts, subject: str, found: object, expected: object) -> Discrepancy:
    subject = f"source {source.name}: {subject}"
    return Discrepancy("fault", subject, str(found), str(expected), _LOST)


def _listed(positions: Sequence[Position]) -> str:
    """Return the first positions of a list, and the number of the others."""
    text = ", ".join(map(str, positions[:3]))
    if len(positions) > 3:
        text += f" and {len(positions) - 3} more"
    return text


def _check_run(snapshot: FolderSnapshot) -> Iterator[Discrepancy]:
    run = snapshot.run
    if run is None or not run.begun:
        return
    if run.identity and run.identity != snapshot.identity:
        yield Discrepancy(
            "fault",
            "run.json: identity of the store",
            snapshot.identity or "none",
            run.identity,
            "the store was emptied or replaced; put back the store folder of this run",
        )
    known = {source.name: source for source in snapshot.sources}
    for wanted in run.sources:
        source = known.get(wanted.name)
        if source is None:
            yield Discrepancy(
                "fault",
                f"source {wanted.name}",
                "the store does not know it",
                "run.json names it",
                "resume the run, or begin a new one with another -d",
            )
        elif source.run not in ("", run.run):
            yield Discrepancy(
                "fault",
                f"source {source.name}: owner",
                source.run,
                f"{run.run}, the run of this folder",
                "if that run took the source over (--take-over), check the folder of that run; "
                f"otherwise {_LOST}",
            )


def _check_results(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check that ids of an epoch count from 0, and that missing frames were counted as dropped."""
    for position, reason in source.unreadable.items():
        yield _fault(source, f"result {position}", reason, "a readable result of this position")
    frames = source.results.frames
    starts = [frame for before, frame in pairwise((START, *frames)) if frame.epoch != before.epoch]
    if source.results.removed and starts:
        starts = starts[1:]  # the first epoch that is left may have lost its beginning
    missing = sum(start.seq for start in starts)
    gaps = [
        (before, after)
        for before, after in pairwise(frames)
        if before.epoch == after.epoch and after.seq != before.seq + 1
    ]
    missing += sum(after.seq - before.seq - 1 for before, after in gaps)
    dropped = _dropped(source)
    if missing > dropped:
        first = [after for _, after in gaps] or starts
        yield _fault(
            source,
            "frames without a result",
            f"{missing}, before {_listed(first)}",
            f"at most {dropped}, the frames that were counted as dropped",
        )


def _check_accounts(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check law 4 (no frame is lost silently), and the counters that follow from the results."""
    count = source.counters
    decoded = count.get("decoded", 0)
    published = count.get("published", 0)
    dropped = _dropped(source)
    waiting = len(source.waiting)
    if decoded != published + dropped + waiting:
        yield _fault(
            source,
            "decoded frames",
            decoded,
            f"{published + dropped + waiting}: {published} published, {dropped} dropped, "
            f"{waiting} in flight",
        )
    if source.results.removed:
        return
    if published != len(source.results.frames):
        yield _fault(source, "published frames", published, f"{len(source.results.frames)} results")
    looks = sum(n for name, n in count.items() if name.startswith(LOOKS_PREFIX))
    names = sorted(count.keys() | source.recounted.keys())
    if looks != published:  # a user's stage publishes, with counters of its own
        return
    for name in names:
        counted = count.get(name, 0)
        recounted = source.recounted.get(name, 0)
        if name.startswith((LOOKS_PREFIX, ESCALATED)) and counted != recounted:
            yield _fault(source, f"counter {name}", counted, f"{recounted}, as the results have it")


def _dropped(source: SourceFacts) -> int:
    return sum(drops_of(source.counters).values())


def _check_positions(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check that a stage is not behind its own output, and not ahead of decode."""
    decode = source.stages.get("decode")
    for name, stage in source.stages.items():
        for output, end in (("its stream", stage.last), ("its state", stage.emitted)):
            if end > stage.position:
                yield _fault(
                    source,
                    f"position of {name}",
                    stage.position,
                    f"at least {end}, where {output} ends",
                )
        if decode is not None and stage.position > decode.position:
            yield _fault(
                source,
                f"position of {name}",
                stage.position,
                f"at most {decode.position} of decode",
            )
        if stage.position.epoch > source.epoch:
            yield _fault(
                source, "last epoch", source.epoch, f"at least {stage.position.epoch} of {name}"
            )
    publisher = source.stages.get(PUBLISHER)
    last = source.results.last
    if publisher is not None and publisher.position != last:
        yield _fault(
            source, f"position of {PUBLISHER}", publisher.position, f"{last} of the last result"
        )


def _check_ends(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check that an end comes after the last frame of its epoch, and has the number of frames."""
    frames = source.results.frames
    last_of = {frame.epoch: frame for frame in frames}
    oldest = min((*frames[:1], *list(source.results.ends)[:1]), default=START)
    seen: set[int] = set()
    if source.results.removed:
        seen.add(oldest.epoch)  # its frames or its first end may have been trimmed
    for position, end in source.results.ends.items():
        if position.epoch in seen:
            continue  # the end is repeated while a camera is lost
        seen.add(position.epoch)
        last = last_of.get(position.epoch)
        if last is not None and last > position:
            yield _fault(source, f"end {position}", f"before frame {last}", "after all frames")
        after = position.seq
        if last is not None:
            after = last.seq + 1
        is_first = end.away_s == 0.0
        if is_first and end.frames != position.seq:
            yield _fault(source, f"frames of end {position}", end.frames, position.seq)
        if is_first and last is not None and after + end.dropped != position.seq:
            yield _fault(
                source,
                f"end {position}",
                f"{position.seq} frames",
                f"{after} up to the last result and {end.dropped} dropped after it",
            )
        if not end.last:
            continue
        for name, n in end.counts.items():
            counted = source.counters.get(name, 0)
            if counted < n:
                yield _fault(source, f"counter {name}", counted, f"at least {n}")


def _check_events(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check that each entry names the one before it, and that each episode starts and ends once."""
    for stage, told in source.told.items():
        before = None
        if told.stream.removed == 0:
            before = START
        for entry in told.entries:
            if entry.before is None:
                continue
            if before is not None and entry.before != before:
                subject = f"{stage}: the entry before {entry.position}"
                yield _fault(source, subject, before, entry.before)
            before = entry.position
    yield from _check_pairs(source, source.events_stream.removed == 0)


def _check_pairs(source: SourceFacts, is_whole: bool) -> Iterator[Discrepancy]:
    open_now: dict[str, Position] = {}
    over: set[str] = set()
    ids: set[str] = set()
    for entry in source.events:
        for change in entry.changes.changes:
            subject = f"events: {change.id} at {entry.position}"
            episode = change.episode
            if change.id in ids:
                yield _fault(source, subject, "it is stored twice", "once")
            ids.add(change.id)
            if episode in over:
                yield _fault(source, subject, "it follows the end of its episode", "no change")
            elif change.step != "start" and is_whole and episode not in open_now:
                yield _fault(source, subject, "its episode has no start", "a start before it")
            if change.step == "end":
                open_now.pop(episode, None)
                over.add(episode)
            else:
                open_now[episode] = entry.position
    events = source.stages.get("events")
    ends = [position for position, end in source.results.ends.items() if end.last]
    ended = source.results.last
    is_ended = bool(ends) and ends[-1] == ended
    if events is None or not is_ended or events.position < ended:
        return
    for episode, position in open_now.items():
        yield _fault(
            source,
            f"events: episode {episode}",
            f"open since {position}",
            f"an end, as the source ended at {ended}",
        )


def _check_sinks(source: SourceFacts) -> Iterator[Discrepancy]:
    """Check that a sink is not ahead of the stream, and has counted the stream's entries."""
    stream = source.events_stream
    positions = (*stream.frames, *stream.ends)
    for name, sink in source.sinks.items():
        subject = f"position of sink {name}"
        if sink.position.seq != LAST_SEQ and sink.position > stream.last:
            yield _fault(source, subject, sink.position, f"at most {stream.last} of the events")
            continue
        later = sum(position > sink.position for position in positions)
        is_trimmed = stream.added - len(positions) > sink.index
        if not is_trimmed and sink.index != stream.added - later:
            yield _fault(
                source,
                f"entries of sink {name}",
                sink.index,
                f"{stream.added - later} up to {sink.position}",
            )
        if later:
            yield Discrepancy(
                "unfinished",
                f"source {source.name}: sink {name}",
                f"{later} entries of events are not delivered",
                "all of them",
                "framegate run --resume delivers them if its configuration still has the sink",
            )


_CHECKS: Final[tuple[Callable[[SourceFacts], Iterator[Discrepancy]], ...]] = (
    _check_results,
    _check_accounts,
    _check_positions,
    _check_ends,
    _check_events,
    _check_sinks,
)
