"""The heavy pass in this process: what is "true", as a place that is asked."""

from __future__ import annotations

from collections.abc import Sequence

from framegate.models.detector import detector
from framegate.pipeline.contracts.queries import Predictions, Query
from framegate.stages.detections import as_seen
from framegate.stages.planes import as_picture


class LocalHeavy:
    """A place (`queries.Place`) that looks at a frame's own pixels: what is "true".

    One frame at a time: in a batch the first answer would come as late as the last.
    """

    lanes = 1
    most = 1
    sent_bytes = 0
    wire_s = 0.0

    def __init__(self, classes: Sequence[str] | None = None, threads: int = 1) -> None:
        """Compile the networks, which take 110 MB. Raises UnknownClass, ModelUnreadable."""
        self._detector = detector.load("heavy", threads=threads, classes=classes)
        self.models = self._detector.models

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        """Look at each frame whole."""
        pictures = [as_picture(memoryview(q.pixels), q.form) for q in questions]
        return [as_seen(boxes, self.models) for boxes in self._detector.detect(pictures)]

    def close(self) -> None:
        """Nothing is held that the process does not let go of at its end."""
