"""Publish: the last stage of the main path. It writes each frame's Result and settles labels.

In a graph this stage has the name `cache`, which is part of keys and of positions in data folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from framegate.pipeline.contracts.records import VERSION, End
from framegate.pipeline.contracts.results import Object, Result, Settled, failed_result, sounds_with
from framegate.pipeline.contracts.stage import Item, Stage
from framegate.stages.detections import last_detections

KNOWN: Final = 256  # numbers of tracks, up to the highest, of which is known whether they began
SIGHTINGS: Final = (
    5  # that settle a track's label: of 32 tracks 7 ended with another than their first
)
GONE: Final = 30  # results without it that settle it, too
UNSETTLED: Final = 64  # tracks of a source that may wait for it
_SEEN: Final = ("detected", "escalated")


class Unsettled(msgspec.Struct, frozen=True, array_like=True):
    """A track that began, and whose label may change yet.

    label      that it had last
    sightings  results in which a network saw it
    gone       results since the last that had it
    """

    track: int
    label: str = ""
    sightings: int = 0
    gone: int = 0

    def after(self, shown: Object | None) -> Unsettled:
        """Return it after a result that shows it so, or not."""
        if shown is None:
            return Unsettled(self.track, self.label, self.sightings, self.gone + 1)
        return Unsettled(self.track, shown.label, self.sightings + (shown.origin in _SEEN))

    @property
    def is_settled(self) -> bool:
        """Whether it was seen often enough, or is gone."""
        return self.sightings >= SIGHTINGS or self.gone > GONE


class Tracks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which tracks of a source were published; their numbers grow, and none is given twice.

    highest    number that was published, 0 before the first
    begun      a bit for each of the KNOWN numbers up to it, that of `highest` lowest
    unsettled  oldest first
    """

    highest: int = 0
    begun: bytes = b""
    unsettled: tuple[Unsettled, ...] = ()

    def with_those(self, objects: Sequence[Object]) -> tuple[tuple[Settled, ...], Tracks]:
        """Return the tracks whose label these objects of a frame settle, and what holds then.

        Each is settled once: at its SIGHTINGS-th sighting, or when it is gone, or where more than
        UNSETTLED wait. One that is older than the KNOWN last ones was.
        """
        shown = {one.track: one for one in objects if one.track}
        highest, begun, new = self._begun_by(shown)
        if not new and not self.unsettled:
            return (), self
        known = (*self.unsettled, *map(Unsettled, new))
        now = [one.after(shown.get(one.track)) for one in known]
        waiting = [one for one in now if not one.is_settled]
        beyond = max(len(waiting) - UNSETTLED, 0)
        settled = [one for one in now if one.is_settled] + waiting[:beyond]
        return _told(settled), Tracks(highest, begun, tuple(waiting[beyond:]))

    def ended(self) -> tuple[tuple[Settled, ...], Tracks]:
        """Return the tracks that the end of an epoch settles, which is all, and what holds then."""
        return _told(self.unsettled), Tracks(self.highest, self.begun)

    def _begun_by(self, shown: Iterable[int]) -> tuple[int, bytes, list[int]]:
        highest, begun, new = self.highest, int.from_bytes(self.begun), []
        for track in shown:
            if track > highest:
                grown = track - highest
                begun = begun << grown & _ALL if grown < KNOWN else 0
                highest = track
            bit = 1 << (highest - track) if highest - track < KNOWN else 0
            if bit & ~begun:
                begun |= bit
                new.append(track)
        return highest, begun.to_bytes((begun.bit_length() + 7) // 8), new


_ALL: Final = (1 << KNOWN) - 1


def _told(tracks: Iterable[Unsettled]) -> tuple[Settled, ...]:
    return tuple(Settled(one.track, one.label) for one in tracks)


class LastSettled(msgspec.Struct, frozen=True):
    """What the end of an epoch says: the tracks that it settles."""

    settled: tuple[Settled, ...]


class Publish(Stage[Tracks]):
    """One record in, one Result out; a record on which a stage failed becomes a failed result."""

    State = Tracks
    takes_failed = True
    publishes = True

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Tracks]
    ) -> tuple[list[Result], Mapping[str, Tracks]]:
        """Make each frame's result."""
        now = self.context.now()
        after, results = dict(states), []
        for item in batch:
            result, after[item.source] = self._result(item, after[item.source], now)
            results.append(result)
        return results, after

    def end(self, source: str, end: End, state: Tracks) -> tuple[LastSettled | None, Tracks]:  # noqa: ARG002
        """Settle the tracks that are left."""
        settled, state = state.ended()
        return (LastSettled(settled) if settled else None), state

    def _result(self, item: Item, tracks: Tracks, now: float) -> tuple[Result, Tracks]:
        record = item.record
        if record.failed is not None:
            return failed_result(item.source, item.position, record, now), tracks
        found = last_detections(record)
        settled, tracks = tracks.with_those(found.objects)
        result = Result(
            v=VERSION,
            source=item.source,
            epoch=item.position.epoch,
            seq=item.position.seq,
            pts=record.pts,
            captured=record.captured,
            captured_from=record.captured_from,
            published=now,
            width=record.form.width,
            height=record.form.height,
            outcome=found.outcome,
            looked=found.looked,
            escalation=found.escalation,
            reason=found.reason,
            objects=found.objects,
            models=found.models,
            age_s=found.age_s,
            scene=found.scene,
            gate=found.gate,
            degraded=found.degraded,
            settled=settled,
            sounds=sounds_with(record),
            backdrop=found.backdrop,
        )
        return result, tracks
