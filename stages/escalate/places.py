"""The places of the heavy pass, and the coding of pictures for places on other hosts."""

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
        """Return the faults of place and URL together, without any part of the URL."""
        if self.place == "kserve" and self.url is None:
            return ["place = 'kserve': it needs url or url_env"]
        if self.place != "workers" or self.url is None:
            return []
        fault = url_fault(self.url)
        if fault is None:
            return []
        if self.url_env is None:
            return [f"url: {fault}"]
        return [f"url_env = {self.url_env!r}: {fault}"]


# -- The picture of a query on its way to a place on another host.


def encode_question(question: Query, coding: Coding = DEFAULT) -> bytes:
    """Return the picture, or the part in question, as JPEG, or as FFV1 for an exact query. Any
    thread.
    """
    picture = as_picture(memoryview(question.pixels), question.form)
    if question.id.part is not None:
        picture = cut(picture, even(question.id.part))
    if question.id.exact:
        return encode_exact(picture)
    return encode(picture, coding)


def decode_question(data: bytes, form: Form, part: Region | None, exact: bool) -> Picture:
    """Return the picture from `encode_question`; unless it is exact, its size may differ.

    Raises PictureDamaged. Any thread.
    """
    left, top, right, bottom = shown_rect(form, part)
    matrix = cast(Matrix, form.matrix)
    if exact:
        return decode_exact(data, (right - left, bottom - top), matrix, form.full_range)
    return decode(data, matrix, form.full_range)


def shown_rect(form: Form, part: Region | None) -> Region:
    """Return the area that an encoded picture shows, in source pixels."""
    if part is None:
        return (0, 0, form.width, form.height)
    return even(part)


class HeavyPass(NamedTuple):
    """The heavy pass of a run.

    policy_id  hash of the policy that defines its answers
    is_exact   all answers are about the frame's own pixels. Places on other hosts get a JPEG,
               except for exact queries
    """

    place: PlaceSpec
    policy_id: str
    is_exact: bool


def heavy_pass(options: EscalateOptions, classes: Sequence[str] | None) -> HeavyPass | None:
    """Return the heavy pass that the table names; None with place = off. Raises UnknownClass."""
    if options.place == "off":
        return None
    policy_id = detector.policy_id("heavy", classes)
    if options.place == "local":
        return HeavyPass(functools.partial(LocalHeavy, classes), policy_id, is_exact=True)
    remote = RemotePlace(
        options.place,
        encode_question,
        detector.policy_id("heavy"),  # remote places detect all classes
        frozenset(coco.class_ids(classes)),
        nearest(policy.load("heavy").precision),
        options.url,
    )
    return HeavyPass(remote, policy_id, is_exact=False)


class LocalHeavy:
    """A place (`queries.Place`) in this process. Its answers are about the frame's own pixels.

    It takes one frame at a time: in a batch, the first answer would be as late as the last.
    """

    lanes = 1
    most = 1
    sent_bytes = 0
    wire_s = 0.0

    def __init__(self, classes: Sequence[str] | None = None) -> None:
        """Compile the networks, about 110 MB. Raises UnknownClass, ModelUnreadable."""
        self._detector = detector.load("heavy", threads=1, classes=classes)
        self.models = self._detector.models

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        """Return the predictions on each whole frame."""
        pictures = [as_picture(memoryview(each.pixels), each.form) for each in questions]
        return [as_predictions(boxes, self.models) for boxes in self._detector.detect(pictures)]

    def close(self) -> None:
        """Do nothing: the networks end with the process."""
