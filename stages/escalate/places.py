"""Where escalate asks the heavy pass, and how a picture travels to it and back."""

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
from framegate.pipeline.contracts.queries import PlaceSpec, Query, Region, RemotePlace
from framegate.pipeline.contracts.source import Form
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.local_heavy import LocalHeavy
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
