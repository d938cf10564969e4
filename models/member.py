"""One network at one input size, with its decoding: the part that detectors are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models import centernet_decode, nanodet_decode
from models.arrays import read_only
from models.boxes import Boxes, FloatArray
from models.errors import ArrayMismatch
from models.network import Network
from models.nms import suppress
from models.picture import Picture
from models.policy import Policy
from models.preprocess import STEP, Prepared, prepare, to_source

Crop = tuple[int, int, int, int]
NO_OFFSET = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """NanoDet's inner maps of one input, for telling objects apart; read-only.

    c3      float32 (128, h/8, w/8)    strong on which object it is
    p4      float32 (128, h/16, w/16)  strong on which class it is
    offset  (left, top) of the crop they were computed on, in model pixels
    """

    c3: FloatArray
    p4: FloatArray
    offset: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "c3", read_only("c3", self.c3, np.float32, (128, None, None)))
        object.__setattr__(self, "p4", read_only("p4", self.p4, np.float32, (128, None, None)))


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """An input that a member works on. Call `finish` or `discard`, once."""

    member: "Member"
    prepared: Prepared
    offset: tuple[int, int]
    token: int

    def wait(self) -> None:
        """Returns when the network is done."""
        self.member.network.wait(self.token)

    def finish(self) -> tuple[Boxes, Features | None]:
        """The boxes in source pixels, highest score first; features if the member gives them."""
        return self.member.network.read(
            self.token, lambda outputs: self.member.decode(outputs, self.prepared, self.offset)
        )

    def discard(self) -> None:
        """Waits and forgets the answer."""
        self.member.network.read(self.token, lambda _: None)


class Member:
    """Picture to boxes by one network.

    `name` is what results carry: `nanodet-416-int8+bf16@0123abcd`. Boxes not above `min_score` and
    of classes outside `class_ids` are dropped before the suppression, which is class-wise.
    """

    def __init__(
        self,
        part: tuple[str, int],
        network: Network,
        choices: Policy,
        min_score: float,
        class_ids: tuple[int, ...],
    ) -> None:
        self.kind, self.long_side = part
        self.network, self.choices, self.min_score = network, choices, min_score
        self.name = f"{self.kind}-{self.long_side}-{network.precision}@{network.sha256[:8]}"
        self._wanted = np.isin(np.arange(80), class_ids)

    def prepare(self, picture: Picture) -> Prepared:
        """`picture` at this member's input size."""
        return prepare(picture, self.long_side)

    def start(self, prepared: Prepared, crop: Crop | None = None) -> Pending:
        """Gives the input to the network. Raises ArrayMismatch, TooManyInFlight."""
        if crop is None:
            return Pending(self, prepared, NO_OFFSET, self.network.submit(prepared.bgr))
        left, top, right, bottom = crop
        height, width = prepared.bgr.shape[:2]
        fits = 0 <= left < right <= width and 0 <= top < bottom <= height
        if not fits or any(edge % STEP for edge in crop):
            wanted = f"multiples of {STEP} inside {width}x{height}"
            raise ArrayMismatch("crop", wanted, f"{crop}")
        part = prepared.bgr[top:bottom, left:right]
        return Pending(self, prepared, (left, top), self.network.submit(part))

    def decode(
        self, outputs: Sequence[FloatArray], prepared: Prepared, offset: tuple[int, int] = NO_OFFSET
    ) -> tuple[Boxes, Features | None]:
        """What the network's outputs say, in source pixels. Keeps none of the arrays."""
        if self.kind == "centernet":
            heat, sides = outputs
            found = centernet_decode.decode(heat, sides, self.min_score, self.choices.max_boxes)
            return self._placed(found, prepared, offset), None
        found = self._suppressed(nanodet_decode.decode(outputs[:3], self.min_score))
        features = Features(outputs[3].copy(), outputs[4].copy(), offset) if outputs[3:] else None
        return self._placed(found, prepared, offset), features

    def _suppressed(self, found: Boxes) -> Boxes:
        found = found.take(self._wanted[found.class_ids])
        keep = suppress(found.xyxy, found.scores, found.class_ids, self.choices.nms_iou)
        return found.take(keep[: self.choices.max_boxes])

    def _placed(self, found: Boxes, prepared: Prepared, offset: tuple[int, int]) -> Boxes:
        shift = np.array(offset * 2, np.float32)
        xyxy = to_source(found.xyxy + shift, prepared)
        # A box wholly in the padding, or with its sides swapped, is nothing in the picture.
        real = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1]) & self._wanted[found.class_ids]
        return Boxes(xyxy[real], found.scores[real], found.class_ids[real])
