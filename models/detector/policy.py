"""The frozen choices that make a detector: members, thresholds, class set, precision."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from framegate.models.errors import UnknownDetector

POLICY = Path(__file__).parent / "policy.toml"
_RULES = 2  # grows when something else is made of the same numbers; 2: a thing has one box


@dataclass(frozen=True, slots=True)
class Policy:
    """One table of `policy.toml`.

    members           networks with the longer side of their input, such as `nanodet-416`
    precision         the one that the thresholds were chosen with
    min_score         0..1, only boxes above it are answered (fused score if several)
    member_min_score  0..1, only boxes above it enter a fusion
    nms_iou           0..1, of a member's boxes above it the surest stays, whatever their classes
    fusion_iou        0..1, boxes of several members above it are one object
    max_boxes         of one member, and of the answer
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
        """(network, longer side) of each member."""
        split = (member.rsplit("-", 1) for member in self.members)
        return tuple((network, int(side)) for network, side in split)

    def with_min_score(self, min_score: float | None) -> "Policy":
        """The same choices with another threshold; None keeps it.

        Raises ValueError outside 0..1.
        """
        if min_score is None:
            return self
        if not 0 < min_score < 1:
            raise ValueError(f"min_score: expected a number between 0 and 1, found {min_score}")
        return replace(self, min_score=min_score)

    def hash(self, labels: Sequence[str], precision: str, weights: tuple[str, ...]) -> str:
        """sha256 over everything that decides an answer: equal hashes, equal meaning of "truth".

        labels  of the classes that are answered
        """
        facts = asdict(self) | {
            "rules": _RULES,
            "classes": list(labels),
            "precision": precision,
            "weights": weights,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load(name: str, path: Path = POLICY) -> Policy:
    """The policy `name` (`light` or `heavy`). Raises UnknownDetector."""
    tables = tomllib.loads(path.read_text())
    if name not in tables:
        raise UnknownDetector(name, tuple(tables))
    table = tables[name]
    return Policy(name=name, **table | {"members": tuple(table["members"])})
