"""The stage publish, the last of the main path: the Result of each frame, and settled labels.

In a graph this stage has the name `cache`, which is part of keys and of positions in data folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from framegate.pipeline.contracts.keys import WINDOWS
from framegate.pipeline.contracts.records import VERSION, End
from framegate.pipeline.contracts.results import (
    Object,
    Result,
    Settled,
    failed_result,
    looked_at,
    sounds_with,
)
from framegate.pipeline.contracts.stage import Item, Stage
from framegate.pipeline.contracts.visits import Visit, visits_at
from framegate.stages.detections import last_detections, scaled

KNOWN: Final = 256  # of this many last track numbers, the state records which have begun
# Sightings that settle a label. Of 32 tracks, 7 ended with another label than their first.
SIGHTINGS: Final = 5
GONE: Final = 30  # results without the track that settle its label as well
UNSETTLED: Final = 64  # tracks of a source that may be unsettled
_SEEN: Final = ("detected", "escalated")


class Unsettled(msgspec.Struct, frozen=True, array_like=True):
    """A track whose label may still change.

    label      its last label
    sightings  number of results in which a network detected it
    gone       number of results since the last one that had it
    """

    track: int
    label: str = ""
    sightings: int = 0
    gone: int = 0

    def after(self, shown: Object | None) -> Unsettled:
        """Return the track after one more result; `shown` is its object there, None without."""
        if shown is None:
            return Unsettled(self.track, self.label, self.sightings, self.gone + 1)
        sightings = self.sightings
        if shown.origin in _SEEN:
            sightings += 1
        return Unsettled(self.track, shown.label, sightings)

    @property
    def is_settled(self) -> bool:
        """Return True if the track was seen often enough or is gone."""
        return self.sightings >= SIGHTINGS or self.gone > GONE


class Tracks(msgspec.Struct, frozen=True, omit_defaults=True):
    """The published tracks of a source. Track numbers grow, and no number is used twice.

    highest    highest published number, 0 before the first
    begun      one bit for each of the KNOWN numbers up to `highest`, lowest bit for `highest`
    unsettled  tracks whose labels may change, oldest first
    """

    highest: int = 0
    begun: bytes = b""
    unsettled: tuple[Unsettled, ...] = ()

    def with_those(self, objects: Sequence[Object]) -> tuple[tuple[Settled, ...], Tracks]:
        """Return the tracks that the objects of a frame settle, and the tracks after it.

        A track is settled once: at its SIGHTINGS-th sighting, when it is gone, or, oldest first,
        when more than UNSETTLED tracks wait. A track older than the KNOWN last numbers counts as
        settled.
        """
        shown = {item.track: item for item in objects if item.track}
        highest, begun, new = self._begun_by(shown)
        if not new and not self.unsettled:
            return (), self
        known = (*self.unsettled, *map(Unsettled, new))
        now = [track.after(shown.get(track.track)) for track in known]
        waiting = [track for track in now if not track.is_settled]
        excess = max(len(waiting) - UNSETTLED, 0)
        settled = [track for track in now if track.is_settled] + waiting[:excess]
        return _settled(settled), Tracks(highest, begun, tuple(waiting[excess:]))

    def ended(self) -> tuple[tuple[Settled, ...], Tracks]:
        """Return the unsettled tracks, which the end of an epoch settles, and the tracks after."""
        return _settled(self.unsettled), Tracks(self.highest, self.begun)

    def _begun_by(self, shown: Iterable[int]) -> tuple[int, bytes, list[int]]:
        """Return `highest` and `begun` after a frame with these tracks, and the new tracks."""
        highest = self.highest
        begun = int.from_bytes(self.begun)
        new: list[int] = []
        for track in shown:
            if track > highest:
                begun = (begun << min(track - highest, KNOWN)) & _ALL
                highest = track
            if highest - track >= KNOWN:
                continue
            bit = 1 << (highest - track)
            if not begun & bit:
                begun |= bit
                new.append(track)
        return highest, begun.to_bytes((begun.bit_length() + 7) // 8), new


_ALL: Final = (1 << KNOWN) - 1


def _settled(tracks: Iterable[Unsettled]) -> tuple[Settled, ...]:
    return tuple(Settled(track.track, track.label) for track in tracks)


class LastSettled(msgspec.Struct, frozen=True):
    """The output at the end of an epoch: the tracks that it settles, and the visits that end."""

    settled: tuple[Settled, ...]
    visits: tuple[Visit, ...] = ()


class Publish(Stage[Tracks]):
    """The stage that makes a Result of each record; of a failed record, a failed result."""

    State = Tracks
    takes_failed = True
    publishes = True

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Tracks]
    ) -> tuple[list[Result], Mapping[str, Tracks]]:
        """Return the result of each frame."""
        now = self.context.now()
        after = dict(states)
        results: list[Result] = []
        for item in batch:
            result, after[item.source] = self._result(item, after[item.source], now)
            results.append(result)
        return results, after

    def end(self, source: str, end: End, state: Tracks) -> tuple[LastSettled | None, Tracks]:  # noqa: ARG002
        """Settle the remaining tracks."""
        settled, state = state.ended()
        visits = visits_at(end, WINDOWS)
        if not settled and not visits:
            return None, state
        return LastSettled(settled, visits), state

    def _result(self, item: Item, tracks: Tracks, now: float) -> tuple[Result, Tracks]:
        record = item.record
        if record.failed is not None:
            return failed_result(item.source, item.position, record, now), tracks
        detections = last_detections(record)
        settled, tracks = tracks.with_those(detections.objects)
        width, height = record.result_size
        objects = detections.objects
        if record.shown is not None:
            form = record.form
            objects = scaled(objects, width / form.width, height / form.height)
        result = Result(
            v=VERSION,
            source=item.source,
            epoch=item.position.epoch,
            seq=item.position.seq,
            pts=record.pts,
            captured=record.captured,
            captured_from=record.captured_from,
            published=now,
            width=width,
            height=height,
            outcome=detections.outcome,
            looked=detections.looked,
            escalation=detections.escalation,
            reason=detections.reason,
            objects=objects,
            models=detections.models,
            age_s=detections.age_s,
            scene=detections.scene,
            gate=detections.gate,
            degraded=detections.degraded,
            settled=settled,
            sounds=sounds_with(record),
            backdrop=detections.backdrop,
            filters=detections.filters,
            visits=detections.visits,
            looked_at=looked_at(record),
            camera_events=record.camera_events,
        )
        return result, tracks
