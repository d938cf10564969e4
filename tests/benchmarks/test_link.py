"""How the benchmark of the link counts, by hand."""

from __future__ import annotations

from benchmarks.link import bars
from benchmarks.link.pipeline import _published_twice
from framegate.pipeline.contracts.results import Result


def result(seq: int, pts: float | None) -> Result:
    return Result(
        v=1, source="camera", epoch=1, seq=seq, pts=pts, captured=0.0, captured_from="rtcp",
        published=0.0, width=64, height=48, outcome="detected", looked="whole", escalation="none",
        reason="age", objects=(), models=(), age_s=0.0, scene=0,
    )  # fmt: skip


def test_a_frame_with_two_results_was_published_twice() -> None:
    assert _published_twice([result(0, 0.0), result(1, 0.1), result(2, None), result(3, None)]) == 0
    assert _published_twice([result(0, 0.0), result(1, 0.1), result(2, 0.1)]) == 1


def test_each_loss_misses_a_target() -> None:
    accounts = {
        "lost": -1,
        "published_twice": 1,
        "certificates": [{"faults": ["k_max"]}],
        "certificates_hold": False,
    }
    place = {
        "pipeline": {"whole": {"response_mean_ms": 20.0}, "all": accounts},
        "questions": {"all": {"ended_once": False}},
    }
    coding = {"jpeg": {"times_fewer_bytes": 12.0}, "points_lost": 0.0}
    verdicts = {bar.what: bar.held for bar in bars({"coding": coding, "places": {"a": place}})}
    assert [what for what, held in verdicts.items() if held is False] == [
        "a: frames lost",
        "a: results published twice",
        "a: all certificates are valid",
        "a: each question ended once",
    ]
    accounts |= {"lost": 0, "published_twice": 0, "certificates": []}
    verdicts = {bar.what: bar.held for bar in bars({"coding": coding, "places": {"a": place}})}
    assert verdicts["a: frames lost"] is verdicts["a: results published twice"] is True
    assert verdicts["a: all certificates are valid"] is None
