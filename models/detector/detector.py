"""Pictures in, boxes out: the light detector and the heavy pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from framegate.models import coco
from framegate.models.boxes import Boxes, empty, suppress
from framegate.models.detector import policy
from framegate.models.detector.answer_cache import Later, Recall
from framegate.models.detector.member import DetectorMember, Kind, KnownAnswer, Pending
from framegate.models.detector.network import (
    CPU,
    Network,
    Precision,
    computed,
    nearest,
    shipped,
)
from framegate.models.detector.policy import Policy
from framegate.models.errors import WholePicturesOnly
from framegate.models.formats import centernet, nanodet
from framegate.models.gate import crops
from framegate.models.gate.crops import Crop, CropSettings
from framegate.models.picture import Picture
from framegate.models.preprocess import NetworkInput

_ALL = tuple(range(coco.N_CLASSES))
KINDS = {
    "nanodet": Kind("nanodet", nanodet.decode_heads, 1, _ALL),
    "centernet": Kind("centernet", centernet.decode_maps, 2, _ALL),
}
_OUTPUTS = {"nanodet": nanodet.HEADS, "centernet": ("heat", "sides")}
_JOINED = {"nanodet": len(nanodet.HEADS)}


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A picture under way: what `submit` gives; `result` takes it, once."""

    first: Pending
    picture: Picture | None


class Detector:
    """One picture's boxes, from one network (`light`) or from several fused (`heavy`).

    models     what makes an answer: network, input side, precision, 8 digits of the sha256 of each
    labels     names of the classes, by class id
    policy_id  sha256 over thresholds, class set, precision, device and weights
    members, choices, class_ids, precision, threads: as in use

    An answer depends on its picture alone, not on the others of a call nor on their order.

    Thread rule: one thread at a time. The networks compute in OpenVINO's own threads, so preparing
    the next picture costs no time where a core is free. OpenCV has threads of its own; a process
    that hosts a detector calls `cv2.setNumThreads(1)`.
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
        self.choices, self.class_ids = choices, class_ids
        self.precision, self.threads = precision, threads
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
        """Boxes of each picture, in source pixels, highest score first.

        recalls  for each picture where answers are looked up; they change no answer

        While one input is in the network the next one is prepared and the last one decoded.
        """
        with_recalls = zip(pictures, recalls or [None] * len(pictures), strict=True)
        jobs = [(p, member, None, recall) for p, recall in with_recalls for member in self.members]
        parts = list(self._pipelined(jobs))
        n = len(self.members)
        return [self._joined(parts[i : i + n]) for i in range(0, len(parts), n)]

    def look(
        self, picture: Picture, looks: Sequence[Crop], recall: Recall | None = None
    ) -> list[Boxes]:
        """What each look at a part of `picture` finds, in source pixels, highest score first.

        Only those parts are prepared. recall: where answers are looked up; it changes none. Raises
        ArrayMismatch, and WholePicturesOnly at the heavy pass.
        """
        self._one_network()
        jobs = [(picture, self.members[0], look, recall) for look in looks]
        return [self._joined([boxes]) for boxes in self._pipelined(jobs)]

    def prepare(self, picture: Picture) -> NetworkInput:
        """`picture` at the input size of the (first) network."""
        return self.members[0].prepare(picture)

    def submit(self, picture: Picture | NetworkInput, look: Crop | None = None) -> Token:
        """Starts on one picture, or on what `look` is at; boxes are in source pixels all the same.

        Up to 4 tokens may be outstanding. Raises ArrayMismatch, TooManyInFlight, and
        WholePicturesOnly for a look or a NetworkInput at the heavy pass.
        """
        if isinstance(picture, NetworkInput):
            self._one_network()
            return Token(self.members[0].start(picture), None)
        if look is not None:
            self._one_network()
        return Token(self.members[0].start(self.members[0].prepare(picture, look)), picture)

    def result(self, token: Token) -> Boxes:
        """Waits for the answer to `token`."""
        parts = [token.first.finish()]
        if token.picture is not None:
            jobs = [(token.picture, member, None, None) for member in self.members[1:]]
            parts += self._pipelined(jobs)
        return self._joined(parts)

    def run_once(self, width: int, height: int) -> None:
        """Run every network once at the size of a (width, height) source.

        Raises WarmUpFailed.
        """
        for member in self.members:
            member.run_once(width, height)

    def warm_up(self, width: int, height: int, settings: CropSettings = crops.DEFAULT) -> None:
        """Runs every network once at the size of a (width, height) source, and begins to compile
        the light one for its parts, on a thread.

        Raises WarmUpFailed.
        """
        for member in self.members:
            member.warm_up(width, height, settings)

    def expect(self, width: int, height: int) -> None:
        """Begins to compile, on a thread, for a (width, height) source that will be looked at."""
        for member in self.members:
            member.expect(width, height)

    def close(self) -> None:
        """Compile no more for sizes that are expected."""
        for member in self.members:
            member.network.close()

    def _one_network(self) -> None:
        if len(self.members) > 1:
            raise WholePicturesOnly(self.models)

    def _pipelined(
        self,
        jobs: Sequence[tuple[Picture, DetectorMember, Crop | None, Recall | None]],
    ) -> Iterator[Boxes]:
        """Yield the boxes of each job.

        One network computes at a time: two would compete for the cores.
        """
        ahead: Pending | KnownAnswer | Later | None = None
        try:
            for picture, member, look, recall in jobs:
                prepared = member.prepare(picture, look)
                start = recall.ask(member, prepared) if recall else partial(member.start, prepared)
                if ahead is not None:
                    ahead.wait()
                done, ahead = ahead, start()
                if done is not None:
                    yield done.finish()
            if ahead is not None:
                done, ahead = ahead, None
                yield done.finish()
        finally:
            if ahead is not None:
                ahead.discard()

    def _joined(self, parts: Sequence[Boxes]) -> Boxes:
        boxes = fuse(parts, self.choices.fusion_iou) if len(parts) > 1 else parts[0]
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
    """The detector `light` or `heavy` of `policy.toml`, compiled; call `warm_up` before serving.

    precision           as `trial` measured, or any of `network.supported()`; None: the policy's
                        own, or the nearest that this CPU has
    threads             of one inference, 1 or more
    classes             COCO labels to answer; None: all 80
    min_score           0..1, in place of the frozen one (it changes the policy id)
    cache_dir           folder for OpenVINO's compiled models; None: compile anew

    Raises UnknownDetector, UnknownClass, PrecisionUnsupported, ModelUnreadable.
    """
    choices = policy.load(name).with_min_score(min_score)
    class_ids = coco.class_ids(classes)
    in_use = precision or nearest(choices.precision)
    return build(choices, in_use, threads, class_ids, cache_dir=cache_dir)


def build(
    choices: Policy,
    precision: Precision,
    threads: int,
    class_ids: tuple[int, ...],
    *,
    cache_dir: Path | None = None,
    device: str = CPU,
) -> Detector:
    """The detector that `choices` describe, as `load` does it for the two frozen ones."""
    several = len(choices.parts) > 1
    networks = {
        kind: Network(
            shipped(kind, precision),
            _OUTPUTS[kind],
            precision,
            threads,
            cache_dir,
            device=device,
            joined=_JOINED.get(kind, 0),
        )
        for kind in dict(choices.parts)
    }
    lowest = choices.member_min_score if several else choices.min_score
    # Several vote with all that they see: who looks for few classes then has the answer of whoever
    # leaves the others out of that of remote workers, which look for all.
    seen = _ALL if several else class_ids
    members = [
        DetectorMember(KINDS[kind], side, networks[kind], choices, lowest, seen, fixes=not several)
        for kind, side in choices.parts
    ]
    return Detector(choices, members, class_ids, precision, threads, device=device)


def policy_id(name: str, classes: Sequence[str] | None = None) -> str:
    """That of the detector which `load` would give here with these classes, without loading it.

    Raises UnknownDetector, UnknownClass, PrecisionUnsupported, ModelUnreadable.
    """
    choices = policy.load(name)
    precision = nearest(choices.precision)
    weights = tuple(shipped(kind, precision).sha256 for kind, _ in choices.parts)
    labels = [coco.LABELS[i] for i in coco.class_ids(classes)]
    return choices.hash(labels, precision, weights)


Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class _Cluster:
    """Boxes of one object: the score-weighted sum of corners, each member's best score, and the
    scores that spoke for each class.
    """

    box: Corners
    weighted: Corners = (0.0, 0.0, 0.0, 0.0)
    weight: float = 0.0
    best: dict[int, float] = field(default_factory=dict)
    votes: dict[int, float] = field(default_factory=dict)

    def add(self, box: Corners, score: float, class_id: int, member: int) -> None:
        left, top, right, bottom = self.weighted
        left, top = left + box[0] * score, top + box[1] * score
        right, bottom = right + box[2] * score, bottom + box[3] * score
        self.weighted = left, top, right, bottom
        self.weight = weight = self.weight + score
        self.box = left / weight, top / weight, right / weight, bottom / weight
        self.best[member] = max(score, self.best.get(member, 0.0))
        self.votes[class_id] = self.votes.get(class_id, 0.0) + score

    @property
    def class_id(self) -> int:
        """The class with most votes; of equal ones that of the surer box."""
        return max(self.votes, key=lambda each: self.votes[each])


def fuse(members: Sequence[Boxes], min_iou: float) -> Boxes:
    """One set of boxes from the boxes of `members` (one entry a detector, all weighing the same).

    From the highest score down, a box joins the cluster that it overlaps most, if their IoU is
    above `min_iou`, else it starts one. The fused box is the mean of all its boxes, weighted by
    score; its class is that for which the scores of its boxes add up to most; its score is the sum
    of each member's best over the number of members: a member that saw nothing counts as 0. That
    mean is what makes the set better than its parts. Fused boxes that came to lie on each other
    are one thing as well: the surer one stays. Scores must be above 0.
    """
    everything = [
        (score, class_id, member, tuple(box))
        for member, boxes in enumerate(members)
        for box, score, class_id in zip(
            boxes.xyxy.tolist(), boxes.scores.tolist(), boxes.class_ids.tolist(), strict=True
        )
    ]
    clusters: list[_Cluster] = []
    # A stable sort: of equal scores the earlier member goes first.
    for score, class_id, member, box in sorted(everything, key=lambda row: -row[0]):
        cluster = _best_match(clusters, box, min_iou)
        if cluster is None:
            clusters.append(cluster := _Cluster(box))
        cluster.add(box, score, class_id, member)
    fused = _as_boxes(clusters, len(members))
    return fused.take(suppress(fused.xyxy, fused.scores, min_iou))


def _best_match(clusters: list[_Cluster], box: Corners, min_iou: float) -> _Cluster | None:
    # Plain floats: a picture has some tens of clusters, too few for an array to pay.
    found, best = None, min_iou
    left, top, right, bottom = box
    own_area = (right - left) * (bottom - top)
    for cluster in clusters:
        x1, y1, x2, y2 = cluster.box
        if x2 <= left or right <= x1 or y2 <= top or bottom <= y1:
            continue
        width = (x2 if x2 < right else right) - (x1 if x1 > left else left)
        height = (y2 if y2 < bottom else bottom) - (y1 if y1 > top else top)
        inter = width * height
        overlap = inter / (own_area + (x2 - x1) * (y2 - y1) - inter)
        if overlap > best:
            found, best = cluster, overlap
    return found


def _as_boxes(clusters: Sequence[_Cluster], n_members: int) -> Boxes:
    rows = [
        (sum(cluster.best.values()) / n_members, cluster.class_id, cluster.box)
        for cluster in clusters
    ]
    if not rows:
        return empty()
    rows.sort(key=lambda row: -row[0])
    return Boxes(
        np.array([row[2] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int32),
    )
