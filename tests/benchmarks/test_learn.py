"""benchmarks.learn: what it makes of parts, and what it says without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import all as every
from benchmarks import learn
from benchmarks.harness.code_behind import digest_of
from benchmarks.harness.kept_parts import KeptParts
from benchmarks.learn.clip import Clip
from benchmarks.learn.scores import Photographs, compared, f1, gain, people, sums_by
from framegate.models import coco
from framegate.models.boxes import Boxes, empty
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.learning.tuning import Look, Tuning

PERSON, CAR = coco.LABELS.index("person"), coco.LABELS.index("car")


@pytest.fixture
def data() -> Path:
    """The folder of test data."""
    folder = os.environ.get("FRAMEGATE_DATA")
    if not folder:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    return Path(folder)


def boxes(*rows: tuple[float, int], score: float = 0.9) -> Boxes:
    """Squares of 10 pixels at x, of a class."""
    corners = np.array([[x, 0, x + 10, 10] for x, _ in rows], np.float32).reshape(-1, 4)
    ids = np.array([class_id for _, class_id in rows], np.int32)
    return Boxes(corners, np.full(len(rows), score, np.float32), ids)


def test_a_part_is_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, Any]:
        calls.append(1)
        return {"a": [1, 2.5]}

    for _ in range(2):  # another run, in the same folder
        parts = KeptParts(tmp_path / "clip", "c0de")
        assert parts.of("one", make) == {"a": [1, 2.5]}
        assert "one" in parts
        assert "two" not in parts
    assert calls == [1]


def test_a_part_of_other_code_is_made_anew_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = tmp_path / "clip", "clip: its part is of other code, so it is measured again\n"
    assert KeptParts(place, "c0de").of("one", lambda: {"f1": 0.5}) == {"f1": 0.5}
    assert capsys.readouterr().out == "clip one\n"
    newer = KeptParts(place, "c1de")
    assert "one" not in newer
    assert newer.of("one", lambda: {"f1": 0.6}) == {"f1": 0.6}
    assert capsys.readouterr().out == f"{other}clip one\n"
    again = [KeptParts(place, code).of("one", dict)["f1"] for code in ("c1de", "c0de")]
    assert again == [0.6, 0.5]
    assert capsys.readouterr().out == ""


def test_parts_that_say_no_code_are_of_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.json").write_text("{}", encoding="utf-8")
    assert "one" not in KeptParts(tmp_path, "c0de")
    assert "is of other code" in capsys.readouterr().out


def test_a_part_that_failed_is_not_kept(tmp_path: Path) -> None:
    parts = KeptParts(tmp_path, "c0de")

    def fails() -> dict[str, Any]:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        parts.of("one", fails)
    assert "one" not in parts
    assert list(parts.folder.iterdir()) == []


def test_seeds_together_are_the_sum_of_their_boxes() -> None:
    """Pairs, ours, theirs: seeds of F1 1 and 0.5 have 0.75 together where both show as much."""
    good, poor, general = ([[n, 4, 4]] * 20 for n in (4, 2, 1))
    assert f1([good, poor]).middle == pytest.approx(0.75)
    found = gain([good, poor], general)
    assert (found.middle, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_labels_and_agreement_are_counted_on_pictures_of_their_own() -> None:
    """People labelled the second picture, where the shipped detector shows a ball too many."""
    people, ball = boxes((0, PERSON), (20, PERSON)), boxes((0, PERSON), (20, PERSON), (40, CAR))
    said = [
        TeacherLabels(ball, empty()),
        TeacherLabels(people, empty(), frozenset({PERSON, CAR})),
    ]
    looks = tuple(Look("clip", float(n), each, {}) for n, each in enumerate(said))
    found = Tuning((), looks, (), (ball, ball))
    tuned = [people, people]
    agreement = sums_by("teacher", found, tuned), sums_by("teacher", found, found.general)
    assert agreement == ([[2, 2, 3]], [[3, 3, 3]])
    labels = sums_by("labels", found, tuned), sums_by("labels", found, found.general)
    assert labels == ([[2, 2, 2]], [[2, 3, 2]])
    told = compared([labels[0]], labels[1])
    assert told is not None
    assert (told["frames"], told["boxes"], told["f1"], told["f1_shipped"]) == (1, 2, 1.0, 0.8)
    assert told["gain"] == 0.2
    assert compared([[]], []) is None


def test_people_are_found_by_least_score_and_ap_by_none() -> None:
    there = [boxes((0, PERSON), (20, PERSON)), boxes((0, PERSON))]
    raw = [boxes((0, PERSON), (20, PERSON), (40, CAR)), boxes((0, PERSON), score=0.3)]
    found = people(raw, there, {PERSON: 0.5, CAR: 0.5}, 0.6)
    assert found == {"precision": 1.0, "recall": 0.6667, "f1": 0.8, "ap": 1.0}


def test_photographs_are_told_by_class_and_crowds_are_neither_right_nor_wrong() -> None:
    there = Photographs((), (boxes((0, PERSON), (20, CAR)),), (boxes((40, PERSON)),))
    shown = [boxes((0, PERSON), (40, PERSON), (60, CAR))]
    assert there.f1(shown, {PERSON}) == 1.0
    assert there.f1(shown, {CAR}) == 0.0
    assert there.f1([empty()], {PERSON, CAR}) == 0.0


def clip(name: str, gain: float | None, *, chose: bool = True, usable: bool = True) -> learn.Row:
    """A row as `row` makes it, as far as means go."""
    over = None if gain is None else {"320": gain, "224": gain}
    row: learn.Row = {
        "clip": name, "chose": chose, "usable": usable, "refused": "", "networks": [],
        "gain": 0.1, "gain_shipped": 0.0, "cpu_minutes": None,
    }  # fmt: skip
    for size in learn.SIZES:
        span = None if gain is None else [gain - 0.01, gain + 0.01]
        row |= {f"{size}_gain": gain, f"{size}_gain_95": span, f"{size}_over": over}
    return row


def test_clips_that_chose_nothing_or_cannot_judge_are_in_no_mean() -> None:
    rows = [
        clip("pets2001-campus", 0.04),
        clip("bottle-detection", 0.02),
        clip("car-detection", -0.5, usable=False),
        clip("kitchen-pancake", -0.2, chose=False),
        clip("cctv-highway-overlay", None),
    ]
    found = learn.means(rows)
    assert found["mean_compact_gain"] == 0.03
    assert found["worst_compact_gain"] == 0.02
    assert found["mean_compact_gain_others"] == -0.2
    held = {bar.what: bar.held for bar in learn.bars(found)}
    assert held["compact: F1 over 416 tuned, mean"] is True
    assert held["accurate: F1 over 416 tuned, lower end, third of three crowded"] is None


@pytest.mark.long  # `make bench-quick` does so without torch
def test_without_torch_it_says_what_it_leaves_out_and_gives_all_keys(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learn, "find_spec", lambda _: None)
    result = learn.whole(learn.BENCHMARK.given(["--quick", "--data", str(data)]))
    printed = capsys.readouterr().out
    assert "left out: networks of their own, for which the extra `train` is needed" in printed
    by_main = dict.fromkeys(("version", "commit", "date", "code"), "") | {"quick": True}
    result["conditions"] |= by_main
    kept = every.kept("learn")
    assert kept is not None
    assert learn.BENCHMARK.differences(kept, result) == []
    assert result["clips"][0]["f1_compact"] is None
    assert result["networks"] == {"compact": {}, "accurate": {}}


def test_parts_of_other_options_are_not_taken_for_these(data: Path, tmp_path: Path) -> None:
    words = ["--data", str(data), "--kept", str(tmp_path)]
    quick = learn.BENCHMARK.given([*words, "--quick"])
    path = data / "clips" / "bottle-detection.mp4"
    parts = Clip(path, tmp_path, quick).parts
    assert parts.folder == tmp_path / "bottle-detection" / digest_of("benchmarks.learn")
    with pytest.raises(SystemExit, match="its parts are of other options"):
        Clip(path, tmp_path, learn.BENCHMARK.given(words))
