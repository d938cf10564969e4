"""One network at one input size: pictures to its input, its outputs to boxes."""

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
from framegate.models.picture import ByteArray, Picture
from framegate.models.preprocess import NetworkInput, prepare, to_source

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An input that a member works on. Call `finish` or `discard`, once.

    learn  told the boxes once, None where there are none
    """

    member: DetectorMember
    prepared: NetworkInput
    token: int
    learn: Callable[[Boxes | None], None] | None = None

    def wait(self) -> None:
        """Returns when the network is done."""
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
        """Waits and forgets the answer."""
        if self.learn is not None:
            self.learn(None)
        self.member.network.read(self.token, lambda _: None)


@dataclass(frozen=True, slots=True, eq=False)
class KnownAnswer:
    """An answer that needs no network; used as Pending."""

    boxes: Boxes

    def wait(self) -> None:
        """Returns at once."""

    def finish(self) -> Boxes:
        """Return the boxes."""
        return self.boxes

    def discard(self) -> None:
        """Nothing is under way for it."""


class Runtime(Protocol):
    """What computes a network; see `models.detector.network.Network`, which is OpenVINO's.

    computed  precision, and device where it is not the CPU, as results name them
    sha256  names the weights
    facts   everything but the input that decides the bits of an answer
    size    (width, height) of the only input that it takes; None: all multiples of 32
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
    """What one kind of network wants and says.

    name        such as `nanodet`
    decode      outputs, (width, height) of the input, least score, most boxes -> boxes in its
                pixels, highest score first
    n_outputs   that `decode` reads
    class_ids   what each class of the network is published as
    facts       what else decides an answer: two kinds with equal facts decode alike
    """

    name: str
    decode: Callable[[Sequence[FloatArray], tuple[int, int], float, int], Boxes]
    n_outputs: int
    class_ids: tuple[int, ...]
    facts: str = ""


class DetectorMember:
    """Picture to boxes by one network.

    `name` is what results carry: `nanodet-416-int8+bf16@0123abcd`. Boxes not above `min_score` and
    of classes outside `class_ids` are dropped before the suppression: what nobody looks for hides
    nothing. Of the boxes of one thing one is left, whatever their classes.

    fixes  pictures, and parts of the sizes that the gate asks for, go each to a network compiled
           for that size alone; any other part to one for all sizes
    fit    makes a whole picture to an input; None: in proportion, at the top left
    answers  class ids that it may answer with
    facts  sha256 over everything but the input that decides an answer
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
        self.kind, self.long_side, self.fit = kind, long_side, fit
        self.fixes = fixes
        self.network, self.choices, self.min_score = network, choices, min_score
        self.name = f"{kind.name}-{long_side}-{network.computed}@{network.sha256[:8]}"
        self._class_ids = np.array(kind.class_ids, np.int32)
        self._wanted = np.isin(self._class_ids, class_ids)
        self.answers = frozenset(self._class_ids[self._wanted].tolist())
        part = (kind.name, long_side, *((kind.facts,) if kind.facts else ()))
        rules = part, fixes, class_ids, min_score, choices.nms_iou, choices.max_boxes
        self.facts = hashlib.sha256(repr((rules, network.facts)).encode()).digest()

    def prepare(self, picture: Picture, look: Crop | None = None) -> NetworkInput:
        """`picture` at this member's input size, all of it or what `look` is at."""
        if look is not None:
            return prepare(picture, self.long_side, look.rect)
        return prepare(picture, self.long_side) if self.fit is None else self.fit(picture)

    def start(
        self, prepared: NetworkInput, learn: Callable[[Boxes | None], None] | None = None
    ) -> Pending:
        """Gives the input to the network; see Pending. Raises TooManyInFlight."""
        token = self.network.submit(prepared.bgr, self._is_fixed(prepared))
        return Pending(self, prepared, token, learn)

    def run_once(self, width: int, height: int) -> None:
        """Run the network once at the size that whole pictures of this size take.

        Raises WarmUpFailed.
        """
        if self.network.size is not None:
            self.network.warm_up([self.network.size])
            return
        size = crops.sizes(width, height, self.long_side)[-1]
        self.network.warm_up([size], self.fixes)

    def warm_up(self, width: int, height: int, settings: CropSettings) -> None:
        """Run the network once for such pictures, and begin to compile it for their parts.

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
        """Has the network compiled, on a thread, for what such pictures will ask of it."""
        self.network.expect(self._fixed_sizes(width, height))

    def decode(self, outputs: Sequence[FloatArray], prepared: NetworkInput) -> Boxes:
        """Return the boxes of the network's outputs, in source pixels.

        Raises OutputsNotFinite: what is no number must not pass for "found nothing".
        """
        if not all(_is_finite(out) for out in outputs):
            raise OutputsNotFinite(self.name, prepared.bgr.shape)
        n, choices = self.kind.n_outputs, self.choices
        size = prepared.bgr.shape[1], prepared.bgr.shape[0]
        found = self.kind.decode(outputs[:n], size, self.min_score, choices.max_boxes)
        found = found.take(self._wanted[found.class_ids])
        keep = suppress(found.xyxy, found.scores, choices.nms_iou)
        found = found.take(keep[: choices.max_boxes])
        return self._placed(found, prepared)

    def _is_fixed(self, prepared: NetworkInput) -> bool:
        if not self.fixes or max(prepared.inner) != self.long_side:
            return False
        height, width = prepared.bgr.shape[:2]
        return (width, height) in self._fixed_sizes(*prepared.source)

    def _fixed_sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """What the network is compiled for alone: the few sizes that the gate's looks have."""
        return crops.sizes(width, height, self.long_side) if self.fixes else ()

    def _placed(self, found: Boxes, prepared: NetworkInput) -> Boxes:
        xyxy = to_source(found.xyxy, prepared)
        # A box wholly in the padding, or with its sides swapped, is nothing in the picture.
        real = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        return Boxes(xyxy[real], found.scores[real], self._class_ids[found.class_ids[real]])


def _is_finite(out: FloatArray) -> bool:
    """Return whether all numbers are: then their sum is, in double precision."""
    return math.isfinite(cv2.sumElems(out.reshape(-1))[0]) if out.size else True
