"""A labeller's decisions: a text file with one decision a line, and the labels that follow.

benchmarks/truth/LABELS.md lists the decisions. Every fault is reported with file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.truth.labels import (
    NUMBERING,
    PROTOCOL,
    ClipLabels,
    Edges,
    FrameLabels,
    LabelsInvalid,
    ObjectLabel,
    check,
)
from tools.label.decision_lines import DecisionFault, class_of, read_lines, whole
from tools.label.proposals import ClipProposals, Proposal


@dataclass(frozen=True, slots=True)
class Static:
    """An object that stays where it is, from frame `first` to frame `last`. label None: ignore."""

    name: str
    label: str | None
    edges: Edges
    first: int
    last: int


@dataclass(slots=True)
class FrameDecisions:
    """The decisions of a frame so far.

    judged   proposals that have a decision
    is_none  `none`: there is no object but the static ones
    hidden   static objects that this frame does not show
    """

    line: int
    objects: list[ObjectLabel] = field(default_factory=list)
    ignore: list[Edges] = field(default_factory=list)
    judged: set[int] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    is_none: bool = False

    @property
    def is_decided(self) -> bool:
        """Return whether the frame has a decision."""
        return bool(self.is_none or self.objects or self.ignore or self.judged or self.hidden)


class Decisions:
    """The decisions file of a clip, read line by line. `faults` has what was wrong."""

    def __init__(self, path: Path, proposals: ClipProposals) -> None:
        self.faults: list[str] = []
        self._path = path
        self._proposals = proposals
        self._by_frame = {frame.frame: frame.proposals for frame in proposals.frames}
        self._statics: list[Static] = []
        self._frames: dict[int, FrameDecisions] = {}
        self._frame: int | None = None
        self._verbs: dict[str, Callable[[list[str]], None]] = {
            "keep": self._keep,
            "change": self._change,
            "add": self._add,
            "ignore": self._ignore,
            "hidden": self._hide,
            "none": self._none,
        }
        self.faults += read_lines(path, self._read)

    def labels(self, wanted: Sequence[int]) -> ClipLabels:
        """Return the labels of the wanted frames. Raises LabelsInvalid with every fault."""
        faults = [*self.faults]
        for number in wanted:
            if number not in self._frames:
                faults.append(f"{self._path}: frame {number} has no decision")
            elif not self._frames[number].is_decided:
                line = self._frames[number].line
                faults.append(
                    f"{self._path}:{line}: frame {number} has no decision; write `none` if it "
                    "shows no object but the static ones"
                )
        if faults:
            raise LabelsInvalid(faults)
        labels = self._labels(wanted)
        check(labels, str(self._path))
        return labels

    def labels_so_far(self) -> ClipLabels:
        """Return the labels of the frames with a decision, without any check."""
        return self._labels(sorted(self._frames))

    def static_labels(self, frame: int) -> FrameLabels:
        """Return the static objects of a frame, whether or not the frame has decisions."""
        decisions = self._frames.get(frame, FrameDecisions(0))
        return self._with_static(frame, FrameDecisions(0, hidden=decisions.hidden))

    def _labels(self, wanted: Sequence[int]) -> ClipLabels:
        head = self._proposals
        return ClipLabels(
            PROTOCOL,
            head.clip,
            head.sha256,
            head.width,
            head.height,
            NUMBERING,
            head.classes,
            tuple(self._with_static(number, self._frames[number]) for number in wanted),
        )

    def _with_static(self, number: int, decisions: FrameDecisions) -> FrameLabels:
        objects = [*decisions.objects]
        ignore = [*decisions.ignore]
        for static in self._statics:
            is_here = static.first <= number <= static.last
            if not is_here or static.name in decisions.hidden:
                continue
            if static.label is None:
                ignore.append(static.edges)
            else:
                objects.append(ObjectLabel(static.label, *static.edges))
        return FrameLabels(number, tuple(objects), tuple(ignore))

    # -- One line.

    def _read(self, words: list[str], line: int) -> None:
        verb, rest = words[0], words[1:]
        if verb == "frame":
            self._start_frame(rest, line)
        elif verb == "static":
            self._static(rest)
        elif verb not in self._verbs:
            allowed = ", ".join(["frame", "static", *self._verbs])
            raise DecisionFault(f"unknown decision {verb!r}; allowed are {allowed}")
        elif self._frame is None:
            raise DecisionFault(f"{verb} is before the first `frame N`")
        else:
            self._verbs[verb](rest)

    def _start_frame(self, words: list[str], line: int) -> None:
        self._frame = None
        if len(words) != 1:
            raise DecisionFault("write `frame N`")
        number = whole(words[0])
        if number not in self._by_frame:
            raise DecisionFault(f"frame {number} is not a frame of the proposals")
        if number in self._frames:
            first = self._frames[number].line
            raise DecisionFault(f"frame {number} already has decisions, from line {first} on")
        self._frame = number
        self._frames[number] = FrameDecisions(line)

    def _static(self, words: list[str]) -> None:
        if len(words) not in (6, 8):
            raise DecisionFault(
                "write `static NAME CLASS x1 y1 x2 y2 [FIRST LAST]`, or `ignore` for CLASS"
            )
        name = words[0]
        label = None
        if words[1] != "ignore":
            label = class_of(words[1])
        first, last = 0, self._proposals.clip_frames - 1
        if len(words) == 8:
            first, last = whole(words[6]), whole(words[7])
        if first > last:
            raise DecisionFault(f"the first frame, {first}, is after the last, {last}")
        static = Static(name, label, _edges(words[2:6]), first, last)
        for other in self._statics:
            is_together = other.first <= last and first <= other.last
            if other.name == name and is_together:
                raise DecisionFault(f"two static objects {name!r} in the same frames")
        self._statics.append(static)

    def _keep(self, words: list[str]) -> None:
        numbers, label = _renamed(words)
        if not numbers:
            raise DecisionFault("write `keep NUMBER ... [as CLASS]`")
        for number in numbers:
            proposal = self._judge(number)
            self._here().objects.append(ObjectLabel(label or proposal.label, *proposal.box))
        self._check_none()

    def _change(self, words: list[str]) -> None:
        rest, label = _renamed(words)
        if len(rest) != 5:
            raise DecisionFault("write `change NUMBER x1 y1 x2 y2 [as CLASS]`")
        edges = _edges(rest[1:])
        proposal = self._judge(rest[0])
        self._here().objects.append(ObjectLabel(label or proposal.label, *edges))
        self._check_none()

    def _add(self, words: list[str]) -> None:
        if len(words) != 5:
            raise DecisionFault("write `add CLASS x1 y1 x2 y2`")
        self._here().objects.append(ObjectLabel(class_of(words[0]), *_edges(words[1:])))
        self._check_none()

    def _ignore(self, words: list[str]) -> None:
        if not words:
            raise DecisionFault("write `ignore NUMBER ...` or `ignore box x1 y1 x2 y2`")
        if words[0] == "box":
            self._here().ignore.append(_edges(words[1:]))
            return
        for number in words:
            self._here().ignore.append(self._judge(number).box)

    def _hide(self, words: list[str]) -> None:
        names = {static.name for static in self._statics}
        for name in words:
            if name not in names:
                raise DecisionFault(f"no static object {name!r} above this line")
        self._here().hidden.update(words)

    def _none(self, words: list[str]) -> None:
        if words:
            raise DecisionFault("`none` is a line of its own")
        self._here().is_none = True
        self._check_none()

    def _check_none(self) -> None:
        if self._here().is_none and self._here().objects:
            raise DecisionFault(f"frame {self._frame} has `none` and also an object")

    def _here(self) -> FrameDecisions:
        assert self._frame is not None
        return self._frames[self._frame]

    def _judge(self, word: str) -> Proposal:
        """Return a proposal of the frame that has no decision so far, and mark it."""
        number = whole(word)
        assert self._frame is not None
        proposals = {each.number: each for each in self._by_frame[self._frame]}
        if number not in proposals:
            known = ", ".join(map(str, proposals)) or "none"
            raise DecisionFault(f"frame {self._frame} has no proposal {number}; it has {known}")
        if number in self._here().judged:
            raise DecisionFault(f"proposal {number} has two decisions in frame {self._frame}")
        self._here().judged.add(number)
        return proposals[number]


def _renamed(words: list[str]) -> tuple[list[str], str | None]:
    """Split `... as CLASS` into the words before and the class."""
    if "as" not in words:
        return words, None
    at = words.index("as")
    if len(words) != at + 2:
        raise DecisionFault("write one class after `as`")
    return words[:at], class_of(words[at + 1])


def _edges(words: Sequence[str]) -> Edges:
    if len(words) != 4:
        raise DecisionFault(f"a box is four numbers, x1 y1 x2 y2; got {' '.join(words)!r}")
    try:
        left, top, right, bottom = (float(word) for word in words)
    except ValueError as error:
        raise DecisionFault(f"{' '.join(words)!r} are not four numbers") from error
    return left, top, right, bottom
