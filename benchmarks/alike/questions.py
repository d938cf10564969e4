"""Questions about visits: which labelled visits are true, and which of them may teach or judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks.alike.visit_labels import (
    ATTRIBUTES,
    UNSURE,
    LabelledVisit,
    VisitLabels,
)
from benchmarks.truth.labels import LabelsInvalid, group

FILE: Final = Path(__file__).parent / "questions.json"
# Shares of a clip's time, in which a visit ends: it is stored when it ends.
TEACHES_UNTIL: Final = 0.60
JUDGES_FROM: Final = 0.65
LEAST_MARKS: Final = 5  # true visits in the part that teaches

Part = Literal["first", "last"]


class PartCount(msgspec.Struct, frozen=True):
    """How many judged visits of a part are true, and how many are false."""

    true: int = 0
    false: int = 0


class Question(msgspec.Struct, frozen=True):
    """A question about the visits of some clips.

    name   as a user asks it
    clips  clips that are searched
    where  allowed values by attribute; a visit is true if all attributes have one of these
    first  visits that may teach; last: visits that judge
    """

    name: str
    clips: tuple[str, ...]
    where: dict[str, tuple[str, ...]]
    first: PartCount = PartCount()
    last: PartCount = PartCount()


def read(path: Path = FILE) -> tuple[Question, ...]:
    """Read the questions. Raises LabelsInvalid."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Question, ...])
    except msgspec.DecodeError as error:
        raise LabelsInvalid([f"{path}: {error}"]) from error


def write(questions: Sequence[Question], path: Path = FILE) -> None:
    """Write questions, one a line."""
    rows = ",\n".join(f"  {msgspec.json.encode(each).decode()}" for each in questions)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def answer(question: Question, visit: LabelledVisit) -> bool | None:
    """Return whether the visit is true; None if an attribute that decides is unsure."""
    is_sure = True
    for name, allowed in question.where.items():
        value = getattr(visit, name)
        if value in allowed:
            continue
        if not _may_be(name, value, allowed):
            return False
        is_sure = False
    if is_sure:
        return True
    return None


def _may_be(name: str, value: str, allowed: Sequence[str]) -> bool:
    """Return whether the true value may be an allowed one: a vehicle too small may be a car."""
    if name == "kind":
        return value == "vehicle" and value in map(group, allowed)
    return value == UNSURE


def part(labels: VisitLabels, visit: LabelledVisit) -> Part | None:
    """Return whether the visit may teach (first) or judge (last); None: it ends between them."""
    if visit.last < TEACHES_UNTIL * labels.frames:
        return "first"
    if visit.last >= JUDGES_FROM * labels.frames:
        return "last"
    return None


def recounted(
    questions: Iterable[Question], labels: Mapping[str, VisitLabels]
) -> tuple[Question, ...]:
    """Return the questions with the numbers of visits that these labels have."""
    return tuple(_recounted(question, labels) for question in questions)


def _recounted(question: Question, labels: Mapping[str, VisitLabels]) -> Question:
    counts: dict[tuple[Part, bool], int] = {}
    for clip in question.clips:
        for visit in labels[clip].visits:
            where, truth = part(labels[clip], visit), answer(question, visit)
            if where is not None and truth is not None:
                counts[where, truth] = counts.get((where, truth), 0) + 1
    first = PartCount(counts.get(("first", True), 0), counts.get(("first", False), 0))
    last = PartCount(counts.get(("last", True), 0), counts.get(("last", False), 0))
    return msgspec.structs.replace(question, first=first, last=last)


def check(questions: Sequence[Question], labels: Mapping[str, VisitLabels]) -> None:
    """Raise LabelsInvalid if a question cannot be asked, or its numbers are not these."""
    faults = []
    names = [question.name for question in questions]
    if len(set(names)) < len(names):
        faults.append(f"each question needs a name of its own, got {', '.join(names)}")
    for question in questions:
        place = f"question {question.name!r}"
        unknown = [name for name in question.where if name not in ATTRIBUTES]
        missing = [clip for clip in question.clips if clip not in labels]
        if unknown or missing:
            faults.append(f"{place}: there is no {', '.join([*unknown, *missing])}")
            continue
        if _recounted(question, labels) != question:
            faults.append(f"{place}: the labels have other numbers; `count` writes them")
        if question.first.true < LEAST_MARKS:
            faults.append(f"{place}: needs {LEAST_MARKS} true visits in the first part")
        if not question.last.true or not question.last.false:
            faults.append(f"{place}: needs true and false visits in the last part")
    if faults:
        raise LabelsInvalid(faults)
