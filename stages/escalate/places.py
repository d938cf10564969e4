"""Where escalate asks, as `[escalate]` says: here, on other hosts, at a KServe server."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from framegate.models import coco
from framegate.models.detector import detector, policy
from framegate.models.detector.network import nearest
from framegate.models.picture import Matrix, Picture, cut
from framegate.models.picture_coding import (
    DEFAULT,
    Coding,
    decode,
    decode_exact,
    encode,
    encode_exact,
    even,
)
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.heavy.kserve import KServe
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.pipeline.queries import (
    Encode,
    Place,
    Predictions,
    Query,
    Region,
    Reply,
    absent,
    checked,
    leave,
)
from framegate.pipeline.redaction import remember_url
from framegate.pipeline.source import Form
from framegate.pipeline.store.client import url_fault
from framegate.stages.detections import as_seen
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.planes import as_picture

# -- The heavy pass in this process, on a thread of its own.


class LocalHeavy:
    """A place (`queries.Place`) that looks at a frame's own pixels: what is "true".

    One frame at a time: in a batch the first answer would come as late as the last.
    """

    lanes = 1
    most = 1
    is_exact = True
    sent_bytes = 0
    wire_s = 0.0

    def __init__(self, classes: Sequence[str] | None = None, threads: int = 1) -> None:
        """Compile the networks. Raises UnknownClass, ModelUnreadable."""
        self._detector = detector.load("heavy", threads=threads, classes=classes)
        self.models = self._detector.models
        self.policy_id = self._detector.policy_id

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        """Look at each frame whole."""
        pictures = [as_picture(memoryview(q.pixels), q.form) for q in questions]
        return [as_seen(boxes, self.models) for boxes in self._detector.detect(pictures)]

    def close(self) -> None:
        """Nothing is held that the process does not let go of at its end."""


# -- A question's picture as it goes to a place on another host, and as it comes out there.


def encode_question(question: Query, coding: Coding = DEFAULT) -> bytes:
    """The picture, or the part that is asked about: a JPEG, or FFV1 if it is exact. Any thread."""
    whole = as_picture(memoryview(question.pixels), question.form)
    part = question.id.part
    picture = whole if part is None else cut(whole, even(part))
    return encode_exact(picture) if question.id.exact else encode(picture, coding)


def decode_question(data: bytes, form: Form, part: Region | None, exact: bool) -> Picture:
    """What came of it, of any size where it is not exact. PictureDamaged. Any thread."""
    left, top, right, bottom = shown_rect(form, part)
    matrix = cast(Matrix, form.matrix)
    if exact:
        return decode_exact(data, (right - left, bottom - top), matrix, form.full_range)
    return decode(data, matrix, form.full_range)


def shown_rect(form: Form, part: Region | None) -> Region:
    """What such a picture shows, in source pixels."""
    return (0, 0, form.width, form.height) if part is None else even(part)


# -- The heavy pass on other hosts: its questions coded, its answers held to the run's classes.


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

    def answer(self, questions: Sequence[Query]) -> list[Reply]:
        """As the place does, less what is not looked for. PlaceFailed for what can be no answer."""
        found = self._place.answer(questions)
        return [
            self._of_classes(checked(one, asked.form)) if isinstance(one, Predictions) else one
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

    def _of_classes(self, seen: Predictions) -> Predictions:
        rows = [n for n, class_id in enumerate(seen.class_ids) if class_id in self._wanted]
        return Predictions(
            tuple(seen.boxes[n] for n in rows),
            tuple(seen.scores[n] for n in rows),
            tuple(seen.class_ids[n] for n in rows),
            seen.models,
        )


class HeavyPlace(Place, Protocol):
    """A place with the heavy pass.

    policy_id  hash of what it counts as truth
    is_exact   whether every answer is about the frame's own pixels
    """

    policy_id: str
    is_exact: bool


def open_place(
    options: EscalateOptions, classes: Sequence[str] | None, store: str
) -> HeavyPlace | None:
    """The place; None if there is none. ConfigFaults.

    store  URL of the run's store, where workers are looked for unless the table names another
    """
    match options.place:
        case "off":
            return None
        case "local":
            return LocalHeavy(classes)
        case "workers":
            url = _url(options)
            if url is not None and (fault := url_fault(url)) is not None:
                raise ConfigFaults([f"{_key(options)}: {fault}"])
            precision = nearest(policy.load("heavy").precision)
            at = functools.partial(HeavyQueue, url or store, is_own=url is None)
            return FarHeavy(functools.partial(at, precision=precision), classes)
        case "kserve":
            url = _url(options)
            if url is None:
                raise ConfigFaults(["escalate.place = 'kserve': it needs escalate.url or url_env"])
            return FarHeavy(functools.partial(KServe, url), classes)


def _url(options: EscalateOptions) -> str | None:
    url = options.url if options.url_env is None else os.environ.get(options.url_env)
    if options.url_env is not None and not url:
        raise ConfigFaults([f"{_key(options)}: the environment has no such variable"])
    if url is not None:
        remember_url(url)
    return url


def _key(options: EscalateOptions) -> str:
    """What says the URL, without any part of it."""
    return "escalate.url" if options.url_env is None else f"escalate.url_env = {options.url_env!r}"
