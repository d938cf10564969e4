"""Pictures in, boxes out: the light detector and the heavy pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import coco, fusion, policy
from models.boxes import Boxes
from models.errors import WholePicturesOnly
from models.member import Crop, Features, Member, Pending
from models.network import Network, Precision, nearest
from models.picture import Picture
from models.policy import Policy
from models.preprocess import Prepared, inner_size, padded

_OUTPUTS = {"nanodet": ("head8", "head16", "head32"), "centernet": ("heat", "sides")}
_FEATURES = ("c3", "p4")


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A picture under way: what `submit` gives; `result` takes it, once."""

    first: Pending
    picture: Picture | None


class Detector:
    """One picture's boxes, from one network (`light`) or from several fused (`heavy`).

    models     what makes an answer: network, input side, precision, 8 digits of the sha256 of each
    policy_id  sha256 over thresholds, class set, precision and weights
    members, choices, class_ids, precision, threads: as in use

    An answer depends on its picture alone, not on the others of a call nor on their order.

    Thread rule: one thread at a time. The networks compute in OpenVINO's own threads, so preparing
    the next picture costs no time where a core is free. OpenCV has threads of its own; a process
    that hosts a detector calls `cv2.setNumThreads(1)`.
    """

    def __init__(
        self,
        choices: Policy,
        members: Sequence[Member],
        class_ids: tuple[int, ...],
        precision: Precision,
        threads: int,
    ) -> None:
        self.choices, self.class_ids = choices, class_ids
        self.precision, self.threads = precision, threads
        self.models = tuple(member.name for member in members)
        self.policy_id = choices.hash(
            class_ids, precision, tuple(member.network.sha256 for member in members)
        )
        self.members = tuple(members)

    def detect(self, pictures: Sequence[Picture]) -> list[Boxes]:
        """Boxes of each picture, in source pixels, highest score first.

        While one input is in the network the next one is prepared and the last one decoded.
        """
        parts = list(self._pipelined([(p, m) for p in pictures for m in self.members]))
        n = len(self.members)
        return [self._joined(parts[i : i + n]) for i in range(0, len(parts), n)]

    def prepare(self, picture: Picture) -> Prepared:
        """`picture` at the input size of the (first) network."""
        return self.members[0].prepare(picture)

    def submit(self, picture: Picture | Prepared, crop: Crop | None = None) -> Token:
        """Starts on one picture, or on the part of it inside `crop` (left, top, right, bottom).

        Crop edges are multiples of 32, in pixels of `prepare(picture).bgr`; the boxes of the answer
        are in source pixels all the same. Up to 4 tokens may be outstanding. Raises ArrayMismatch,
        TooManyInFlight, and WholePicturesOnly for a crop or a Prepared at the heavy pass.
        """
        if isinstance(picture, Picture):
            whole, prepared = picture, self.prepare(picture)
        else:
            whole, prepared = None, picture
        if len(self.members) > 1 and (whole is None or crop is not None):
            raise WholePicturesOnly(self.models)
        return Token(self.members[0].start(prepared, crop), whole)

    def result(self, token: Token) -> Boxes:
        """Waits for the answer to `token`."""
        return self.result_with_features(token)[0]

    def result_with_features(self, token: Token) -> tuple[Boxes, Features | None]:
        """As `result`, with NanoDet's inner maps if they were asked for at `load`."""
        boxes, features = token.first.finish()
        parts = [boxes]
        if token.picture is not None:
            parts += self._pipelined([(token.picture, m) for m in self.members[1:]])
        return self._joined(parts), features

    def warm_up(self, width: int, height: int) -> None:
        """Runs every network once at the size of a (width, height) source. Raises WarmUpFailed."""
        for member in self.members:
            inner = inner_size(width, height, member.long_side)
            member.network.warm_up([(padded(inner[0]), padded(inner[1]))])

    def _pipelined(self, jobs: Sequence[tuple[Picture, Member]]) -> Iterator[Boxes]:
        """Boxes of each job. One network computes at a time: two would fight for the cores."""
        ahead: Pending | None = None
        try:
            for picture, member in jobs:
                prepared = member.prepare(picture)
                if ahead is not None:
                    ahead.wait()
                done, ahead = ahead, member.start(prepared)
                if done is not None:
                    yield done.finish()[0]
            if ahead is not None:
                done, ahead = ahead, None
                yield done.finish()[0]
        finally:
            if ahead is not None:
                ahead.discard()

    def _joined(self, parts: Sequence[Boxes]) -> Boxes:
        boxes = fusion.fuse(parts, self.choices.fusion_iou) if len(parts) > 1 else parts[0]
        rows = np.flatnonzero(boxes.scores > np.float32(self.choices.min_score))
        return boxes.take(rows[: self.choices.max_boxes])


def load(
    name: str,
    precision: Precision | None = None,
    threads: int = 1,
    *,
    classes: Sequence[str] | None = None,
    min_score: float | None = None,
    features: bool = False,
    cache_dir: Path | None = None,
) -> Detector:
    """The detector `light` or `heavy` of `policy.toml`, compiled; call `warm_up` before serving.

    precision           as `trial` measured, or any of `network.supported()`; None: the policy's
                        own, or the nearest that this CPU has
    threads             of one inference, 1 or more
    classes             COCO labels to answer; None: all 80
    min_score           0..1, in place of the frozen one (it changes the policy id)
    features            True: `result_with_features` gives C3 and P4 (light only)
    cache_dir           folder for OpenVINO's compiled models; None: compile anew

    Raises UnknownDetector, UnknownClass, PrecisionUnsupported, ModelUnreadable.
    """
    choices = policy.load(name).with_min_score(min_score)
    class_ids = coco.class_ids(classes)
    in_use = precision or nearest(choices.precision)
    return build(choices, in_use, threads, class_ids, features=features, cache_dir=cache_dir)


def build(
    choices: Policy,
    precision: Precision,
    threads: int,
    class_ids: tuple[int, ...],
    *,
    features: bool = False,
    cache_dir: Path | None = None,
) -> Detector:
    """The detector that `choices` describe, as `load` does it for the two frozen ones."""
    several = len(choices.parts) > 1
    extra = _FEATURES if features and not several else ()
    networks = {
        kind: Network(kind, _OUTPUTS[kind] + extra, precision, threads, cache_dir)
        for kind in dict(choices.parts)
    }
    lowest = choices.member_min_score if several else choices.min_score
    members = [
        Member(part, networks[part[0]], choices, lowest, class_ids) for part in choices.parts
    ]
    return Detector(choices, members, class_ids, precision, threads)
