"""Detect objects in pictures: a detector of a policy, with one network or an ensemble."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import policy
from framegate.models.detector.answer_cache import Later, Recall
from framegate.models.detector.device_names import CPU
from framegate.models.detector.fusion import fuse
from framegate.models.detector.member import DetectorMember, KnownAnswer, Pending
from framegate.models.detector.network import Precision, computed, nearest, shipped
from framegate.models.detector.policy import Policy
from framegate.models.detector.shipped_networks import NETWORKS, compiled
from framegate.models.errors import UnknownClass, WholePicturesOnly
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop, CropSettings
from framegate.models.picture import Picture, stretched

_ALL = tuple(range(coco.N_CLASSES))

# A picture, the member that computes it, the part to look at, and the answer lookup.
_Job = tuple[Picture, DetectorMember, Crop | None, Recall | None]


class Detector:
    """A detector with one network (`light`) or an ensemble with fused boxes (`heavy`).

    models     names of the members: network, input side, precision, 8 digits of the sha256
    labels     names of the classes, by class id
    policy_id  sha256 over thresholds, class set, precision, device and weights

    The boxes of a picture depend on that picture only, not on other pictures of a call.

    Thread rule: one thread at a time. The networks compute in OpenVINO's threads, so on a free core
    the next picture is prepared meanwhile. OpenCV has its own threads; a process with a detector
    should call `cv2.setNumThreads(1)`.
    """

    def __init__(
        self,
        choices: Policy,
        members: Sequence[DetectorMember],
        class_ids: tuple[int, ...],
        precision: Precision,
        threads: int,
        labels: Sequence[str] = coco.LABELS,
        device: str = CPU,
    ) -> None:
        self.labels = tuple(labels)
        self.choices = choices
        self.class_ids = class_ids
        self.precision = precision
        self.threads = threads
        self.models = tuple(member.name for member in members)
        self.policy_id = choices.hash(
            [self.labels[i] for i in class_ids],
            computed(precision, device),
            tuple(member.network.sha256 for member in members),
        )
        self.members = tuple(members)
        self._wanted = np.isin(np.arange(max(len(self.labels), *class_ids, 0) + 1), class_ids)

    def detect(
        self, pictures: Sequence[Picture], recalls: Sequence[Recall | None] | None = None
    ) -> list[Boxes]:
        """Return the boxes of each picture, in source pixels, highest score first.

        recalls  answer lookup for each picture; it saves inference and changes no answer

        While the network computes an input, the next is prepared and the last is decoded.
        """
        jobs: list[_Job] = []
        for picture, recall in zip(pictures, recalls or [None] * len(pictures), strict=True):
            jobs += [(picture, member, None, recall) for member in self.members]
        parts = list(self._pipelined(jobs))
        n = len(self.members)
        return [self.joined(parts[i : i + n]) for i in range(0, len(parts), n)]

    def look(
        self, picture: Picture, looks: Sequence[Crop], recall: Recall | None = None
    ) -> list[Boxes]:
        """Return the boxes of each look at a part, in source pixels, highest score first.

        recall  answer lookup; it saves inference and changes no answer

        Raises ArrayMismatch, and WholePicturesOnly for an ensemble.
        """
        self._check_takes_parts()
        jobs: list[_Job] = [(picture, self.members[0], look, recall) for look in looks]
        return [self.joined([boxes]) for boxes in self._pipelined(jobs)]

    def run_once(self, width: int, height: int) -> None:
        """Run each network once for pictures of this size in pixels. Raises WarmUpFailed."""
        for member in self.members:
            member.run_once(width, height)

    def warm_up(self, width: int, height: int, settings: CropSettings = crops.DEFAULT) -> None:
        """Run each network once for pictures of this size in pixels, and start to compile the light
        network for their parts, on a thread.

        Raises WarmUpFailed.
        """
        for member in self.members:
            member.warm_up(width, height, settings)

    def expect(self, width: int, height: int) -> None:
        """Start to compile for pictures of this size in pixels, on a thread."""
        for member in self.members:
            member.expect(width, height)

    def close(self) -> None:
        """Stop compiling for expected sizes."""
        for member in self.members:
            member.network.close()

    @property
    def takes_parts(self) -> bool:
        """True if the detector can look at parts of a picture."""
        return len(self.members) == 1 and self.members[0].network.size is None

    def _check_takes_parts(self) -> None:
        if len(self.members) > 1:
            raise WholePicturesOnly(self.models)

    def _pipelined(self, jobs: Sequence[_Job]) -> Iterator[Boxes]:
        """Yield the boxes of each job.

        At most one network computes at a time, because two would compete for the cores. `ahead` is
        the input that is computed while the next one is prepared and the last one decoded.
        """
        ahead: Pending | KnownAnswer | Later | None = None
        try:
            for picture, member, look, recall in jobs:
                prepared = member.prepare(picture, look)
                start: Callable[[], Pending | KnownAnswer | Later] = partial(member.start, prepared)
                if recall is not None:
                    start = recall.ask(member, prepared)
                if ahead is not None:
                    ahead.wait()
                done = ahead
                ahead = start()
                if done is not None:
                    yield done.finish()
            if ahead is not None:
                done = ahead
                ahead = None
                yield done.finish()
        finally:
            if ahead is not None:
                ahead.discard()

    def joined(self, parts: Sequence[Boxes]) -> Boxes:
        """Return the boxes of all members as one set, with the wanted classes and scores only."""
        boxes = parts[0]
        if len(parts) > 1:
            boxes = fuse(parts, self.choices.fusion_iou, self.choices.nms_iou)
        wanted = boxes.scores > np.float32(self.choices.min_score)
        wanted &= self._wanted[boxes.class_ids]
        return boxes.take(np.flatnonzero(wanted)[: self.choices.max_boxes])


def load(
    name: str,
    precision: Precision | None = None,
    threads: int = 1,
    *,
    classes: Sequence[str] | None = None,
    min_score: float | None = None,
    cache_dir: Path | None = None,
) -> Detector:
    """Return a detector of `policy.load`, compiled. Call `warm_up` before use.

    precision  any of `network.supported()`; None: that of the policy, or the nearest on this CPU
    threads    threads of an inference, >= 1
    classes    COCO labels to detect; None: all that the detector knows
    min_score  0..1, replaces the frozen threshold and changes the policy id
    cache_dir  folder for OpenVINO's compiled models; None: always compile

    Raises UnknownDetector, UnknownClass, PrecisionUnsupported, ModelUnreadable.
    """
    choices = policy.load(name).with_min_score(min_score)
    class_ids = class_ids_of(choices, classes)
    in_use = precision or nearest(choices.precision)
    return build(choices, in_use, threads, class_ids, cache_dir=cache_dir)


def class_ids_of(choices: Policy, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Return the COCO class ids, ascending, of `classes`, or of all that the detector knows.

    Raises UnknownClass with every name that the detector does not know.
    """
    known = choices.labels
    if classes is None:
        return coco.class_ids(known)
    unknown = tuple(name for name in classes if name in coco.LABELS and name not in known)
    if unknown:
        raise UnknownClass(unknown, choices.name, known)
    return coco.class_ids(classes)


def build(
    choices: Policy,
    precision: Precision,
    threads: int,
    class_ids: tuple[int, ...],
    *,
    cache_dir: Path | None = None,
    device: str = CPU,
) -> Detector:
    """Return the detector for a policy; arguments as in `load`.

    class_ids  COCO class ids to detect, ascending
    """
    is_ensemble = len(choices.parts) > 1
    networks = {
        name: compiled(name, precision, threads, cache_dir, device) for name in dict(choices.parts)
    }
    min_score = choices.min_score
    member_ids = class_ids
    if is_ensemble:
        # Members vote on all classes. A run with few classes then gets the same boxes as from a
        # remote worker, which detects all classes, after a filter by class.
        min_score = choices.member_min_score
        member_ids = _ALL
    members = []
    for name, side in choices.parts:
        size = NETWORKS[name].size
        fit = None
        if size is not None:
            fit = partial(stretched, size=size)
        member = DetectorMember(
            NETWORKS[name].kind,
            side,
            networks[name],
            choices,
            min_score,
            member_ids,
            fixes=size is None and not is_ensemble,
            fit=fit,
        )
        members.append(member)
    return Detector(choices, members, class_ids, precision, threads, device=device)


def policy_id(name: str, classes: Sequence[str] | None = None) -> str:
    """Return the policy id of the detector that `load` would return, without loading it.

    Raises UnknownDetector, UnknownClass, PrecisionUnsupported, ModelUnreadable.
    """
    choices = policy.load(name)
    precision = nearest(choices.precision)
    weights = tuple(shipped(kind, precision).sha256 for kind, _ in choices.parts)
    labels = [coco.LABELS[i] for i in class_ids_of(choices, classes)]
    return choices.hash(labels, precision, weights)
