"""Labels by eye: decisions, checks, the file, and the disagreement. Expectations are by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth import labels as truth
from benchmarks.truth.labels import ClipLabels, FrameLabels, LabelsInvalid, ObjectLabel
from tools.label import pictures, proposals
from tools.label.__main__ import main
from tools.label.decisions import Decisions
from tools.label.networks import Answer
from tools.label.pictures import Mark, Region, View
from tools.label.proposals import ClipProposals, FrameProposals, Proposal

CLASSES = ("person", "car", "truck", "bicycle", "motorcycle")
CAR = Proposal(1, "car", (10.0, 20.0, 50.0, 40.0), 0.8, ("a", "b"))
PERSON = Proposal(2, "person", (60.5, 10.0, 72.0, 40.0), 0.5, ("a",))
PROPOSALS = ClipProposals(
    clip="street",
    sha256="ab",
    width=100,
    height=80,
    clip_frames=40,
    classes=CLASSES,
    networks=("a", "b"),
    frames=(
        FrameProposals(10, (CAR, PERSON)),
        FrameProposals(20, (CAR,)),
        FrameProposals(30, ()),
    ),
)
WANTED = (10, 20, 30)


def decided(tmp_path: Path, text: str) -> ClipLabels:
    path = tmp_path / "street.txt"
    path.write_text(text, encoding="utf-8")
    return Decisions(path, PROPOSALS).labels(WANTED)


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(LabelsInvalid) as invalid:
        decided(tmp_path, text)
    return [fault.replace(f"{tmp_path}/", "") for fault in invalid.value.faults]


def labelled(*frames: FrameLabels, clip: str = "street") -> ClipLabels:
    return ClipLabels(1, clip, "ab", 100, 80, truth.NUMBERING, CLASSES, frames)


def test_each_decision_gives_its_label(tmp_path: Path) -> None:
    text = """
        static van truck 0 50 30 70        # until it leaves
        static hedge ignore 80 0 100 20 20 39
        frame 10
        keep 1 as truck
        change 2 61 10 73 41
        add bicycle 60 40 80 60
        ignore box 90 60 100 80
        frame 20
        ignore 1
        hidden van
        frame 30
        none
    """
    assert decided(tmp_path, text).frames == (
        FrameLabels(
            10,
            (
                ObjectLabel("truck", 10, 20, 50, 40),
                ObjectLabel("person", 61, 10, 73, 41),
                ObjectLabel("bicycle", 60, 40, 80, 60),
                ObjectLabel("truck", 0, 50, 30, 70),
            ),
            ((90, 60, 100, 80),),
        ),
        FrameLabels(20, (), ((10, 20, 50, 40), (80, 0, 100, 20))),
        FrameLabels(30, (ObjectLabel("truck", 0, 50, 30, 70),), ((80, 0, 100, 20),)),
    )


REST = "frame 20\nnone\nframe 30\nnone\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{REST}", "street.txt: frame 10 has no decision"),
        (f"frame 10\n{REST}", "street.txt:1: frame 10 has no decision; write `none`"),
        (f"frame 11\nnone\n{REST}", "street.txt:1: frame 11 is not a frame of the proposals"),
        (f"frame 10\nkeep 7\n{REST}", "street.txt:2: frame 10 has no proposal 7; it has 1, 2"),
        (f"frame 10\nkeep 1 1\n{REST}", "street.txt:2: proposal 1 has two decisions"),
        (f"frame 10\nnone\nkeep 1\n{REST}", "street.txt:3: frame 10 has `none` and also an object"),
        (f"frame 10\nadd lorry 1 1 30 30\n{REST}", "street.txt:2: unknown class 'lorry'"),
        (f"frame 10\nadd dog 1 1 30 30\n{REST}", "street.txt, frame 10: dog 1 1 30 30: the class"),
        (f"frame 10\nadd car 1 1 101 30\n{REST}", "frame 10: car 1 1 101 30: the box is outside"),
        (f"frame 10\nadd car 9 1 3 30\n{REST}", "left must be less than right"),
        (f"frame 10\nadd car 1 1 12 12\n{REST}", "the longer side is below 12 px"),
        (f"frame 10\nadd car 1 1 12\n{REST}", "street.txt:2: write `add CLASS x1 y1 x2 y2`"),
        (f"frame 10\nadd car a b c d\n{REST}", "'a b c d' are not four numbers"),
        (f"frame 10\nkeep 1\nadd truck 10 20 50 41\n{REST}", "have an IoU of 0.95: keep one"),
        (f"frame 10\ndrop 1\nnone\n{REST}", "street.txt:2: unknown decision 'drop'"),
        (f"frame 10\nhidden van\n{REST}", "street.txt:2: no static object 'van' above this line"),
        (f"keep 1\nframe 10\nnone\n{REST}", "street.txt:1: keep is before the first `frame N`"),
        (f"frame 10\nnone\nframe 10\nnone\n{REST}", "street.txt:3: frame 10 already has decisions"),
    ],
)
def test_a_faulty_file_is_refused_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    found = faults(tmp_path, text)
    assert any(fault in each for each in found), found


def test_every_fault_of_a_file_is_listed(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "frame 10\nkeep 9\nframe 20\nadd dog 1\n")) == 5


def test_apply_writes_a_line_for_each_frame_that_read_understands(tmp_path: Path) -> None:
    folder = tmp_path / "scratch" / "street"
    folder.mkdir(parents=True)
    (folder / proposals.FILE).write_bytes(proposals.msgspec.json.encode(PROPOSALS))
    path = tmp_path / "street.txt"
    path.write_text(f"frame 10\nkeep 1 2\n{REST}", encoding="utf-8")
    out = tmp_path / "labels.json"
    command = ["--scratch", str(tmp_path / "scratch"), "apply", "street", str(path)]
    assert main([*command, "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert '{"frame":10,"boxes":[["car",10.0,20.0,50.0,40.0],' in text
    assert json.loads(text)["numbering"] == "seq: decoded frames, counted from 0"
    expected = (ObjectLabel("car", 10, 20, 50, 40), ObjectLabel("person", 60.5, 10, 72, 40))
    assert truth.read(out).frames[0] == FrameLabels(10, expected, ())
    path.write_text("frame 10\nkeep 1 2\n", encoding="utf-8")
    assert main([*command, "--out", str(tmp_path / "other.json")]) == 1
    assert not (tmp_path / "other.json").exists()


def test_labels_of_another_protocol_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    truth.write(path, labelled())
    path.write_text(
        path.read_text(encoding="utf-8").replace('"protocol": 1', '"protocol": 2'), encoding="utf-8"
    )
    with pytest.raises(LabelsInvalid, match="the protocol is version 2"):
        truth.read(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(LabelsInvalid, match=r"labels\.json: "):
        truth.read(path)


def test_disagreement_by_hand() -> None:
    """Boxes of 20 x 20; 10 px beside each other they have an IoU of 1/3, and 5 px beside, .6."""
    a = FrameLabels(
        10,
        (
            ObjectLabel("car", 0, 0, 20, 20),
            ObjectLabel("truck", 30, 0, 50, 20),
            ObjectLabel("person", 60, 0, 80, 20),
            ObjectLabel("person", 0, 40, 20, 60),
        ),
        ((40, 40, 80, 80),),
    )
    b = FrameLabels(
        10,
        (
            ObjectLabel("car", 5, 0, 25, 20),
            ObjectLabel("car", 30, 0, 50, 20),
            ObjectLabel("person", 70, 0, 90, 20),
            ObjectLabel("bicycle", 50, 40, 70, 60),
        ),
        ((0, 30, 12, 70),),
    )
    frames, groups = truth.compare(
        labelled(FrameLabels(5, (), ()), a), labelled(b, FrameLabels(20, (), ()))
    )
    assert frames == [10]
    cars, people, cycles = groups["vehicle"], groups["person"], groups["cycle"]
    assert (cars.both, cars.only_a, cars.only_b, cars.renamed) == (2, 0, 0, 1)
    assert cars.mean_iou == pytest.approx(0.8)
    assert cars.f1 == 1.0
    # The person at 0 40 lies by 12 of 20 px in an ignore region of the second labelling.
    assert (people.both, people.only_a, people.only_b, people.ignored) == (0, 1, 1, 1)
    assert people.mean_iou is None
    assert (cycles.only_b, cycles.ignored) == (0, 1)


def test_labels_of_two_clips_or_without_a_common_frame_are_not_compared() -> None:
    one = labelled(FrameLabels(1, (), ()))
    with pytest.raises(LabelsInvalid, match="of two clips: street and road"):
        truth.compare(one, labelled(FrameLabels(1, (), ()), clip="road"))
    with pytest.raises(LabelsInvalid, match="no frame in common"):
        truth.compare(one, labelled(FrameLabels(2, (), ())))


def test_frames_are_spread_evenly() -> None:
    assert proposals.chosen_frames(100, 4) == [12, 37, 62, 87]
    assert proposals.chosen_frames(3, 4) == [0, 1, 2]


def answer(*rows: tuple[str, float, tuple[float, float, float, float]]) -> Answer:
    boxes = np.array([row[2] for row in rows], np.float32).reshape(-1, 4)
    return boxes, np.array([row[1] for row in rows], np.float32), [row[0] for row in rows]


def test_networks_that_agree_make_one_proposal_with_the_mean_box() -> None:
    first = answer(("car", 0.2, (0, 0, 20, 20)), ("person", 0.3, (50, 0, 60, 30)))
    second = answer(("vehicle", 0.6, (4, 0, 24, 20)), ("dog", 0.9, (0, 50, 20, 70)))
    found = proposals.merged([first, second], ("car", "vehicle", "person"), (100, 80))
    # .25 x 0 + .75 x 4; the person is seen by one network and not surely, a dog is not asked for.
    assert [(each.label, each.box) for each in found] == [("car", (3.0, 0.0, 23.0, 20.0))]


def test_an_object_that_stays_keeps_its_number() -> None:
    moved = answer(("person", 0.9, (0, 0, 20, 40)), ("car", 0.8, (11, 20, 51, 40)))
    candidates = proposals.merged([moved], CLASSES, (100, 80))
    found = proposals.numbered(candidates, (CAR,), ("a",))
    assert [(each.number, each.label) for each in found] == [(1, "car"), (2, "person")]


def test_proposals_of_static_objects_are_left_out() -> None:
    static_objects = FrameLabels(10, (ObjectLabel("truck", 8, 20, 50, 40),), ())
    marks = pictures.without_static(PROPOSALS.frames[0], static_objects)
    assert [(mark.tag, mark.edges) for mark in marks] == [
        ("st", (8, 20, 50, 40)),
        ("2per", PERSON.box),
    ]


def test_a_box_is_drawn_outside_its_object_and_its_tag_beside_it() -> None:
    """The grey object keeps all of its pixels: only the box and its tag have the colour."""
    bgr = np.full((80, 100, 3), 90, np.uint8)
    colour = (0, 255, 255)
    marks = (Mark("1per", (40.0, 33.0, 60.0, 47.0), colour),)
    region = Region(0, 0, 100, 80)
    drawn = pictures.draw([View(bgr, region, "street", marks)])
    plain = pictures.draw([View(bgr, region, "street", ())])
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    scale = 5.0
    left, top = 30 + 40 * scale, 48 + 33 * scale
    right, bottom = 30 + 60 * scale, 48 + 47 * scale
    inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
    assert rows.size > 0
    assert not inside.any()
