"""The frozen policy of a detector: its members, thresholds and precision."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from framegate.models import coco
from framegate.models.errors import UnknownDetector

POLICY = Path(__file__).parent / "policy.toml"
SIDES: Final = range(96, 1281, 32)  # longer sides of the input of a network without a fixed size
# Network without a fixed size -> the detector whose thresholds it has at any size.
_SIZED: Final = {"nanodet-plus": "light"}
_MEMBER: Final = re.compile(rf"({'|'.join(_SIZED)})-([1-9][0-9]{{1,3}})")
# Intel's networks know three classes: vehicle, person and bike, in this order.
_SURVEILLANCE: Final = tuple(coco.LABELS.index(label) for label in ("car", "person", "bicycle"))
# The COCO class of each class of a shipped network, in the order of its outputs.
CLASS_IDS: Final[Mapping[str, tuple[int, ...]]] = {
    "nanodet-plus": tuple(range(coco.N_CLASSES)),
    "surveillance": _SURVEILLANCE,
    "surveillance-large": _SURVEILLANCE,
}
# Version of the rules that apply these numbers. 2: an object has one box. 3: `fusion.fuse`.
_RULES = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """A table of `policy.toml`.

    members           networks with the longer side of their input, such as `nanodet-plus-416`
    precision         precision for which the thresholds were chosen
    min_score         0..1, only boxes with higher (fused) scores are returned
    member_min_score  0..1, only boxes with higher scores enter a fusion
    nms_iou           0..1, IoU above which only the best of a member's boxes stays, of any class;
                      also of fused boxes
    fusion_iou        0..1, IoU above which boxes of one class by several members are one object
    max_boxes         maximum number of boxes of a member, and of the result
    """

    name: str
    members: tuple[str, ...]
    precision: str
    min_score: float
    member_min_score: float
    nms_iou: float
    fusion_iou: float
    max_boxes: int

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Return network and longer side of each member."""
        pairs = (member.rsplit("-", 1) for member in self.members)
        return tuple((network, int(side)) for network, side in pairs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels that the detector can return, in the order of COCO's."""
        known: set[int] = set()
        for network, _ in self.parts:
            known.update(CLASS_IDS[network])
        return tuple(coco.LABELS[class_id] for class_id in sorted(known))

    def with_min_score(self, min_score: float | None) -> "Policy":
        """Return the policy with another threshold; None keeps it.

        Raises ValueError outside 0..1.
        """
        if min_score is None:
            return self
        if not 0 < min_score < 1:
            raise ValueError(f"min_score must be between 0 and 1, got {min_score}")
        return replace(self, min_score=min_score)

    def hash(self, labels: Sequence[str], precision: str, weights: tuple[str, ...]) -> str:
        """Return the policy id: a sha256 over all that decides the boxes of a picture.

        labels     labels of the classes that are returned
        precision  precision and device, as network.computed returns them
        weights    sha256 of each network
        """
        facts = asdict(self) | {
            "rules": _RULES,
            "classes": list(labels),
            "precision": precision,
            "weights": weights,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(POLICY.read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """Return the names of the shipped detectors, without those that name a size."""
    return tuple(_tables())


def side_of(name: str) -> int | None:
    """Return the longer side of the input in a name such as `nanodet-plus-640`, or None."""
    sized = _MEMBER.fullmatch(name)
    if sized is None:
        return None
    return int(sized[2])


def load(name: str) -> Policy:
    """Return the policy of a detector: a table of `policy.toml`, or NETWORK-SIDE.

    NETWORK-SIDE is a network without a fixed size, such as `nanodet-plus-640`, with the thresholds
    of its detector. Raises UnknownDetector, also for a side outside SIDES.
    """
    sized = _MEMBER.fullmatch(name)
    if sized is not None and int(sized[2]) in SIDES:
        return replace(load(_SIZED[sized[1]]), members=(name,))
    if name not in _tables():
        raise UnknownDetector(name, names())
    table = _tables()[name]
    return Policy(name=name, **table | {"members": tuple(table["members"])})


def light_at(side: int) -> Policy:
    """Return the policy of the light detector at another longer side of its input, in pixels."""
    light = load("light")
    network, _ = light.parts[0]
    return replace(light, members=(f"{network}-{side}",))
