"""The heavy pass: its place, and the heavy model itself, here or on another host.

`stage` asks a place. LocalHeavy is the place in this process; `pipeline/heavy` has the places on
other hosts, which get encoded pictures. There, HeavyLooker answers in a heavy worker, and
HeavyTensors in a KServe server.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import cv2

from framegate.models import coco
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision, compiled_here, nearest, supported
from framegate.models.detector.shipped_networks import NETWORKS
from framegate.models.errors import PictureDamaged, PrecisionUnsupported
from framegate.models.picture import Matrix, Picture, as_picture, cut
from framegate.models.picture_coding import (
    DEFAULT,
    Coding,
    decode,
    decode_exact,
    encode,
    encode_exact,
    even,
    placed,
)
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import PlaceSpec, Predictions, Query, Region, RemotePlace
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.kserve_tensors import Tensor, outputs_of, pictures_of
from framegate.pipeline.heavy.queue import QueryMessage
from framegate.pipeline.system.machine import cores, user_cache
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.model_adapters import as_predictions

log = logging.getLogger(__name__)

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
        """Compile the networks, about 120 MB. Raises UnknownClass, ModelUnreadable."""
        cache_dir = compiled_here(user_cache())
        self._detector = detector.load("heavy", threads=1, classes=classes, cache_dir=cache_dir)
        self.models = self._detector.models

    def answer(self, questions: Sequence[Query]) -> list[Predictions]:
        """Return the predictions on each whole frame."""
        pictures = [as_picture(memoryview(each.pixels), each.form) for each in questions]
        return [as_predictions(boxes, self.models) for boxes in self._detector.detect(pictures)]

    def close(self) -> None:
        """Do nothing: the networks end with the process."""


# -- The heavy pass on encoded pictures, in a heavy worker or in a KServe server.


class HeavyLooker:
    """The heavy pass: all members on whole frames, those that take any size on parts. One thread.

    models     names of the networks that answer for a whole frame
    policy     hash of the policy of these answers
    precision  precision of all networks
    """

    def __init__(self, threads: int | None = None, precision: str | None = None) -> None:
        """Load, compile and warm up the networks.

        threads    threads of an inference; None: one for each core
        precision  precision of the askers; None: the policy's, or the nearest that this CPU has

        Raises ConfigFaults for a precision that this CPU does not have.
        """
        if precision is not None and precision not in supported():
            raise ConfigFaults([str(PrecisionUnsupported(precision, supported()))])
        cv2.setNumThreads(1)
        threads = threads or cores()
        self.precision = nearest(precision or policy.load("heavy").precision)
        cache_dir = compiled_here(user_cache())
        self._whole = detector.load("heavy", self.precision, threads, cache_dir=cache_dir)
        self._threads = threads
        self.models = self._whole.models
        self.policy = self._whole.policy_id
        self._whole.warm_up(640, 360)

    @functools.cached_property
    def _part(self) -> Detector:
        """The networks for parts of frames. No shipped stage asks about a part."""
        return _part_detector(self.precision, self._threads)

    def look(self, questions: Sequence[QueryMessage]) -> list[Predictions | None]:
        """Return the predictions on each picture, in source pixels; None for a damaged picture."""
        predictions: list[Predictions | None] = [None] * len(questions)
        for takes_parts in (False, True):
            pictures: dict[int, Picture] = {}
            for row, question in enumerate(questions):
                is_part = question.part is not None
                if is_part is takes_parts:
                    picture = _decoded(question)
                    if picture is not None:
                        pictures[row] = picture
            if not pictures:
                continue
            using = self._whole
            if takes_parts:
                using = self._part
            detected = using.detect(list(pictures.values()))
            for (row, picture), boxes in zip(pictures.items(), detected, strict=True):
                rect = shown_rect(questions[row].form, questions[row].part)
                size = picture.width, picture.height
                predictions[row] = as_predictions(placed(boxes, size, rect), using.models)
        return predictions


def _part_detector(precision: Precision, threads: int) -> Detector:
    """Return the members of the heavy pass that take inputs of any size."""
    choices = policy.load("heavy")
    members = tuple(
        f"{network}-{side}" for network, side in choices.parts if NETWORKS[network].size is None
    )
    return detector.build(
        replace(choices, members=members),
        precision,
        threads,
        coco.class_ids(None),
        cache_dir=compiled_here(user_cache()),
    )


def _decoded(question: QueryMessage) -> Picture | None:
    try:
        return decode_question(question.picture, question.form, question.part, question.exact)
    except PictureDamaged as error:
        log.warning("query of source %s: %s", question.source, error)
        return None


# -- The heavy pass behind a KServe v2 server: tensors in, tensors out.


class HeavyTensors:
    """The model of a KServe server; see heavy/kserve_tensors for the tensors."""

    def __init__(self, threads: int | None = None) -> None:
        """Load, compile and warm up. `threads` of an inference; None: one for each core."""
        self._looker = HeavyLooker(threads)
        self._turn = threading.Lock()

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the answer tensors for the pictures in `inputs`.

        Raises ValueError for tensors that are no queries. Any thread; one call runs at a time.
        """
        start = time.monotonic()
        questions = [
            QueryMessage(
                records.VERSION,
                "",
                0,
                number,
                "kserve",
                facts.form,
                picture,
                facts.part,
                exact=bool(facts.exact),
            )
            for number, (picture, facts) in enumerate(pictures_of(inputs))
        ]
        with self._turn:
            predictions = self._looker.look(questions)
        return outputs_of(predictions, self._looker.policy, time.monotonic() - start)
