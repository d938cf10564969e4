"""The heavy pass on other hosts: its questions coded, its answers held to the run's classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from framegate.models import coco
from framegate.models.detector import detector
from framegate.pipeline.heavy.questions import Answer, Place, Question, Seen, absent, checked, leave
from framegate.stages.escalate.coded_questions import encode_question

Encode = Callable[[Question], bytes]


class FarHeavy:
    """A place that asks another (workers, a server), which looks for all classes.

    Its answers are about JPEGs; a question that wants exact pixels sends them without a loss.
    """

    is_exact = False

    def __init__(
        self, reach: Callable[[Encode, str], Place], classes: Sequence[str] | None = None
    ) -> None:
        """reach: the place, given how to code a question and the hash that answers must name.

        Raises UnknownClass, ModelUnreadable.
        """
        self._place = reach(encode_question, detector.policy_id("heavy"))
        self._wanted = frozenset(coco.class_ids(classes))
        self.policy_id = detector.policy_id("heavy", classes)
        self.lanes, self.most = self._place.lanes, self._place.most

    @property
    def sent_bytes(self) -> int:
        """Of pictures, since it began."""
        return self._place.sent_bytes

    @property
    def wire_s(self) -> float:
        """For which calls were on the way, summed."""
        return self._place.wire_s

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """As the place does, less what is not looked for. PlaceFailed for what can be no answer."""
        found = self._place.answer(questions)
        return [
            self._of_classes(checked(one, asked.form)) if isinstance(one, Seen) else one
            for asked, one in zip(questions, found, strict=True)
        ]

    def absent(self) -> str | None:
        """As the place tells it."""
        return absent(self._place)

    def leave(self) -> None:
        """As the place does."""
        leave(self._place)

    def close(self) -> None:
        """Let go of the place."""
        self._place.close()

    def _of_classes(self, seen: Seen) -> Seen:
        rows = [n for n, class_id in enumerate(seen.class_ids) if class_id in self._wanted]
        return Seen(
            tuple(seen.boxes[n] for n in rows),
            tuple(seen.scores[n] for n in rows),
            tuple(seen.class_ids[n] for n in rows),
            seen.models,
        )
