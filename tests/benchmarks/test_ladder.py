"""Parts of the benchmark of the ladder, on frames made by hand."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="pycocotools is not installed (bench extra)")

from benchmarks.gate_clips import GateClip
from benchmarks.gate_run import settings
from benchmarks.ladder import at_equal_cost, f1, measured, oracle
from benchmarks.ladder_run import Routed, Seen, kept_between, mixture, route
from benchmarks.ladder_scores import bars, group_of, summary, table
from benchmarks.ladder_sizes import Curve, fit, looked_for
from models.boxes import Boxes, empty
from models.ladder import LadderSettings
from models.picture import Picture
from stages.gate_options import GateOptions

SETTINGS = LadderSettings(rungs=(208, 416))
GIVEN = settings(GateOptions())


def square(side: float, score: float = 0.9) -> Boxes:
    xyxy = np.array([[20, 20, 20 + side, 20 + side]], np.float32)
    return Boxes(xyxy, np.array([score], np.float32), np.zeros(1, np.int32))


def clip(name: str = "made") -> GateClip:
    return GateClip(name, "busy", Path(f"{name}.mp4"), 20, 25.0)


def seen(low: Boxes, high: Boxes, heavy: Boxes, n: int = 20, stride: int = 2) -> Seen:
    made = Seen(clip(), stride, (416, 416), [i / 25 for i in range(n)])
    made.found = [[low, high] for _ in range(n)]
    made.heavy = [heavy for _ in range(0, n, stride)]
    made.ms, made.look_ms = [2.0, 8.0], [3.0, 9.0]
    return made


def test_compute_counts_probes_beside_the_rung_that_answers() -> None:
    large = square(200)
    routed = route(seen(large, large, large), SETTINGS)
    # The largest answers until the second probe (frames 0 and 4); probes after 6, then 9 looks.
    assert routed.rungs == (1,) * 5 + (0,) * 15
    assert routed.probes == 2
    assert routed.compute([2.0, 8.0]) == pytest.approx((5 * 8 + 15 * 2 + 2 * 8) / (20 * 8))


def test_small_objects_stay_with_the_largest_rung() -> None:
    routed = route(seen(empty(), square(16), square(16)), SETTINGS)
    assert routed == Routed((1,) * 20, 0)
    assert routed.compute([2.0, 8.0]) == 1


def test_oracle_takes_the_best_rung_and_of_equals_the_cheapest() -> None:
    assert oracle(seen(square(50), square(50), square(50)), 0.31) == {"raw_f1": 1, "compute": 0.25}
    assert oracle(seen(empty(), square(50), square(50)), 0.31) == {"raw_f1": 1, "compute": 1}
    nothing = seen(empty(), square(50), empty())
    assert oracle(nothing, 0.31) == {"raw_f1": 1, "compute": 0.25}


def test_only_frames_that_the_heavy_pass_saw_are_judged() -> None:
    made = seen(empty(), empty(), square(50))
    shown = [square(50) if n % 2 == 0 else empty() for n in range(20)]
    assert f1(made, shown) == 1
    assert f1(made, shown[::-1]) == 0


def test_a_mixture_costs_what_was_asked_for() -> None:
    made = seen(empty(), square(50), square(50))
    boxes = list(mixture(made, [0.25, 1.0], 0.625))
    assert sum(map(len, boxes)) in (10, 11)  # the first frame is always looked at by the upper rung
    assert all(map(len, mixture(made, [0.25, 1.0], 1.0)))


def test_boxes_stay_between_the_largest_rungs_looks() -> None:
    made = seen(empty(), square(50), square(50))
    assert f1(made, kept_between(made, 0.5, GIVEN)) == 1


def row(name: str, compute: float, f1: float, singles: tuple[float, float]) -> dict[str, object]:
    by_side = {"208": singles[0], "416": singles[1]}
    return {
        "clip": name,
        "group": group_of(clip(name)),
        "derived": False,
        "compute": compute,
        "look_compute": compute,
        "f1": f1,
        "raw_f1": f1,
        "ms": {"208": 2.0, "416": 8.0},
        "single_f1": by_side,
        "single_raw_f1": by_side,
        "oracle": {"raw_f1": 1.0, "compute": 0.5},
    }


def test_summary_by_hand() -> None:
    rows = [row("one", 0.4, 0.8, (0.6, 0.8)), row("two", 0.6, 0.9, (0.5, 1.0))]
    told = summary(rows)
    assert told["compute_ratio"] == 0.5
    assert told["f1_ratio"] == round(0.85 / 0.9, 4)
    assert told["best_single"] == "208"
    assert told["best_single_f1_ratio"] == round(0.55 / 0.9, 4)
    # A third of the way from a cost of .25 to one of 1: .55 + .35 / 3.
    assert told["interpolated_f1_ratio"] == round((0.55 + 0.35 / 3) / 0.9, 4)


def test_no_single_rung_may_cost_as_little() -> None:
    told = summary([row("one", 0.2, 0.8, (0.6, 0.8))])
    assert told["best_single"] is None
    assert told["best_single_f1_ratio"] is None


def test_the_result_says_which_bars_are_missed() -> None:
    rows = [row("car-detection", 0.7, 0.7, (0.6, 0.8)), row("other", 0.7, 0.7, (0.6, 0.8))]
    rivals = {"mixed_f1_ratio": 0.9, "carried_f1_ratio": 0.9}
    result = table(rows, dict.fromkeys(("all", "tuning", "judging", "scenes"), rivals))
    assert result["groups"]["tuning"]["clips"] == ["car-detection"]
    assert result["groups"]["judging"]["clips"] == ["other"]
    assert [bar.held for bar in bars(result)[:3]] == [False, False, True]


def test_a_clip_from_looks_to_its_row() -> None:
    made = seen(square(200), square(200), square(200))
    told = measured(made, route(made, SETTINGS), GIVEN, SETTINGS.rungs)
    assert told["single_raw_f1"] == {"208": 1.0, "416": 1.0}
    assert told["raw_f1"] == 1.0
    assert told["rungs"] == {"208": 0.75, "416": 0.25}
    assert told["judged"] == told["heavy_boxes"] == 10
    rivals = at_equal_cost([made], [told], GIVEN)
    assert rivals["judging"] == rivals["all"]
    assert "tuning" not in rivals


def test_the_curve_is_found_again() -> None:
    rng = np.random.default_rng(0)
    true = Curve(20.0, 0.5, 0.8)
    sides = np.exp2(rng.uniform(2, 8, 20_000))
    found = rng.random(len(sides)) < true.at(sides)
    fitted = fit(sides, found)
    assert fitted.half_px == pytest.approx(20, rel=0.05)
    assert fitted.octaves == pytest.approx(0.5, rel=0.1)
    assert fitted.most == pytest.approx(0.8, rel=0.05)


def test_sides_are_in_pixels_of_the_model() -> None:
    plane = np.zeros((100, 200), np.uint8)
    half = np.zeros((50, 100), np.uint8)
    picture = Picture(plane, half, half, "bt601", False)
    sides, found = looked_for([picture, picture], [square(50), empty()], [square(50)] * 2, 100)
    assert sides.tolist() == [25, 25]
    assert found.tolist() == [True, False]
