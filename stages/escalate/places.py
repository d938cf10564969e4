"""The places where escalate can ask the heavy pass, and how a picture travels to them and back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

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
from framegate.pipeline.contracts.queries import PlaceSpec, Predictions, Query, Region, RemotePlace
from framegate.pipeline.contracts.source import Form
from framegate.stages.detections import as_seen
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.planes import as_picture

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


class HeavyPass(NamedTuple):
    """The heavy pass where a run asks it.

    policy_id  hash of what it counts as truth
    is_exact   whether every answer is about the frame's own pixels: far away a JPEG is looked at,
               but for queries that want exact ones, whose pixels travel without a loss
    """

    place: PlaceSpec
    policy_id: str
    is_exact: bool


def heavy_pass(options: EscalateOptions, classes: Sequence[str] | None) -> HeavyPass | None:
    """The heavy pass that the table names; None: nobody is asked. Raises UnknownClass."""
    if options.place == "off":
        return None
    policy_id = detector.policy_id("heavy", classes)
    if options.place == "local":
        return HeavyPass(functools.partial(LocalHeavy, classes), policy_id, is_exact=True)
    remote = RemotePlace(
        options.place,
        encode_question,
        detector.policy_id("heavy"),  # remote places look for all classes
        frozenset(coco.class_ids(classes)),
        nearest(policy.load("heavy").precision),
        options.url,
    )
    return HeavyPass(remote, policy_id, is_exact=False)


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
