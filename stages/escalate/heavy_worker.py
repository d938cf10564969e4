"""The heavy pass on encoded pictures, for a heavy worker and for a KServe server."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2

from framegate.models import coco
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision, nearest, supported
from framegate.models.errors import PictureDamaged, PrecisionUnsupported
from framegate.models.picture import Picture
from framegate.models.picture_coding import placed
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.heavy.kserve_tensors import Tensor, outputs_of, pictures_of
from framegate.pipeline.heavy.queue import QueryMessage
from framegate.stages.detections import as_predictions
from framegate.stages.escalate.places import decode_question, shown_rect

log = logging.getLogger(__name__)


class HeavyLooker:
    """The heavy pass: all members on whole frames, the NanoDet members on parts. One thread.

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
        threads = threads or len(os.sched_getaffinity(0))
        self.precision = nearest(precision or policy.load("heavy").precision)
        self._whole = detector.load("heavy", self.precision, threads)
        self._part = _part_detector(self.precision, threads)
        self.models = self._whole.models
        self.policy = self._whole.policy_id
        for using in (self._whole, self._part):
            using.warm_up(640, 360)

    def look(self, questions: Sequence[QueryMessage]) -> list[Predictions | None]:
        """Return the predictions on each picture, in source pixels; None for a damaged picture."""
        predictions: list[Predictions | None] = [None] * len(questions)
        for using, takes_parts in ((self._whole, False), (self._part, True)):
            pictures: dict[int, Picture] = {}
            for row, question in enumerate(questions):
                is_part = question.part is not None
                if is_part is takes_parts:
                    picture = _decoded(question)
                    if picture is not None:
                        pictures[row] = picture
            detected = using.detect(list(pictures.values()))
            for (row, picture), boxes in zip(pictures.items(), detected, strict=True):
                rect = shown_rect(questions[row].form, questions[row].part)
                size = picture.width, picture.height
                predictions[row] = as_predictions(placed(boxes, size, rect), using.models)
        return predictions


def _part_detector(precision: Precision, threads: int) -> Detector:
    """Return the NanoDet members of the heavy pass. CenterNet takes whole pictures only."""
    choices = policy.load("heavy")
    members = tuple(name for name in choices.members if name.startswith("nanodet"))
    return detector.build(
        replace(choices, members=members), precision, threads, coco.class_ids(None)
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
