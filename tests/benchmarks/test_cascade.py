"""How the cascade's benchmark counts: by hand; and a made clip through the stages themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cascade.live import config_text, response
from benchmarks.cascade.replay import Arm, Replayed, ReplaySetting, Sight, replay
from benchmarks.cascade.scores import (
    ap_of_people,
    bars,
    first_kept,
    gap_closed,
    lasting,
    least_sure,
    mended,
    scores,
    summary,
)
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import DetectorAnswers
from framegate.models import matching
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.results import Object, Result
from framegate.stages.detections import Detections
from tests.support.footage import steady, write_scene

Row = dict[str, Any]
NEVER, SOMETIMES = ReplaySetting(1.0, 0.0, 1.0), ReplaySetting(0.1, 2.0, 4.0)
ALWAYS = ReplaySetting(0.0, 1000.0, 1000.0)


def boxes(*rows: tuple[int, float]) -> Boxes:
    """Squares of 10 px, one beside the other: class, score."""
    left = 20 * np.arange(len(rows), dtype=np.float32)
    corners = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    scores = np.array([score for _, score in rows], np.float32)
    return Boxes(corners, scores, np.array([class_id for class_id, _ in rows], np.int32))


ONE, OTHER = boxes((0, 0.9)), boxes((1, 0.9))


def test_the_plain_threshold_takes_the_frames_that_are_closest_to_it() -> None:
    """Scores .3, .1 and .2 from .5; a frame that shows nothing is not asked about."""
    light = [boxes((0, 0.2), (0, 0.95)), boxes((0, 0.6)), empty(), boxes((0, 0.3))]
    assert least_sure(light, 0.5, 2).tolist() == [False, True, False, True]
    assert least_sure(light, 0.5, 4).tolist() == [True, True, False, True]
    assert not least_sure(light, 0.5, 0).any()


def test_a_plain_answer_mends_its_own_frame() -> None:
    heavy = [ONE, OTHER, ONE]
    light, perfect = (matching.matched(side, heavy) for side in ([ONE, ONE, OTHER], heavy))
    asked = np.array([False, True, False])
    assert matching.f1(light) == pytest.approx(1 / 3)
    assert matching.f1(mended(light, perfect, asked)) == pytest.approx(2 / 3)


def test_an_answer_that_lasts_serves_the_frames_after_it() -> None:
    """Light takes a standing thing for another; heavy is asked once."""
    wrong = Object(7, "bicycle", 1, 0.5, (0.0, 0.0, 10.0, 10.0), "detected")
    found = Detections("detected", "whole", "age", (wrong,), ())
    sights = [Sight(found, 0.1 * number) for number in range(4)]
    shown = lasting(sights, [ONE] * 4, np.array([False, True, False, False]))
    assert [frame.class_ids.tolist() for frame in shown] == [[1], [0], [0], [0]]


def test_the_gap_closed_is_of_what_light_lacks() -> None:
    assert gap_closed(0.8, 0.95) == pytest.approx(0.75)
    assert gap_closed(0.8, 0.7) == pytest.approx(-0.5)
    assert gap_closed(1.0, 1.0) is None
    assert gap_closed(None, 0.9) is None


def test_precision_is_of_people_in_labelled_frames() -> None:
    """The first frame is not labelled, what is no person does not count, the rest is cut off."""
    shown = [empty(), boxes((0, 0.9), (1, 0.95)), ONE, empty()]
    truth = [Tracked(0.0, ONE, np.ones(1, np.int32))] * 2
    assert ap_of_people(shown, truth, 2) == 1.0
    assert ap_of_people([empty(), ONE, empty()], truth, 2) == 0.5


def replayed(n: int) -> Replayed:
    """Light takes all things for others, a cascade every other one; heavy 100 ms, detect 10."""
    run = Replayed((64, 48), light_s=0.01 * n, heavy_s=[0.1])
    run.light, run.heavy = [OTHER] * n, [ONE] * n
    found = Detections("detected", "whole", "age", (), ())
    run.sights = [Sight(found, 0.1 * number) for number in range(n)]
    half = [ONE if number % 2 else OTHER for number in range(n)]
    for setting, shown in ((NEVER, run.light), (SOMETIMES, half), (ALWAYS, run.heavy)):
        asked = [ours is ONE for ours in shown]
        run.arms[setting] = Arm(shown, asked, 0, 0.0)
    return run


def clip_row(clip: str, group: str, n: int = 200) -> Row:
    told = {"clip": clip, "group": group, **scores(replayed(n), SOMETIMES, 0.5)}
    return told | {"mean_ms": 40.0, "escalated_mean_ms": None, "p99_ms": 90.0}


def test_a_clip_is_told_by_agreement_and_cost() -> None:
    row = clip_row("idle-room", "quiet")
    assert (row["f1_light"], row["f1"], row["f1_plain"]) == (0.0, 0.5, 0.5)
    assert (row["gap_closed"], row["escalated_share"], row["plain_share"]) == (0.5, 0.5, 0.5)
    assert row["cpu_ratio_heavy"] == pytest.approx(0.1 + 0.5)
    assert row["cpu_ratio_light"] == pytest.approx(6.0)
    assert row["gain"][0] == 0.5
    assert [point["f1"] for point in row["curve"]] == [0.0, 0.5, 1.0]
    assert [point["ms"] for point in row["curve"]] == [10.0, 60.0, 110.0]


def test_too_few_boxes_say_nothing() -> None:
    row = clip_row("idle-room", "quiet", 50)
    assert row["f1"] is row["f1_light"] is row["gap_closed"] is row["lead"] is None
    assert row["cpu_ratio_heavy"] == pytest.approx(0.6)
    assert summary([row], ["idle-room"])["quiet_gap_closed"] is None


def test_the_means_are_those_of_the_quiet_scenes(tmp_path: Path) -> None:
    from benchmarks.cascade import figure  # Matplotlib takes a second to load

    rows = [clip_row("idle-room", "quiet"), clip_row("car-detection", "busy")]
    rows[1] |= {"gap_closed": 0.9, "mean_ms": 60.0}
    found = summary(rows, ["idle-room"])
    assert (found["quiet_gap_closed"], found["quiet_cpu_ratio_heavy"]) == (0.5, 0.6)
    assert [row["f1"] for row in found["curve"]["quiet"]] == [0.0, 0.0, 0.5, 1.0]
    assert found["kept_99"]["quiet"]["doubt"] == ALWAYS.doubt
    assert first_kept(found["curve"]["all"][:2]) is None
    said = list(bars(found))
    assert [bar.held for bar in said[:2]] == [False, False]
    assert any("car-detection: response" in bar.what and bar.held is False for bar in said)
    assert figure.draw(found, tmp_path / "cascade.png").stat().st_size > 1000


def result(seq: int, captured: float, published: float, **more: Any) -> Result:
    given: Row = {"v": 1, "source": "clip", "epoch": 1, "seq": seq, "pts": captured}
    given |= {"captured": captured, "captured_from": "rtcp", "published": published}
    given |= {"width": 64, "height": 48, "outcome": "detected", "looked": "whole"}
    given |= {"escalation": "none", "reason": "age", "objects": (), "models": ()}
    return Result(**given, age_s=0.0, scene=0, **more)


def test_a_response_is_from_the_time_stamp_to_the_publication() -> None:
    results = [result(n, at, at + 0.15) for n, at in ((0, 0.0), (1, 0.1), (2, 0.2), (4, 0.5))]
    results[1] = result(1, 0.1, 0.4, degraded="late")
    found = response(results, 1, 12.0)
    assert (found.frames, found.dropped, found.stamped) == (4, 1, 4)
    assert found.mean_ms == pytest.approx((150 + 300 + 150 + 150) / 4)
    assert (found.p50_ms, found.p99_ms) == (150, 300)
    assert (found.escalated_mean_ms, found.degraded) == (None, {"late": 1})


def test_only_the_place_to_ask_is_changed_for_a_camera() -> None:
    url = "rtsp://127.0.0.1/clip"
    without, shipped = (config_text(url, escalates) for escalates in (False, True))
    changed = set(shipped.splitlines()) ^ set(without.splitlines())
    assert changed == {'place = "local"', 'place = "off"'}
    assert read_config("test", shipped).sources["clip"].url == url


@pytest.mark.whole_run
def test_always_is_the_heavy_pass_and_never_the_light_one(tmp_path: Path) -> None:
    """A made clip through the stages themselves, twice: what was asked once is not asked again."""
    path = write_scene(tmp_path / "scene.mkv", steady(6, 10), (160, 96))
    clip = GateClip("scene", "quiet", path, 5, 10.0)
    heavy = detector.load("heavy", threads=1, min_score=0.02)  # it sees something anywhere
    for known in (0, 5):
        with DetectorAnswers(tmp_path / "answers", heavy) as answers:
            assert len(answers) == known
            run = replay(clip, (NEVER, ALWAYS), heavy, answers, tmp_path)
    assert len(run.light) == len(run.heavy) == len(run.heavy_s) == 5
    assert sum(len(boxes) for boxes in run.heavy) > 0
    assert (run.share(NEVER), run.share(ALWAYS)) == (0.0, 1.0)
    assert run.cost_ms(ALWAYS) > run.heavy_ms
    for name, shown, expected in (
        ("never", run.arms[NEVER].shown, run.light),
        ("always", run.arms[ALWAYS].shown, run.heavy),
    ):
        assert matching.f1(matching.matched(shown, expected)) == 1.0, name
