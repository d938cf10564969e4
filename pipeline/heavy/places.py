"""Open the place of a stage's queries: this process, heavy workers or a KServe server."""

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
    """Return the queries of a stage to a place; the caller closes them.

    patience_s  seconds for which a query without a due time is tried again while the place fails
    store       URL of the run's store, for workers without a URL of their own
    Raises ConfigFaults for a wrong URL.
    """
    if isinstance(place, RemotePlace):
        opened: Place = CheckedPlace(_remote(place, store), place.class_ids)
    else:
        opened = place()
    return Asks(opened, patience_s=patience_s)


class CheckedPlace:
    """A remote place whose predictions are checked, because another program made them.

    A remote place looks for all classes, so that equal queries of several runs are one query.
    Classes that this run did not ask for are removed here.
    """

    def __init__(self, place: Place, class_ids: Collection[int]) -> None:
        """class_ids: the classes that the run asks for."""
        self._place = place
        self._class_ids = class_ids
        self.lanes = place.lanes
        self.most = place.most

    @property
    def sent_bytes(self) -> int:
        """Return the bytes of pictures that were sent."""
        return self._place.sent_bytes

    @property
    def wire_s(self) -> float:
        """Return the seconds that calls spent on the network, summed."""
        return self._place.wire_s

    def answer(self, questions: Sequence[Query]) -> list[Reply]:
        """Return one reply per query, in their order.

        Raises PlaceFailed if predictions are impossible, for example outside the picture.
        """
        replies: list[Reply] = []
        for question, reply in zip(questions, self._place.answer(questions), strict=True):
            if isinstance(reply, Predictions):
                replies.append(self._of_classes(checked(reply, question.form)))
            else:
                replies.append(reply)
        return replies

    def absent(self) -> str | None:
        """Return the reason why a query would get no reply now; None: there is none known."""
        return absent(self._place)

    def leave(self) -> None:
        """Release the resources of the calling thread, which asks no more."""
        leave(self._place)

    def close(self) -> None:
        """Close the place; active calls fail."""
        self._place.close()

    def _of_classes(self, seen: Predictions) -> Predictions:
        rows = [n for n, class_id in enumerate(seen.class_ids) if class_id in self._class_ids]
        return Predictions(
            tuple(seen.boxes[n] for n in rows),
            tuple(seen.scores[n] for n in rows),
            tuple(seen.class_ids[n] for n in rows),
            seen.models,
        )


def _remote(place: RemotePlace, store: str) -> Place:
    url = place.url
    if url is not None:
        remember_url(url)
    if place.protocol == "kserve":
        # Imported here because it needs numpy, which other places do not.
        from framegate.pipeline.heavy.kserve import KServe

        return KServe(url or "", place.encode, place.policy_id)
    return HeavyQueue(
        url or store,
        place.encode,
        place.policy_id,
        is_own=url is None,
        precision=place.precision,
    )
