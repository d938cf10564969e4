"""A question's picture as it goes to a place on another host, and as it comes out there."""

from __future__ import annotations

from typing import cast

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
from framegate.pipeline.heavy.questions import Question, Rect
from framegate.pipeline.source import Form
from framegate.stages.planes import as_picture


def encode_question(question: Question, coding: Coding = DEFAULT) -> bytes:
    """The picture, or the part that is asked about: a JPEG, or FFV1 if it is exact. Any thread."""
    whole = as_picture(memoryview(question.pixels), question.form)
    part = question.id.part
    picture = whole if part is None else cut(whole, even(part))
    return encode_exact(picture) if question.id.exact else encode(picture, coding)


def decode_question(data: bytes, form: Form, part: Rect | None, exact: bool) -> Picture:
    """What came of it, of any size where it is not exact. PictureDamaged. Any thread."""
    left, top, right, bottom = shown_rect(form, part)
    matrix = cast(Matrix, form.matrix)
    if exact:
        return decode_exact(data, (right - left, bottom - top), matrix, form.full_range)
    return decode(data, matrix, form.full_range)


def shown_rect(form: Form, part: Rect | None) -> Rect:
    """What such a picture shows, in source pixels."""
    return (0, 0, form.width, form.height) if part is None else even(part)
