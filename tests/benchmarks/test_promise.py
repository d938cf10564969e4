"""The benchmark of the promise: its configuration, its figures, and a short run of the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.engine_run import RunFailed
from benchmarks.harness.heavy_truth import Truth
from benchmarks.promise import Found, figures
from benchmarks.promise.composed_hour import Seen, compose
from benchmarks.promise.run import SOURCE, Promised, Served, config_text, serve
from framegate.models import coco
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector
from framegate.pipeline.config.config import read_config
from framegate.pipeline.promise.certificate import Certificate, close
from framegate.pipeline.promise.period import Period, Promise
from tests.benchmarks.test_composed_hour import parts

KEYS = [
    *("certified", "alpha", "delta", "n", "k", "realised_error", "escalated_share"),
    *("oracle_share", "audit_share", "cpu_ratio_vs_heavy"),
]
PERSON = Boxes(
    np.array([[0, 0, 10, 10]], np.float32), np.array([0.41], np.float32), np.zeros(1, np.int32)
)


def served(shown: list[Boxes], escalated: list[int], cpu_ms: float) -> Served:
    return Served(shown, np.array(escalated, np.bool_), 0, cpu_ms, 1.0)


def closed() -> Certificate:
    """Of 8 frames two may be wrong; one of four audits found one, and that is certified."""
    promise = Promise("counts", alpha=0.25, confidence=0.5, frames=8, audited=0.6)
    period = Period(number=1, served=8, drawn=4, settled=4, caught=1)
    return close(period, promise, bytes(32), SOURCE, "")


def test_figures_by_hand() -> None:
    """Of 8 frames the heavy pass sees a person in the last four, and light alone in none.

    It was asked about frames 4 and 6: its answers mend these and 7, so 5 is wrong.
    """
    heavy = [empty()] * 4 + [PERSON] * 4
    never = served([empty()] * 8, [0] * 8, 10.0)
    promised = served([*heavy[:5], empty(), *heavy[6:]], [0, 0, 0, 0, 1, 0, 1, 0], 30.0)
    composed = [()] * 3 + [(Seen(0, 0, (0, 0, 10, 10), 0.9),)] * 5
    truth = [Truth(bytes([n // 4]), boxes) for n, boxes in enumerate(heavy)]
    found = figures(Found(composed, truth, never, promised, closed(), 100.0))
    assert list(found)[: len(KEYS)] == KEYS
    assert [found[key] for key in KEYS] == [
        *(True, 0.25, 0.5, 4, 1, 0.125, 0.25),
        *(0.375, 0.5, 0.3),
    ]
    assert (found["never"]["error"], found["lasting_oracle"]["asked_share"]) == (0.5, 0.125)
    assert (found["promised"]["composed_error"], found["composed_heavy_error"]) == (0.25, 0.125)
    assert found["promised"]["asked_pictures_share"] == 0.125
    nothing = {"asked_share": 0.0, "error": 0.5, "margin": 0.0}
    assert found["plain_threshold"]["at_realised"] == nothing
    assert found["heavy_count_changes"] == 1
    assert found["wrong_so_far"][-1] == [8, 1]


@pytest.mark.parametrize("promised", [None, Promised(0.3, 500)])
def test_the_engine_is_told_what_is_promised(promised: Promised | None) -> None:
    config = read_config("benchmark", config_text(Path("a b.mp4"), promised))
    assert config.sources[SOURCE].url == "a b.mp4"
    options = next(stage.options for stage in config.stages if stage.name == "escalate")
    told = options["escalate"]["place"], options["promise"]["measure"]
    assert told == (("off", "off") if promised is None else ("local", "counts"))
    if promised is not None:
        assert (options["escalate"]["doubt"], options["promise"]["frames"]) == (0.3, 500)


@pytest.mark.whole_run
def test_a_truth_of_other_classes_than_the_runs_judges_nothing(tmp_path: Path) -> None:
    """A heavy model of other classes would find wrong what the run does not report."""
    compose(parts(), path := tmp_path / "hour.mp4", 60, 0)
    with pytest.raises(RunFailed, match="the certificates are about"):
        serve(path, 60, Promised(0.1, 60), detector.policy_id("heavy", coco.CAMERA))


@pytest.mark.long
def test_all_that_is_served_comes_with_its_certificate(tmp_path: Path) -> None:
    compose(parts(), path := tmp_path / "hour.mp4", 400, 0)
    found, certificates = serve(path, 400, Promised(0.1, 400), detector.policy_id("heavy"))
    assert len(found.shown) == len(found.escalated) == 400
    assert found.cpu_ms > 0
    assert [one.frames for one in certificates] == [400]
