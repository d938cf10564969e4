"""A member of a detector: a network at an input size, with its preprocessing and its decoder.

It turns the outputs of the network into boxes: decoding, threshold, suppression.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import cv2
import numpy as np

from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector.network import Precision
from framegate.models.detector.policy import Policy
from framegate.models.errors import OutputsNotFinite
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop, CropSettings
from framegate.models.picture import ByteArray, NetworkInput, Picture, prepare, to_source

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An input that a member's network computes. Call `finish` or `discard` once.

    learn  called once with the boxes, or with None after a failure or `discard`
    """

    member: DetectorMember
    prepared: NetworkInput
    token: int
    learn: Callable[[Boxes | None], None] | None = None

    def wait(self) -> None:
        """Wait for the network."""
        self.member.network.wait(self.token)

    def finish(self) -> Boxes:
        """Wait for the network; return the boxes in source pixels, highest score first."""
        boxes: Boxes | None = None

        def read(outputs: Sequence[FloatArray]) -> Boxes:
            nonlocal boxes
            boxes = self.member.decode(outputs, self.prepared)
            return boxes

        try:
            return self.member.network.read(self.token, read)
        finally:
            if self.learn is not None:
                self.learn(boxes)

    def discard(self) -> None:
        """Wait for the network, and drop its outputs."""
        if self.learn is not None:
            self.learn(None)
        self.member.network.read(self.token, lambda _: None)


@dataclass(frozen=True, slots=True, eq=False)
class KnownAnswer:
    """An answer from the cache, with the methods of Pending."""

    boxes: Boxes

    def wait(self) -> None:
        """Return at once."""

    def finish(self) -> Boxes:
        """Return the boxes."""
        return self.boxes

    def discard(self) -> None:
        """Do nothing."""


class Runtime(Protocol):
    """A compiled network; see `models.detector.network.Network`, which is OpenVINO's.

    computed  precision, and the device unless it is the CPU, as in names in results
    sha256    sha256 of the weights
    facts     all that decides the bits of the outputs, except the input
    size      (width, height) of the only input size; None: all multiples of 32
    """

    precision: Precision
    computed: str
    sha256: str
    facts: tuple[str, ...]
    size: tuple[int, int] | None

    def submit(self, bgr: ByteArray, fixed: bool = False) -> int: ...
    def wait(self, token: int) -> None: ...
    def read(self, token: int, reader: Callable[[Sequence[FloatArray]], T]) -> T: ...
    def warm_up(self, sizes: Sequence[tuple[int, int]], fixed: bool = False) -> None: ...
    def expect(self, sizes: Sequence[tuple[int, int]]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of network, with its decoder.

    name       such as `nanodet-plus`
    decode     function of outputs, (width, height) of the input, lowest score and maximum number of
               boxes; returns boxes in pixels of the input, highest score first
    n_outputs  number of outputs that `decode` reads
    class_ids  published class id for each class of the network
    facts      text that differs between kinds of one name that decode differently
    """

    name: str
    decode: Callable[[Sequence[FloatArray], tuple[int, int], float, int], Boxes]
    n_outputs: int
    class_ids: tuple[int, ...]
    facts: str = ""


class DetectorMember:
    """A detector with a single network at a single input size.

    Boxes with scores up to `min_score` or with classes outside `class_ids` are dropped before the
    suppression, so that they suppress no other box. The suppression ignores classes: an object has
    one box.

    name     name in results, such as `nanodet-plus-416-int8+bf16@0123abcd`
    fixes    whole pictures and parts of the gate's sizes go to networks compiled for that size
             only; parts of other sizes go to a network for all sizes
    fit      function that makes a network input of a whole picture; None: in proportion, at the
             top left
    answers  class ids that it may return
    facts    sha256 over all that decides its boxes, except the input
    """

    def __init__(
        self,
        kind: Kind,
        long_side: int,
        network: Runtime,
        choices: Policy,
        min_score: float,
        class_ids: tuple[int, ...],
        fixes: bool,
        fit: Callable[[Picture], NetworkInput] | None = None,
    ) -> None:
        self.kind = kind
        self.long_side = long_side
        self.fit = fit
        self.fixes = fixes
        self.network = network
        self.choices = choices
        self.min_score = min_score
        self.name = f"{kind.name}-{long_side}-{network.computed}@{network.sha256[:8]}"
        self._class_ids = np.array(kind.class_ids, np.int32)
        self._wanted = np.isin(self._class_ids, class_ids)
        self.answers = frozenset(self._class_ids[self._wanted].tolist())
        part: tuple[object, ...] = (kind.name, long_side)
        if kind.facts:
            part = (*part, kind.facts)
        rules = part, fixes, class_ids, min_score, choices.nms_iou, choices.max_boxes
        self.facts = hashlib.sha256(repr((rules, network.facts)).encode()).digest()

    def prepare(self, picture: Picture, look: Crop | None = None) -> NetworkInput:
        """Return a picture, or the part that `look` selects, at this member's input size."""
        if look is not None:
            return prepare(picture, self.long_side, look.rect)
        if self.fit is not None:
            return self.fit(picture)
        return prepare(picture, self.long_side)

    def start(
        self, prepared: NetworkInput, learn: Callable[[Boxes | None], None] | None = None
    ) -> Pending:
        """Start the network on an input; `learn` as in Pending. Raises TooManyInFlight."""
        token = self.network.submit(prepared.bgr, self._is_fixed(prepared))
        return Pending(self, prepared, token, learn)

    def run_once(self, width: int, height: int) -> None:
        """Run the network once for whole pictures of this size in pixels. Raises WarmUpFailed."""
        if self.network.size is not None:
            self.network.warm_up([self.network.size])
            return
        size = crops.sizes(width, height, self.long_side)[-1]
        self.network.warm_up([size], self.fixes)

    def warm_up(self, width: int, height: int, settings: CropSettings) -> None:
        """Run the network once for whole pictures of this size in pixels, and start to compile it
        for their parts.

        Raises WarmUpFailed.
        """
        self.run_once(width, height)
        if self.network.size is not None:
            return
        sizes = crops.sizes(width, height, self.long_side, settings)
        fixed = self._fixed_sizes(width, height)
        self.network.expect([size for size in sizes if size in fixed])
        self.network.warm_up([size for size in sizes[:-1] if fixed and size not in fixed])

    def expect(self, width: int, height: int) -> None:
        """Start to compile for pictures of this size in pixels, on a thread."""
        self.network.expect(self._fixed_sizes(width, height))

    def decode(self, outputs: Sequence[FloatArray], prepared: NetworkInput) -> Boxes:
        """Return the boxes of the network's outputs, in source pixels.

        Raises OutputsNotFinite, because NaN would decode to "no objects".
        """
        if not all(_is_finite(out) for out in outputs):
            raise OutputsNotFinite(self.name, prepared.bgr.shape)
        max_boxes = self.choices.max_boxes
        height, width = prepared.bgr.shape[:2]
        outputs = outputs[: self.kind.n_outputs]
        boxes = self.kind.decode(outputs, (width, height), self.min_score, max_boxes)
        boxes = boxes.take(self._wanted[boxes.class_ids])
        keep = suppress(boxes.xyxy, boxes.scores, self.choices.nms_iou)
        return self._placed(boxes.take(keep[:max_boxes]), prepared)

    def _is_fixed(self, prepared: NetworkInput) -> bool:
        if not self.fixes or max(prepared.inner) != self.long_side:
            return False
        height, width = prepared.bgr.shape[:2]
        return (width, height) in self._fixed_sizes(*prepared.source)

    def _fixed_sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """Return the few sizes of the gate's looks, each with a network compiled for it only."""
        if not self.fixes:
            return ()
        return crops.sizes(width, height, self.long_side)

    def _placed(self, boxes: Boxes, prepared: NetworkInput) -> Boxes:
        """Return the boxes in source pixels, with published class ids."""
        xyxy = to_source(boxes.xyxy, prepared)
        # A box inside the padding, or with swapped sides, has no area in the picture.
        has_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        placed = boxes.take(has_area)
        class_ids = self._class_ids[placed.class_ids]
        return Boxes(xyxy[has_area], placed.scores, class_ids, placed.features)


def _is_finite(out: FloatArray) -> bool:
    """Return True if all numbers are finite, since then their sum in double precision is."""
    if not out.size:
        return True
    return math.isfinite(cv2.sumElems(out.reshape(-1))[0])
