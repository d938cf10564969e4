"""Opens the place that a stage wants to ask: in this process, at workers, at a KServe server."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from framegate.pipeline.contracts.queries import (
    Place,
    PlaceSpec,
    Predictions,
    Query,
    RemotePlace,
    Reply,
    absent,
    checked,
    leave,
)
from framegate.pipeline.contracts.redaction import remember_url
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.queue import HeavyQueue


def open_asks(place: PlaceSpec, patience_s: float, store: str) -> Asks:
    """A stage's queries at this place; the caller closes them. ConfigFaults for a wrong URL.

    patience_s  for which a query without a due time is tried again while the place is away
    store       URL of the run's store, where workers are looked for unless the place names another
    """
    if isinstance(place, RemotePlace):
        return Asks(CheckedPlace(_remote(place, store), place.class_ids), patience_s=patience_s)
    return Asks(place(), patience_s=patience_s)


class CheckedPlace:
    """A remote place whose answers are held to what the picture and the run allow.

    Boxes that lie outside of the picture are a PlaceFailed: answers come from another program.
    Remote places look for all classes, so that equal queries of several runs are one; what this
    run did not ask for is left out here.
    """

    def __init__(self, place: Place, class_ids: Collection[int]) -> None:
        self._place, self._class_ids = place, class_ids
        self.lanes, self.most = place.lanes, place.most

    @property
    def sent_bytes(self) -> int:
        """Of pictures that went out since it was opened."""
        return self._place.sent_bytes

    @property
    def wire_s(self) -> float:
        """Seconds for which calls were on the way, summed."""
        return self._place.wire_s

    def answer(self, questions: Sequence[Query]) -> list[Reply]:
        """One answer a query, in their order. PlaceFailed where one can be no answer."""
        replies = self._place.answer(questions)
        return [
            self._of_classes(checked(reply, asked.form))
            if isinstance(reply, Predictions)
            else reply
            for asked, reply in zip(questions, replies, strict=True)
        ]

    def absent(self) -> str | None:
        """Why nobody would answer now; None: somebody would, or the place cannot tell."""
        return absent(self._place)

    def leave(self) -> None:
        """The calling thread asks no more: let go of what is held for it."""
        leave(self._place)

    def close(self) -> None:
        """Let go of the place; calls that are under way fail."""
        self._place.close()

    def _of_classes(self, found: Predictions) -> Predictions:
        rows = [n for n, class_id in enumerate(found.class_ids) if class_id in self._class_ids]
        return Predictions(
            tuple(found.boxes[n] for n in rows),
            tuple(found.scores[n] for n in rows),
            tuple(found.class_ids[n] for n in rows),
            found.models,
        )


def _remote(place: RemotePlace, store: str) -> Place:
    url = place.url
    if url is not None:
        remember_url(url)
    if place.protocol == "kserve":
        from framegate.pipeline.heavy.kserve import KServe  # brings numpy: only where it is used

        return KServe(url or "", place.encode, place.policy_id)
    return HeavyQueue(
        url or store,
        place.encode,
        place.policy_id,
        is_own=url is None,
        precision=place.precision,
    )
