"""Label visits of a clip by eye; benchmarks/alike/LABELS.md has the protocol and the decisions.

    python -m tools.label_visits propose CLIP --data FOLDER [--detector NAME] [--classes NAME ...]
    python -m tools.label_visits show CLIP --data FOLDER [--labels | --second-pass]
    python -m tools.label_visits apply CLIP FILE [--second-pass]
    python -m tools.label_visits compare
    python -m tools.label_visits count

`propose` and `show` write below the scratch folder, by default `label-visits` in the folder for
temporary files. Pictures never belong into the repository.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2

from benchmarks.alike import questions, visit_labels
from benchmarks.alike.visit_labels import ATTRIBUTES, UNSURE, VisitLabels
from benchmarks.truth.labels import Edges
from tools.label.command_line import add_data, new_parser, run
from tools.label.proposals import clip_entry
from tools.label_visits import decisions, proposals, sheets
from tools.label_visits.proposals import ProposedTrack
from tools.label_visits.sheets import Life

_PART: Final = 5  # the second pass answers one of so many visits, and at least one of each clip
_SEED: Final = 20261130  # of this choice, so that a labeller cannot choose easy visits
_GAP_S: Final = 3.0  # between two tracks that may be one object
_NEAR: Final = 2.0  # distance of these, as a multiple of the longer side of the box


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status: 1 for faults, which are printed."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("tools.label_visits", __doc__, "label-visits")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    propose = commands.add_parser("propose", help="track the objects of a clip in a whole run")
    propose.add_argument("clip", help="name of the clip in MANIFEST.json")
    add_data(propose)
    propose.add_argument("--detector", default="heavy", help="a detector of policy.toml")
    propose.add_argument("--classes", nargs="*", default=[], help="besides those of cameras")
    propose.set_defaults(run=_propose)
    show = commands.add_parser("show", help="draw contact sheets of the proposed tracks")
    show.add_argument("clip")
    add_data(show)
    show.add_argument("--labels", action="store_true", help="draw the labelled visits instead")
    show.add_argument("--second-pass", action="store_true", help="visits of the second pass only")
    show.set_defaults(run=_show)
    apply = commands.add_parser("apply", help="write the labels of a decisions file")
    apply.add_argument("clip")
    apply.add_argument("decisions", type=Path)
    apply.add_argument("--second-pass", action="store_true", help="answers for labelled visits")
    apply.set_defaults(run=_apply)
    compare = commands.add_parser("compare", help="show how the second pass differs")
    compare.set_defaults(run=_compare)
    count = commands.add_parser("count", help="write the number of true visits of each question")
    count.set_defaults(run=_count)
    return parser


def _propose(options: argparse.Namespace) -> None:
    folder = options.scratch / options.clip
    tracks_of_clip = proposals.propose(
        options.data, options.clip, folder, options.detector, options.classes
    )
    tracks = len(tracks_of_clip.tracks)
    print(f"{folder / proposals.FILE}: {tracks_of_clip.frames} frames, {tracks} tracks")


def _show(options: argparse.Namespace) -> None:
    folder = options.scratch / options.clip
    kind = "proposals"
    if options.labels or options.second_pass:
        labels = visit_labels.read(visit_labels.FOLDER / f"{options.clip}.json")
        lives = list(_labelled_lives(labels, options.second_pass))
        kind = "labels"
        if options.second_pass:
            kind = "second-pass"
    else:
        tracks_of_clip = proposals.read(folder)
        lives = list(_proposed_lives(tracks_of_clip.tracks, tracks_of_clip.fps))
    path = options.data / clip_entry(options.data, options.clip)["file"]
    target = folder / kind
    target.mkdir(parents=True, exist_ok=True)
    for number, sheet in enumerate(sheets.draw(path, lives), 1):
        cv2.imwrite(str(target / f"{number:03d}.png"), sheet)
    print(f"{target}: {len(lives)} objects")


def _labelled_lives(labels: VisitLabels, second: bool) -> Iterator[Life]:
    """Yield the visits with their first answers, or those of the second pass without."""
    again: Sequence[int] = ()
    if second:
        again = _answered_again()[labels.clip]
    for visit in labels.visits:
        if second and visit.visit not in again:
            continue
        boxes = {frame: visit.box(frame) for frame in range(visit.first, visit.last + 1)}
        title = f"visit {visit.visit}"
        if not second:
            answers = [f"{name} {getattr(visit, name)}" for name in ATTRIBUTES]
            title = f"{title}: {', '.join(answers)}"
        yield Life(title, boxes)


def _answered_again() -> dict[str, list[int]]:
    """Return by clip the numbers of the visits of the second pass."""
    choice = random.Random(_SEED)
    chosen = {}
    for clip, labels in visit_labels.read_all().items():
        numbers = [visit.visit for visit in labels.visits]
        size = max(1, round(len(numbers) / _PART))
        chosen[clip] = sorted(choice.sample(numbers, size))
    return chosen


def _proposed_lives(tracks: Sequence[ProposedTrack], fps: float) -> Iterator[Life]:
    for track in tracks:
        seconds = (track.last - track.first) / fps
        title = (
            f"track {track.track}  {track.label} {track.score}  frames {track.first}-{track.last} "
            f"({seconds:.1f} s, {len(track.boxes)} boxes)"
        )
        before = [str(other.track) for other in tracks if _may_continue(other, track, fps)]
        if before:
            title = f"{title}  after {', '.join(before)}?"
        yield Life(title, {anchor.frame: anchor.edges for anchor in track.boxes})


def _may_continue(before: ProposedTrack, after: ProposedTrack, fps: float) -> bool:
    """Return whether the second track may be the object of the first, by time and place."""
    gap_s = (after.first - before.last) / fps
    if not 0 < gap_s <= _GAP_S:
        return False
    old, new = before.boxes[-1].edges, after.boxes[0].edges
    x, y = _centre(old)
    other_x, other_y = _centre(new)
    longer = max(old[2] - old[0], old[3] - old[1])
    return max(abs(x - other_x), abs(y - other_y)) <= _NEAR * longer


def _centre(edges: Edges) -> tuple[float, float]:
    left, top, right, bottom = edges
    return (left + right) / 2, (top + bottom) / 2


def _apply(options: argparse.Namespace) -> None:
    if options.second_pass:
        first = visit_labels.read(visit_labels.FOLDER / f"{options.clip}.json")
        labels = decisions.second_answers(options.decisions, first)
        path = visit_labels.SECOND_PASS / f"{options.clip}.json"
    else:
        tracks_of_clip = proposals.read(options.scratch / options.clip)
        labels = decisions.VisitDecisions(options.decisions, tracks_of_clip).labels()
        path = visit_labels.FOLDER / f"{options.clip}.json"
    visit_labels.write(path, labels)
    print(f"{path}: {len(labels.visits)} visits, {len(labels.unsure)} unsure objects")


def _compare(_: argparse.Namespace) -> None:
    """Print by attribute how many visits have the same answer in both passes."""
    first = visit_labels.read_all()
    second = visit_labels.read_all(visit_labels.SECOND_PASS)
    print("| attribute | same | one of them unsure | different |")
    print("| --- | --- | --- | --- |")
    for name in ATTRIBUTES:
        same, unsure = 0, 0
        other: list[str] = []
        for clip, labels in second.items():
            by_number = {visit.visit: visit for visit in first[clip].visits}
            for visit in labels.visits:
                ours, theirs = getattr(by_number[visit.visit], name), getattr(visit, name)
                if ours == theirs:
                    same += 1
                elif UNSURE in (ours, theirs):
                    unsure += 1
                else:
                    other.append(f"{clip} {visit.visit}: {ours}, {theirs}")
        print(f"| {name} | {same} | {unsure} | {len(other)} |")
        for line in other:
            print(f"{name}: {line}", file=sys.stderr)


def _count(_: argparse.Namespace) -> None:
    counted = questions.recounted(questions.read(), visit_labels.read_all())
    questions.write(counted)
    for question in counted:
        print(f"{question.name}: {question.first} in the first part, {question.last} in the last")


if __name__ == "__main__":
    sys.exit(main())
