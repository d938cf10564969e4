"""Read the decisions of a labeller about the proposed tracks; LABELS.md has the format.

Every fault is reported with file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.alike.visit_labels import (
    PROTOCOL,
    Anchor,
    LabelledVisit,
    Presence,
    VisitLabels,
    check,
)
from benchmarks.truth.labels import NUMBERING, LabelsInvalid, corners
from framegate.models.boxes import row_iou
from tools.label.decision_lines import DecisionFault, class_of, read_lines, whole
from tools.label_visits.proposals import VisitProposals

_CLOSE: Final = 0.75  # IoU of a box of a track with the way between anchors, at least
_ALL: Final = "visit TRACKS KIND DIRECTION LANE STOPS COLOUR [BAG GROUP]"
_PERSON: Final = 8  # words of such a line about a person


class VisitDecisions:
    """The decisions file of a clip, read line by line. `faults` has what was wrong."""

    def __init__(self, path: Path, proposals: VisitProposals) -> None:
        self.faults: list[str] = []
        self._path = path
        self._proposals = proposals
        self._lanes: tuple[str, ...] = ()
        self._visits: list[LabelledVisit] = []
        self._unsure: list[Presence] = []
        self._tracks = {track.track: track.boxes for track in proposals.tracks}
        self._judged: set[int] = set()
        self._verbs: dict[str, Callable[[list[str]], None]] = {
            "lanes": self._read_lanes,
            "track": self._read_track,
            "visit": self._read_visit,
            "unsure": self._read_unsure,
            "drop": self._read_drop,
        }
        self.faults += read_lines(path, self._read)

    def labels(self) -> VisitLabels:
        """Return the labels. Raises LabelsInvalid if a track has no decision."""
        faults = [*self.faults]
        for track in self._tracks:
            if track not in self._judged:
                faults.append(f"{self._path}: track {track} has no decision")
        if faults:
            raise LabelsInvalid(faults)
        labels = self.labels_so_far()
        check(labels, str(self._path))
        return labels

    def labels_so_far(self) -> VisitLabels:
        """Return the labels of the tracks with a decision, without any check."""
        head = self._proposals
        ordered = sorted(self._visits, key=lambda visit: (visit.first, visit.anchors[0].left))
        visits = [
            msgspec.structs.replace(visit, visit=number) for number, visit in enumerate(ordered, 1)
        ]
        return VisitLabels(
            PROTOCOL,
            head.clip,
            head.sha256,
            head.width,
            head.height,
            NUMBERING,
            head.frames,
            head.fps,
            self._lanes,
            tuple(visits),
            tuple(self._unsure),
        )

    # -- One line.

    def _read(self, words: list[str], _: int) -> None:
        if words[0] not in self._verbs:
            allowed = ", ".join(self._verbs)
            raise DecisionFault(f"unknown decision {words[0]!r}; allowed are {allowed}")
        self._verbs[words[0]](words[1:])

    def _read_lanes(self, words: list[str]) -> None:
        self._lanes = tuple(words)

    def _read_track(self, words: list[str]) -> None:
        """Add a track of an object that no network tracked, from its boxes in some frames."""
        number = whole(words[0])
        if number in self._tracks or len(words) < 6 or len(words) % 5 != 1:
            raise DecisionFault("write `track NUMBER FRAME X1 Y1 X2 Y2 ...` with an unused number")
        boxes = []
        for at in range(1, len(words), 5):
            left, top, right, bottom = (float(word) for word in words[at + 1 : at + 5])
            boxes.append(Anchor(whole(words[at]), left, top, right, bottom))
        self._tracks[number] = tuple(boxes)

    def _read_visit(self, words: list[str]) -> None:
        if len(words) not in (_PERSON - 2, _PERSON):
            raise DecisionFault(f"write `{_ALL}`")
        answers = _attributes(words[1:])
        anchors = thinned(self._joined(words[0]))
        fields = {**answers, "anchors": anchors, "visit": len(self._visits) + 1}
        try:
            self._visits.append(msgspec.convert(fields, LabelledVisit))
        except msgspec.ValidationError as error:
            raise DecisionFault(str(error)) from error

    def _read_unsure(self, words: list[str]) -> None:
        for word in words:
            self._unsure.append(Presence(thinned(self._joined(word))))

    def _read_drop(self, words: list[str]) -> None:
        for word in words:
            self._piece(word)

    # -- Tracks.

    def _joined(self, word: str) -> tuple[Anchor, ...]:
        """Return the boxes of `A+B:FIRST-LAST+...`; where two have a frame, those of the first."""
        boxes: dict[int, Anchor] = {}
        for piece in word.split("+"):
            for anchor in self._piece(piece):
                boxes.setdefault(anchor.frame, anchor)
        if not boxes:
            raise DecisionFault(f"{word} has no box in these frames")
        return tuple(boxes[frame] for frame in sorted(boxes))

    def _piece(self, word: str) -> tuple[Anchor, ...]:
        name, _, span = word.partition(":")
        number = whole(name)
        if number not in self._tracks:
            raise DecisionFault(f"there is no track {number}")
        if number in self._judged and not span:
            raise DecisionFault(f"track {number} has two decisions")
        self._judged.add(number)
        if not span:
            return self._tracks[number]
        first, _, last = span.partition("-")
        frames = range(whole(first), whole(last) + 1)
        return tuple(anchor for anchor in self._tracks[number] if anchor.frame in frames)


def _attributes(words: Sequence[str]) -> dict[str, Any]:
    """Return the attributes that a line gives; those of people are `no` for other objects."""
    kind, direction, lane, stops, colour, *rest = words
    bag, group = rest or ("no", "no")
    if kind == "person" and not rest:
        raise DecisionFault(f"a person has two more attributes: `{_ALL}`")
    return {
        "kind": class_of(kind),
        "direction": direction,
        "lane": lane,
        "stops": stops,
        "colour": colour,
        "bag": bag,
        "group": group,
    }


def thinned(boxes: Sequence[Anchor]) -> tuple[Anchor, ...]:
    """Return the boxes that are needed so that the way between them is close to all others."""
    kept = {0, len(boxes) - 1}
    spans = [(0, len(boxes) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        inner = boxes[first + 1 : last]
        way = Presence((boxes[first], boxes[last]))
        ours = corners([anchor.edges for anchor in inner])
        theirs = corners([way.box(anchor.frame) for anchor in inner])
        if row_iou(ours, theirs).min() < _CLOSE:
            farthest = int(np.abs(ours - theirs).max(axis=1).argmax())
            middle = first + 1 + farthest
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    return tuple(boxes[place] for place in sorted(kept))


# -- The second pass.


def second_answers(path: Path, labels: VisitLabels) -> VisitLabels:
    """Return the visits of `labels` that a decisions file answers again, with these answers.

    A line is the same, with the number of the visit instead of tracks. Raises LabelsInvalid.
    """
    by_number = {visit.visit: visit for visit in labels.visits}
    again: dict[int, LabelledVisit] = {}

    def read(words: list[str], _: int) -> None:
        try:
            answers = _second_answer(words, by_number)
        except msgspec.ValidationError as error:
            raise DecisionFault(str(error)) from error
        again[answers.visit] = answers

    faults = read_lines(path, read)
    if faults:
        raise LabelsInvalid(faults)
    visits = tuple(again[number] for number in sorted(again))
    return msgspec.structs.replace(labels, visits=visits, unsure=())


def _second_answer(words: Sequence[str], visits: Mapping[int, LabelledVisit]) -> LabelledVisit:
    if words[0] != "visit" or len(words) not in (_PERSON - 1, _PERSON + 1):
        raise DecisionFault(f"write `{_ALL}` with the number of the visit for TRACKS")
    number = whole(words[1])
    if number not in visits:
        raise DecisionFault(f"there is no visit {number}")
    fields = {**_attributes(words[2:]), "anchors": visits[number].anchors, "visit": number}
    return msgspec.convert(fields, LabelledVisit)
