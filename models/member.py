"""One network at one input size, with its decoding: the part that detectors are made of."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from models import centernet_decode, nanodet_decode
from models.arrays import read_only
from models.boxes import Boxes, FloatArray
from models.crops import Look
from models.network import Network
from models.nms import suppress
from models.picture import Picture
from models.policy import Policy
from models.preprocess import Prepared, prepare, to_source

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """NanoDet's inner maps of one input, for telling objects apart; read-only.

    c3      float32 (128, h/8, w/8)    strong on which object it is
    p4      float32 (128, h/16, w/16)  strong on which class it is
    offset  (left, top) of that input in the whole prepared picture, in model pixels
    scale   pixels of the model for one of the source, across and down: a point (x, y) of the
            source lies at x * scale[0] - offset[0], y * scale[1] - offset[1] of the input
    """

    c3: FloatArray
    p4: FloatArray
    offset: tuple[int, int]
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "c3", read_only("c3", self.c3, np.float32, (128, None, None)))
        object.__setattr__(self, "p4", read_only("p4", self.p4, np.float32, (128, None, None)))

    def copy(self) -> "Features":
        """The same maps in memory of their own: for use after the call that lent them."""
        return Features(self.c3.copy(), self.p4.copy(), self.offset, self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An input that a member works on. Call `finish` or `discard`, once.

    learn  told the boxes once, None where there are none
    """

    member: "Member"
    prepared: Prepared
    token: int
    learn: Callable[[Boxes | None], None] | None = None

    def wait(self) -> None:
        """Returns when the network is done."""
        self.member.network.wait(self.token)

    def finish(self, reader: Callable[[Boxes, Features | None], T]) -> T:
        """`reader` of the boxes in source pixels, highest score first, and of the features.

        Features are there if the network gives them, and only as long as `reader` runs.
        """

        boxes: Boxes | None = None

        def read(outputs: Sequence[FloatArray]) -> T:
            nonlocal boxes
            boxes, features = self.member.decode(outputs, self.prepared)
            return reader(boxes, features)

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
class Known:
    """An answer that needs no network; as Pending, but that there are no features."""

    boxes: Boxes

    def wait(self) -> None:
        """Returns at once."""

    def finish(self, reader: Callable[[Boxes, Features | None], T]) -> T:
        """`reader` of the boxes."""
        return reader(self.boxes, None)

    def discard(self) -> None:
        """Nothing is under way for it."""


class Member:
    """Picture to boxes by one network.

    `name` is what results carry: `nanodet-416-int8+bf16@0123abcd`. Boxes not above `min_score` and
    of classes outside `class_ids` are dropped before the suppression, which is class-wise.

    fixes  whole pictures go to a network compiled for their size alone, as parts of all sizes come
           between them
    facts  sha256 over everything but the input that decides an answer
    """

    def __init__(
        self,
        part: tuple[str, int],
        network: Network,
        choices: Policy,
        min_score: float,
        class_ids: tuple[int, ...],
        fixes: bool,
    ) -> None:
        self.kind, self.long_side = part
        self.fixes = fixes
        self.network, self.choices, self.min_score = network, choices, min_score
        self.name = f"{self.kind}-{self.long_side}-{network.precision}@{network.sha256[:8]}"
        self._wanted = np.isin(np.arange(80), class_ids)
        rules = part, fixes, class_ids, min_score, choices.nms_iou, choices.max_boxes
        self.facts = hashlib.sha256(repr((rules, network.facts)).encode()).digest()

    def prepare(self, picture: Picture, look: Look | None = None) -> Prepared:
        """`picture` at this member's input size, all of it or what `look` is at."""
        if look is None:
            return prepare(picture, self.long_side)
        return prepare(picture, self.long_side * look.zoom, look.rect)

    def start(
        self, prepared: Prepared, learn: Callable[[Boxes | None], None] | None = None
    ) -> Pending:
        """Gives the input to the network; see Pending. Raises TooManyInFlight."""
        token = self.network.submit(prepared.bgr, self._is_fixed(prepared))
        return Pending(self, prepared, token, learn)

    def warm_up(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Runs the network once at each (width, height), of which the last is the whole picture's.

        Raises WarmUpFailed.
        """
        self.network.warm_up(sizes[-1:], self.fixes)
        if self.fixes:
            self.network.warm_up(sizes[:-1])

    def decode(
        self, outputs: Sequence[FloatArray], prepared: Prepared
    ) -> tuple[Boxes, Features | None]:
        """What the network's outputs say, in source pixels; features are views, not copies."""
        if self.kind == "centernet":
            heat, sides = outputs
            found = centernet_decode.decode(heat, sides, self.min_score, self.choices.max_boxes)
            return self._placed(found, prepared), None
        found = self._suppressed(nanodet_decode.decode(outputs[:3], self.min_score))
        maps = outputs[3:]
        features = Features(maps[0], maps[1], prepared.offset, prepared.scale) if maps else None
        return self._placed(found, prepared), features

    def _is_fixed(self, prepared: Prepared) -> bool:
        return self.fixes and prepared.is_whole and max(prepared.inner) == self.long_side

    def _suppressed(self, found: Boxes) -> Boxes:
        found = found.take(self._wanted[found.class_ids])
        keep = suppress(found.xyxy, found.scores, found.class_ids, self.choices.nms_iou)
        return found.take(keep[: self.choices.max_boxes])

    def _placed(self, found: Boxes, prepared: Prepared) -> Boxes:
        xyxy = to_source(found.xyxy, prepared)
        # A box wholly in the padding, or with its sides swapped, is nothing in the picture.
        real = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1]) & self._wanted[found.class_ids]
        return Boxes(xyxy[real], found.scores[real], found.class_ids[real])
