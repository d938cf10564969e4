"""What a heavy worker, or a KServe server, looks with: the heavy pass on coded pictures."""

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
from framegate.pipeline.heavy.kserve_tensors import Tensor, asked, outputs_of
from framegate.pipeline.heavy.queue import QueryMessage
from framegate.stages.detections import as_predictions
from framegate.stages.escalate.places import decode_question, shown_rect

log = logging.getLogger(__name__)


class HeavyLooker:
    """The heavy pass on whole frames; on parts NanoDet's members of it alone. One thread.

    models, policy  what makes an answer to a whole frame, and the hash of what decides it
    precision       a part of that
    """

    def __init__(self, threads: int | None = None, precision: str | None = None) -> None:
        """Load, compile, warm up. ConfigFaults for a precision that this CPU does not have.

        threads    of one inference; None: one a core
        precision  of those who ask; None: the policy's own, or the nearest that this CPU has
        """
        if precision is not None and precision not in supported():
            raise ConfigFaults([str(PrecisionUnsupported(precision, supported()))])
        cv2.setNumThreads(1)
        threads = threads or len(os.sched_getaffinity(0))
        self.precision = nearest(precision or policy.load("heavy").precision)
        self._whole = detector.load("heavy", self.precision, threads)
        self._part = _of_parts(self.precision, threads)
        self.models, self.policy = self._whole.models, self._whole.policy_id
        for using in (self._whole, self._part):
            using.warm_up(640, 360)

    def look(self, asked: Sequence[QueryMessage]) -> list[Predictions | None]:
        """What is in each picture, in pixels of its source; None where it is damaged."""
        seen: list[Predictions | None] = [None] * len(asked)
        for using, parts in ((self._whole, False), (self._part, True)):
            rows = [n for n, one in enumerate(asked) if (one.part is not None) is parts]
            pictures = {n: picture for n in rows if (picture := _decoded(asked[n])) is not None}
            found = using.detect(list(pictures.values()))
            for (n, picture), boxes in zip(pictures.items(), found, strict=True):
                rect = shown_rect(asked[n].form, asked[n].part)
                size = picture.width, picture.height
                seen[n] = as_predictions(placed(boxes, size, rect), using.models)
        return seen


def _of_parts(precision: Precision, threads: int) -> Detector:
    """CenterNet takes whole pictures at their size: parts are for the others."""
    choices = policy.load("heavy")
    members = tuple(name for name in choices.members if name.startswith("nanodet"))
    return detector.build(
        replace(choices, members=members), precision, threads, coco.class_ids(None)
    )


def _decoded(asked: QueryMessage) -> Picture | None:
    try:
        return decode_question(asked.picture, asked.form, asked.part, asked.exact)
    except PictureDamaged as error:
        log.warning("a question of %s: %s", asked.source, error)
        return None


# -- The heavy pass behind a KServe v2 server: tensors in, tensors out.


class HeavyTensors:
    """What a server's own model class calls; see heavy/kserve_tensors for both sides."""

    def __init__(self, threads: int | None = None) -> None:
        """Load, compile, warm up. threads: of one inference; None: one a core."""
        self._looker = HeavyLooker(threads)
        self._turn = threading.Lock()

    def answer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look at each picture. ValueError if these are no questions. Any thread, one at a time."""
        begun = time.monotonic()
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
            for number, (picture, facts) in enumerate(asked(inputs))
        ]
        with self._turn:
            seen = self._looker.look(questions)
        return outputs_of(seen, self._looker.policy, time.monotonic() - begun)
