"""The places where escalate can ask the heavy pass, and how a picture travels to them and back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

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
from framegate.pipeline.store.client import url_fault
from framegate.stages.detections import as_predictions
from framegate.stages.planes import as_picture

PlaceName = Literal["off", "local", "workers", "kserve"]


@dataclass(frozen=True)
class EscalateOptions:
    """`[escalate]`: a second opinion of the heavy model where detect is in doubt.

    place       off: no second opinion. local: in the worker of escalate. workers: processes
                `framegate worker --heavy` on any host, over Redis. kserve: a server with the KServe
                v2 protocol
    url         URL of the Redis that those workers read, or of the server. Default for workers: the
                store of this run
    url_env     name of an environment variable that contains the URL
    doubt       frames for which the heavy model would differ with at least this probability are
                sent
    per_s       requests per second of media time, for each source
    burst       requests of one source that can be sent at once after a pause
    all_per_s   requests per second of all live sources of a worker together. A frame in doubt
                beyond these limits is `degraded`
    deadline_s  seconds after a camera's frame arrived after which an answer is too late. The light
                answer is then published as `degraded`
    patience_s  seconds for which a file waits for a server or worker that is away
    """

    place: PlaceName = "off"
    url: str | None = field(default=None, repr=False)
    url_env: str | None = field(default=None, metadata={"holds": "url"})
    doubt: float = field(default=0.1, metadata={"least": 0.0, "most": 1.0})
    per_s: float = field(default=2.0, metadata={"least": 0.0, "most": 1000.0})
    burst: float = field(default=4.0, metadata={"least": 1.0, "most": 1000.0})
    all_per_s: float = field(default=4.0, metadata={"least": 0.0, "most": 10000.0})
    deadline_s: float = field(default=0.25, metadata={"least": 0.01, "most": 60.0})
    patience_s: float = field(default=60.0, metadata={"least": 0.1, "most": 86400.0})

    def faults(self) -> list[str]:
        """What is wrong with place and URL together; no part of the URL is shown."""
        if self.place == "kserve" and self.url is None:
            return ["place = 'kserve': it needs url or url_env"]
        fault = None if self.url is None or self.place != "workers" else url_fault(self.url)
        key = "url" if self.url_env is None else f"url_env = {self.url_env!r}"
        return [] if fault is None else [f"{key}: {fault}"]


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

    def __init__(self, classes: Sequence[str] | None = None) -> None:
        """Compile the networks, which take 110 MB. Raises UnknownClass, ModelUnreadable."""
        self._detector = detector.load("heavy", threads=1, classes=classes)
        self.models = self._detector.models

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        """Look at each frame whole."""
        pictures = [as_picture(memoryview(q.pixels), q.form) for q in questions]
        return [as_predictions(boxes, self.models) for boxes in self._detector.detect(pictures)]

    def close(self) -> None:
        """Nothing is held that the process does not let go of at its end."""
