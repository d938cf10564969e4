"""Label frames of a clip by eye; benchmarks/truth/LABELS.md has the protocol and the decisions.

    python -m tools.label propose CLIP --data FOLDER [--networks FOLDER] [--classes NAME ...]
    python -m tools.label show CLIP [--decisions FILE] [--region X1 Y1 X2 Y2] [--frames N ...]
    python -m tools.label apply CLIP FILE [--second-pass] [--out FILE]
    python -m tools.label compare A B

`propose` and `show` write below the scratch folder, by default `label` in the folder for temporary
files. Pictures never belong into the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from benchmarks.truth import labels as truth
from tools.label import networks, pictures, proposals
from tools.label.command_line import add_data, new_parser, run
from tools.label.decisions import Decisions
from tools.label.pictures import Mark, Region, View
from tools.label.proposals import ClipProposals

SECOND: Final = truth.FOLDER.parent / "second_pass"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status: 1 for faults, which are printed."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("tools.label", __doc__, "label")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    propose = commands.add_parser("propose", help="propose boxes with several networks")
    propose.add_argument("clip", help="name of the clip in MANIFEST.json")
    add_data(propose)
    propose.add_argument("--networks", type=Path, help="folder of further networks (*.xml)")
    propose.add_argument(
        "--classes", nargs="*", default=[], help="classes to label besides those of every clip"
    )
    propose.set_defaults(run=_propose)
    show = commands.add_parser("show", help="draw frames with numbered proposals or with labels")
    show.add_argument("clip")
    show.add_argument("--decisions", type=Path, help="draw what these decisions label")
    show.add_argument("--static", type=Path, help="leave out what this file labels as static")
    show.add_argument("--region", type=int, nargs=4, help="enlarge this part: x1 y1 x2 y2")
    show.add_argument("--frames", type=int, nargs="*", help="only these frames")
    show.add_argument("--second-pass", action="store_true", help="only every fifth frame")
    show.add_argument("--per-picture", type=int, choices=(1, 2), help="frames in a picture")
    show.add_argument("--plain", action="store_true", help="draw no boxes")
    show.set_defaults(run=_show)
    apply = commands.add_parser("apply", help="write the labels of a decisions file")
    apply.add_argument("clip")
    apply.add_argument("decisions", type=Path)
    apply.add_argument("--second-pass", action="store_true", help="only every fifth frame")
    apply.add_argument("--out", type=Path, help="file to write; default: beside LABELS.md")
    apply.set_defaults(run=_apply)
    compare = commands.add_parser("compare", help="show how two labellings differ")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)
    compare.set_defaults(run=_compare)
    return parser


def _propose(options: argparse.Namespace) -> None:
    unknown = [name for name in options.classes if name not in truth.CLASSES]
    if unknown:
        raise ValueError(f"unknown classes {', '.join(unknown)}; allowed are COCO's names")
    cv2.setNumThreads(1)
    proposers = [*networks.shipped()]
    if options.networks is not None:
        proposers += networks.from_folder(options.networks)
    folder = options.scratch / options.clip
    classes = tuple(dict.fromkeys([*truth.EVERYWHERE, *options.classes]))
    result = proposals.propose(options.data, options.clip, folder, classes, proposers)
    lines = [line for frame in result.frames for line in _lines(frame)]
    (folder / "proposals.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    boxes = sum(len(frame.proposals) for frame in result.frames)
    print(f"{folder / proposals.FILE}: {len(result.frames)} frames, {boxes} proposals")
    print(f"networks: {', '.join(result.networks)}")


def _lines(frame: proposals.FrameProposals) -> list[str]:
    """Return a frame's proposals as lines for a labeller."""
    lines = [f"frame {frame.frame}"]
    for proposal in frame.proposals:
        box = truth.shown(proposal.box)
        seen = f"{len(proposal.networks)} networks"
        lines.append(f"  {proposal.number} {proposal.label} {box}  {proposal.score} {seen}")
    return lines


def _show(options: argparse.Namespace) -> None:
    folder = options.scratch / options.clip
    clip = proposals.read(folder)
    wanted = _wanted(clip, options.second_pass)
    if options.frames:
        wanted = [number for number in wanted if number in options.frames]
    marks = _marks(clip, options)
    region = Region(0, 0, clip.width, clip.height)
    kind = "proposals"
    if options.plain:
        kind = "plain"
    elif options.static:
        kind = "moving"
    elif options.decisions:
        kind = "labels"
    if options.region:
        region = Region(*options.region)
        is_inside = 0 <= region.left < region.right <= clip.width
        if not is_inside or not 0 <= region.top < region.bottom <= clip.height:
            raise ValueError(f"--region must be inside {clip.width} x {clip.height}, got {region}")
        kind += "-" + "-".join(map(str, region))
    per_picture = options.per_picture or pictures.frames_per_picture(region)
    target = folder / kind
    target.mkdir(exist_ok=True)
    for first in range(0, len(wanted), per_picture):
        numbers = wanted[first : first + per_picture]
        views = [_view(folder, clip, region, number, marks) for number in numbers]
        name = "-".join(f"{number:06d}" for number in numbers)
        cv2.imwrite(str(target / f"{name}.png"), pictures.draw(views))
    print(f"{target}: {-(-len(wanted) // per_picture)} pictures of {len(wanted)} frames")


def _wanted(clip: ClipProposals, is_second_pass: bool) -> list[int]:
    """Return the frames of a pass."""
    if is_second_pass:
        return list(clip.second_pass())
    return [frame.frame for frame in clip.frames]


def _marks(clip: ClipProposals, options: argparse.Namespace) -> dict[int, tuple[Mark, ...]]:
    """Return the marks of each frame to draw."""
    if options.plain:
        return {}
    path = options.decisions or options.static
    if path is None:
        return {frame.frame: pictures.proposal_marks(frame) for frame in clip.frames}
    decisions = Decisions(path, clip)
    for fault in decisions.faults:
        print(fault, file=sys.stderr)
    if options.static is not None:
        marks = {}
        for frame in clip.frames:
            static_objects = decisions.static_labels(frame.frame)
            marks[frame.frame] = pictures.without_static(frame, static_objects)
        return marks
    return pictures.marks_of(decisions.labels_so_far())


def _view(
    folder: Path,
    clip: ClipProposals,
    region: Region,
    frame: int,
    marks: dict[int, tuple[Mark, ...]],
) -> View:
    path = proposals.frame_picture(folder, frame)
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise ValueError(f"{path} is missing or unreadable; run `propose {clip.clip}` again")
    title = f"{clip.clip}  frame {frame}"
    return View(bgr.astype(np.uint8, copy=False), region, title, marks.get(frame, ()))


def _apply(options: argparse.Namespace) -> None:
    clip = proposals.read(options.scratch / options.clip)
    wanted = _wanted(clip, options.second_pass)
    labels = Decisions(options.decisions, clip).labels(wanted)
    folder = SECOND if options.second_pass else truth.FOLDER
    path = options.out or folder / f"{clip.clip}.json"
    truth.write(path, labels)
    boxes = sum(len(frame.boxes) for frame in labels.frames)
    regions = sum(len(frame.ignore) for frame in labels.frames)
    print(f"{path}: {len(labels.frames)} frames, {boxes} boxes, {regions} ignore regions")


def _compare(options: argparse.Namespace) -> None:
    frames, groups = truth.compare(truth.read(options.a), truth.read(options.b))
    print(f"{len(frames)} frames that both have: {', '.join(map(str, frames))}")
    print("| group | both | only A | only B | ignored by one | other class | F1 | mean IoU |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, counts in sorted(groups.items()):
        cells = [counts.both, counts.only_a, counts.only_b, counts.ignored, counts.renamed]
        shares = [_share(counts.f1), _share(counts.mean_iou)]
        print(f"| {name} | {' | '.join(chain(map(str, cells), shares))} |")


def _share(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
