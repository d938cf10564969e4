"""A question's picture as it goes to a place on another host, and what it shows."""

from __future__ import annotations

from models.picture import cut
from models.picture_coding import DEFAULT, Coding, encode, even
from pipeline.questions import Question, Rect
from pipeline.source import Form
from stages.planes import as_picture


def encode_question(question: Question, coding: Coding = DEFAULT) -> bytes:
    """The whole picture, or the part that is asked about, as a JPEG. Any thread."""
    picture = as_picture(memoryview(question.pixels), question.form)
    part = question.id.part
    return encode(picture if part is None else cut(picture, even(part)), coding)


def shown_rect(form: Form, part: Rect | None) -> Rect:
    """What such a picture shows, in source pixels."""
    return (0, 0, form.width, form.height) if part is None else even(part)
