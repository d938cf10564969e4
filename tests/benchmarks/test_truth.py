"""benchmarks.truth: matching, intervals and footage, each against expectations by hand."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("trackeval", reason="trackeval is not installed (bench extra)")

from benchmarks.figure_tables import SHAPES
from benchmarks.truth import BENCHMARK, NIGHT, bars, scores
from benchmarks.truth.clips import (
    LEAST_FRAMES,
    ROLES,
    SHORT,
    LabelledClip,
    LabelledFrame,
    NotLabelled,
    at_recorded_speed,
    find_clips,
    lesson,
)
from benchmarks.truth.configurations import (
    DEFAULT,
    UnknownConfiguration,
    configurations,
    for_groups,
)
from benchmarks.truth.scores import JudgedFrame
from benchmarks.truth.single_looks import least_score
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import policy
from framegate.models.matching import MatchCounts
from tests.support.footage import steady, write_scene

PETS = "pets09-s2l1-view001-part1"
GROUPS = ("person", "vehicle", "cycle")
Edges = tuple[float, float, float, float]
Row = tuple[str, Edges, float, int]


def square(left: float, top: float = 0.0, side: float = 10.0) -> Edges:
    return left, top, left + side, top + side


def frame_of(
    *rows: tuple[str, Edges], ignored: Sequence[Edges] = (), number: int = 0
) -> LabelledFrame:
    edges = np.array([row[1] for row in rows], np.float32).reshape(-1, 4)
    ids = np.array([GROUPS.index(row[0]) for row in rows], np.int32)
    boxes = Boxes(edges, np.ones(len(rows), np.float32), ids)
    return LabelledFrame(number, boxes, np.zeros(len(rows), np.int32), tuple(ignored))


def clip_of(*frames: LabelledFrame, path: Path = Path("clip.mp4")) -> LabelledClip:
    return LabelledClip(PETS, path, None, GROUPS, frames)


def judge(frame: LabelledFrame, *objects: Row) -> JudgedFrame:
    return scores.judge(clip_of(frame).objects(objects, 0.0), frame)


# -- Matching.


def test_classes_of_a_group_match_and_groups_do_not() -> None:
    frame = frame_of(("vehicle", square(0)), ("cycle", square(50)), ("person", square(100)))
    judgement = judge(
        frame,
        ("truck", square(0), 0.9, 1),
        ("motorcycle", square(50), 0.8, 2),
        ("car", square(100), 0.7, 3),
    )
    assert judgement.is_true.tolist() == [True, True, False]
    assert judgement.counts() == (2, 3, 3)
    assert [judgement.counts(group) for group in range(3)] == [(0, 0, 1), (1, 2, 1), (1, 1, 1)]


def test_a_class_that_is_not_labelled_in_the_clip_is_not_judged() -> None:
    judgement = judge(frame_of(("person", square(0))), ("dog", square(50), 0.9, 1))
    assert judgement.counts() == (0, 0, 1)


def test_the_highest_score_takes_the_label_even_if_another_object_fits_better() -> None:
    frame = frame_of(("person", square(0)))
    judgement = judge(frame, ("person", square(0), 0.5, 1), ("person", square(2), 0.9, 2))
    assert judgement.is_true.tolist() == [False, True]  # IoU 8 / 12 of the second


def test_an_overlap_of_half_is_enough_and_less_is_not() -> None:
    frame = frame_of(("person", (0.0, 0.0, 30.0, 10.0)), ("person", (0.0, 50.0, 30.0, 60.0)))
    judgement = judge(
        frame,
        ("person", (10.0, 0.0, 40.0, 10.0), 0.9, 1),  # 20 / 40
        ("person", (10.5, 50.0, 40.5, 60.0), 0.9, 2),  # 19.5 / 40.5
    )
    assert judgement.is_true.tolist() == [True, False]


def test_an_unlabelled_object_counts_for_nothing_with_half_its_area_in_an_ignore_region() -> None:
    frame = frame_of(ignored=[(0.0, 0.0, 100.0, 5.0)])
    shown = [("person", square(0), 0.9, 1), ("person", square(50, top=0.2), 0.8, 2)]
    assert judge(frame, shown[0]).counts() == (0, 0, 0)  # 50 of 100 pixels
    assert judge(frame, shown[1]).counts() == (0, 1, 0)  # 48 of 100


def test_two_ignore_regions_do_not_add_up() -> None:
    regions = [(0.0, 0.0, 4.0, 10.0), (6.0, 0.0, 10.0, 10.0)]
    judgement = judge(frame_of(ignored=regions), ("person", square(0), 0.9, 1))
    assert judgement.counts() == (0, 1, 0)


def test_a_labelled_object_counts_inside_an_ignore_region_too() -> None:
    frame = frame_of(("person", square(0)), ignored=[(0.0, 0.0, 100.0, 100.0)])
    judgement = judge(frame, ("person", square(0), 0.9, 1), ("person", square(50), 0.9, 2))
    assert judgement.counts() == (1, 1, 1)


def test_rates_by_hand() -> None:
    counts = np.array([[1, 2, 1], [2, 2, 4]])
    rates = scores.rates(counts)
    assert rates == {"precision": 3 / 4, "recall": 3 / 5, "f1": 6 / 9}
    empty = scores.rates(np.zeros((0, 3), np.int64))
    assert empty == {"precision": None, "recall": None, "f1": None}


def test_average_precision_by_hand() -> None:
    """Right, wrong, right by score, of 4 labels: precision 1 at recall .25, 2/3 at .5."""
    frames = [
        judge(
            frame_of(("person", square(0)), ("person", square(200))),
            ("person", square(0), 0.9, 1),
            ("person", square(50), 0.8, 2),
        ),
        judge(
            frame_of(("person", square(0)), ("person", square(200))),
            ("person", square(0), 0.7, 1),
        ),
    ]
    assert scores.precision_curve_area(frames) == pytest.approx((1 + 2 / 3) / 4)


def test_a_row_splits_frames_with_and_without_a_look() -> None:
    frames = [
        judge(frame_of(("person", square(0))), ("person", square(0), 0.9, 1)),
        judge(frame_of(("person", square(0))), ("person", square(50), 0.9, 1)),
        judge(frame_of(), ("person", square(50), 0.9, 1)),
    ]
    row = scores.row(clip_of(), frames, np.array([True, False, False]))
    assert (row["precision"], row["recall"], row["f1"]) == (0.3333, 0.5, 0.4)
    assert (row["f1_looked"], row["f1_carried"]) == (1.0, 0.0)
    assert (row["false_looked"], row["false_carried"]) == (0, 2)
    assert row["looked"] == 0.3333
    assert row["groups"]["person"]["labels"] == 2
    assert row["groups"]["vehicle"] == {"precision": None, "recall": None, "f1": None, "labels": 0}
    assert row["hota"] is None
    assert row["id_switches"] is None


# -- Intervals.


def some_counts(frames: int, seed: int) -> MatchCounts:
    """Counts that change slowly, as those of neighbouring frames do."""
    draw = random.Random(seed)
    rows = []
    share = 0.8
    for _ in range(frames):
        share = min(0.95, max(0.4, share + draw.gauss(0, 0.05)))
        shown = 8 + draw.randrange(5)
        labels = 8 + draw.randrange(5)
        rows.append((round(share * min(shown, labels)), shown, labels))
    return np.array(rows, np.int64)


def naive_f1(rows: Sequence[Sequence[int]]) -> float:
    pairs = sum(row[0] for row in rows)
    return 2 * pairs / sum(row[1] + row[2] for row in rows)


def naive_interval(sides: Sequence[MatchCounts], draws: int) -> tuple[float, float]:
    """The interval of the first side's F1 less the second's, block by block, in plain Python."""
    draw = random.Random(7)
    n = len(sides[0])
    blocks = [range(begin, min(begin + 10, n)) for begin in range(0, n, 10)]
    values = []
    for _ in range(draws):
        frames: list[int] = []
        for block in draw.choices(blocks, k=len(blocks)):
            frames += block
        f1s = [naive_f1([side[number] for number in frames]) for side in sides]
        values.append(f1s[0] - sum(f1s[1:]))
    values.sort()
    return values[round(0.025 * draws)], values[round(0.975 * draws) - 1]


@pytest.mark.parametrize("frames", [60, 124])
def test_the_interval_of_f1_is_that_of_a_plain_loop(frames: int) -> None:
    counts = some_counts(frames, seed=frames)
    bounds = scores.interval(counts)
    low, high = naive_interval([counts], 4000)
    assert bounds.mean == pytest.approx(naive_f1(counts.tolist()))
    assert (bounds.low, bounds.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    assert bounds.low < bounds.mean < bounds.high


def test_the_interval_of_a_gain_draws_the_same_frames_on_both_sides() -> None:
    ours = some_counts(100, seed=1)
    theirs = ours - [1, 0, 0]
    bounds = scores.gain(ours, theirs)
    low, high = naive_interval([ours, theirs], 4000)
    assert (bounds.low, bounds.high) == pytest.approx((low, high), abs=0.12 * (high - low))
    alone = scores.interval(ours)
    assert bounds.high - bounds.low < (alone.high - alone.low) / 4
    none = scores.gain(ours, ours)
    assert (none.mean, none.low, none.high) == (0, 0, 0)


def test_fewer_than_two_blocks_have_no_interval() -> None:
    assert math.isnan(scores.interval(some_counts(19, seed=0)).low)
    assert not math.isnan(scores.interval(some_counts(20, seed=0)).low)


# -- Labels.


def video(path: Path, frames: int) -> Path:
    """H.264 with B-frames, 30 frames per second in whole milliseconds."""
    return write_scene(path, steady(frames, 30.0), codec="libx264", options={"bf": "2"})


def data_folder(folder: Path, frames: int = 30, **facts: object) -> Path:
    """A data folder with one clip, named as that of PETS 2009, and labels of its frames 1 to 2."""
    (folder / "clips").mkdir()
    (folder / "gt" / PETS).mkdir(parents=True)
    clip = video(folder / "clips" / f"{PETS}.mp4", frames)
    truth = {"annotated_frames": [1, 2]}
    item = {"name": PETS, "file": f"clips/{clip.name}", "ground_truth": truth, **facts}
    (folder / "MANIFEST.json").write_text(json.dumps({"items": [item]}), encoding="utf-8")
    rows = (
        "1,7,10,20,30,40,1,1,1",
        "1,8,0,0,5,5,0,3,1",  # a car: confidence 0
        "1,9,50,0,5,5,0,7,1",  # a person who stands still: a distractor
        "2,7,11,20,30,40,1,-1,-1,-1",
        "3,7,12,20,30,40,1,1,1",  # not among the annotated frames
    )
    (folder / "gt" / PETS / "gt.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_labels_of_motchallenge(tmp_path: Path) -> None:
    (clip,) = find_clips(data_folder(tmp_path, dataset_fps=7), [], tmp_path)
    assert (clip.groups, clip.fps, clip.role) == (("person",), 7, "reports")
    first, second = clip.frames
    assert (first.number, second.number) == (0, 1)
    assert first.boxes.xyxy.tolist() == [[10, 20, 40, 60]]
    assert first.tracks.tolist() == [7]
    assert first.ignored == ((50, 0, 55, 5),)
    assert second.ignored == ()


def test_labels_by_eye_come_first(tmp_path: Path) -> None:
    by_eye = {
        "protocol": 1,
        "clip": PETS,
        "sha256": "0" * 64,
        "width": 64,
        "height": 48,
        "numbering": "seq: decoded frames, counted from 0",
        "classes": ["car", "truck", "person"],
        "frames": [
            {"frame": 4, "boxes": [["truck", 1, 2, 31, 42]], "ignore": [[0, 0, 8, 8]]},
            {"frame": 9, "boxes": [], "ignore": []},
        ],
    }
    (tmp_path / f"{PETS}.json").write_text(json.dumps(by_eye), encoding="utf-8")
    (clip,) = find_clips(data_folder(tmp_path), [], tmp_path)
    assert clip.groups == ("vehicle", "person")
    assert [frame.number for frame in clip.frames] == [4, 9]
    assert clip.frames[0].boxes.class_ids.tolist() == [0]
    assert clip.frames[0].ignored == ((0, 0, 8, 8),)
    assert not clip.has_tracks


def test_a_clip_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotLabelled, match="--clips nowhere: no such labelled clip"):
        find_clips(data_folder(tmp_path), ["nowhere"], tmp_path)


def test_clips_with_labels_of_persons_and_targets_choose_no_settings() -> None:
    assert {ROLES[PETS], ROLES[NIGHT]} == {"reports"}


# -- Footage.


def stamps_and_pictures(path: Path) -> tuple[list[float], list[int]]:
    """Time stamps of the decoded frames, and the mean luma of each."""
    stamps = []
    lumas = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            stamps.append(float(frame.pts * frame.time_base))
            lumas.append(int(1000 * frame.to_ndarray(format="gray").mean()))
    return stamps, lumas


def test_the_time_stamps_are_those_of_the_recording(tmp_path: Path) -> None:
    data = data_folder(tmp_path, frames=30, dataset_fps=7)
    (clip,) = find_clips(data, [], tmp_path)
    footage = at_recorded_speed(clip, tmp_path, 20)
    stamps, pictures = stamps_and_pictures(footage.path)
    assert (footage.frames, footage.fps) == (len(stamps), 7)
    assert len(stamps) >= 20
    assert np.diff(stamps[:20]) == pytest.approx(1 / 7, abs=0.006)
    assert pictures[:20] == stamps_and_pictures(clip.path)[1][:20]


def test_a_short_clip_is_played_over(tmp_path: Path) -> None:
    (clip,) = find_clips(data_folder(tmp_path, frames=30), [], tmp_path)
    footage = at_recorded_speed(clip, tmp_path)
    stamps, pictures = stamps_and_pictures(footage.path)
    assert footage.frames == len(stamps) >= LEAST_FRAMES
    assert footage.passes == 7
    assert np.diff(stamps) == pytest.approx(1 / 30, abs=0.002)
    assert pictures[30:60] == pictures[:30]


def test_a_long_clip_at_its_own_speed_is_read_as_it_is(tmp_path: Path) -> None:
    (clip,) = find_clips(data_folder(tmp_path, frames=SHORT), [], tmp_path)
    assert at_recorded_speed(clip, tmp_path).path == clip.path


def test_a_lesson_is_none_of_the_frames_that_judge(tmp_path: Path) -> None:
    frames = [frame_of(number=number) for number in (0, 100, 290)]
    path = video(tmp_path / "clip.mp4", 300)
    given = lesson(clip_of(*frames, path=path), tmp_path)
    assert given.judges_from == 150
    pictures = stamps_and_pictures(given.footage.path)[1]
    assert pictures[:148] == stamps_and_pictures(path)[1][:148]
    assert len(pictures) <= 153  # the last B-frames need a later picture
    with pytest.raises(NotLabelled, match="too few frames beside those that judge"):
        lesson(clip_of(*frames[:1], path=path), tmp_path)


# -- Configurations and targets.


def test_every_shipped_detector_is_a_configuration() -> None:
    chosen = {each.changes.get("stages.detect", {}).get("detector") for each in configurations()}
    shipped = set(tomllib.loads(policy.POLICY.read_text(encoding="utf-8")))
    assert shipped - {"light"} <= chosen
    assert configurations()[0].name == DEFAULT


def test_an_unknown_configuration_is_refused() -> None:
    with pytest.raises(UnknownConfiguration, match="--configurations quick: unknown; must be any"):
        configurations(["default", "quick"])


def test_targets_are_those_of_clips_that_report() -> None:
    def row(clip: str, configuration: str, gain: float) -> dict[str, object]:
        return {
            "clip": clip,
            "role": ROLES[clip],
            "configuration": configuration,
            "f1": 0.9,
            "f1_gain": gain,
        }

    result = {
        "rows": [
            row(PETS, "default", 0.0),
            row(PETS, "gate-off", 0.02),
            row("pets2001-campus", "gate-off", 0.5),
        ]
    }
    verdicts = {bar.what: bar.verdict for bar in bars(result)}
    assert verdicts == {
        "people of PETS 2009, default: F1": "held",
        f"{PETS}: F1 lost by the gate": "MISSED",
    }


def test_the_table_has_intervals_where_there_are_some() -> None:
    figures = ("f1", "f1_low", "f1_high", "f1_gain", "f1_gain_low", "f1_gain_high")
    others = ("precision", "recall", "ap", "hota", "id_switches", "f1_looked", "f1_carried")
    row = {"clip": "road", "role": "chooses", "configuration": DEFAULT, "cpu_ms": 7.25}
    row |= dict.fromkeys(others) | dict(
        zip(figures, (0.8, 0.7, 0.9, -0.1, -0.2, 0.05), strict=True)
    )
    lines = SHAPES["truth"]({"rows": [row, row | {"role": "reports", "f1_gain_low": None}]})
    first, second = lines.splitlines()[2:]
    assert first.startswith("| road | default | - | - | 0.800, 0.700 to 0.900 | -0.100 | - |")
    assert "| road (chooses) | default | - | - | 0.800, 0.700 to 0.900 | -0.100, " in second
    assert "-0.100, -0.200 to +0.050 | - | - | - | 7.25 | - | - |" in second


@pytest.mark.whole_run
def test_a_whole_run_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_folder(tmp_path)
    words = ["--data", str(data), "--quick", "--configurations", DEFAULT]
    assert BENCHMARK.main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    assert (row["clip"], row["configuration"], row["frames"]) == (PETS, DEFAULT, 2)
    assert row["labels"] == 2
    assert row["recall"] == 0  # footage without people
    assert row["cpu_ms"] > 0
    assert row["hota"] == 0


def test_a_clip_of_bottles_gets_a_detector_that_looks_for_bottles() -> None:
    groups = ("person", "vehicle", "cycle", "bottle")
    assert for_groups({}, groups[:3]) == {}
    changes = for_groups({"gate": {"mode": "off"}}, groups)
    assert changes is not None
    assert changes["gate"] == {"mode": "off"}
    assert changes["stages.detect"] == {"classes": [*coco.CAMERA, "bottle"]}
    assert for_groups({"stages.detect": {"detector": "surveillance"}}, groups) is None


def test_the_least_score_from_which_enough_boxes_are_right() -> None:
    groups = ("person",)
    labels_of_two = Boxes(
        np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32),
        np.ones(2, np.float32),
        np.zeros(2, np.int32),
    )
    frame = LabelledFrame(0, labels_of_two, np.zeros(2, np.int32), ())
    clip = LabelledClip(PETS, Path("none"), None, groups, (frame,))
    rows = [
        ("person", (0.0, 0.0, 10.0, 10.0), 0.9, 0),
        ("person", (50.0, 50.0, 60.0, 60.0), 0.5, 0),  # nothing is there
        ("person", (20.0, 0.0, 30.0, 10.0), 0.4, 0),
    ]
    judged = [scores.judge(clip.objects(rows, 0.0), frame)]
    # All three boxes: two of three are right. Above .5: one of one.
    assert least_score(judged, 0.6)["min_score"] == 0.05
    found = least_score(judged, 0.9)
    assert (found["min_score"], found["precision"], found["recall"]) == (0.5, 1.0, 0.5)
    assert found["f1"] == pytest.approx(2 / 3)
    assert least_score([scores.judge(clip.objects(rows[1:2], 0.0), frame)], 0.5)["min_score"] == 1.0
