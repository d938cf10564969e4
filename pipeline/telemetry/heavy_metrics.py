"""What Prometheus scrapes of questions to the heavy model, and of the promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, get_args

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    StateSetMetricFamily,
)

from framegate.pipeline.records import Verdict
from framegate.pipeline.retry import BreakerState
from framegate.pipeline.telemetry.durations import StageTimes
from framegate.pipeline.telemetry.looks import escalations_of
from framegate.pipeline.telemetry.view import View

_STATES: Final = ("none", *get_args(Verdict))


def escalations(counters: Mapping[str, Mapping[str, int]]) -> Metric:
    """Published frames that the heavy model was to be asked about, by source."""
    family = CounterMetricFamily(
        "framegate_frames_escalated",
        "Published frames that the heavy model was to be asked about: done, or why it was not",
        labels=["source", "outcome"],
    )
    for source, counted in counters.items():
        for outcome, n in {"done": 0, **escalations_of(counted)}.items():
            family.add_metric([source, outcome], n)
    return family


def asks(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Questions of each stage that asks."""
    counts = {stage: spent.asks for stage, spent in times.items() if spent.asks is not None}
    for metric, what, value in (
        ("heavy_answers", "Questions that the heavy model looked at", "answered"),
        ("heavy_joined", "Questions that were the same as one under way", "joined"),
        ("heavy_sent_bytes", "Bytes of pictures that went over a wire", "sent_bytes"),
        ("heavy_wire_seconds", "Time on the wire, looking not counted", "wire_s"),
        ("heavy_wait_seconds", "Time from questions to their answers", "waited_s"),
    ):
        family = CounterMetricFamily(f"framegate_{metric}", what, labels=["stage"])
        for stage, counted in counts.items():
            family.add_metric([stage], getattr(counted, value))
        yield family
    breaker = StateSetMetricFamily(
        "framegate_heavy_breaker", "Whether the heavy model is asked at all", labels=["stage"]
    )
    for stage, counted in counts.items():
        states = {state: counted.breaker == state for state in get_args(BreakerState)}
        breaker.add_metric([stage], states)
    yield breaker
    left = GaugeMetricFamily(
        "framegate_heavy_asks_left", "Asks that a budget has left", labels=["stage", "source"]
    )
    for stage, counted in counts.items():
        for source, asks_left in counted.left.items():
            left.add_metric([stage, source], asks_left)
    yield left


def promises(views: Sequence[View]) -> Iterator[Metric]:
    """Where the promise of each source that has one stands."""
    told = [(view.source, view.promise) for view in views if view.promise is not None]
    for metric, what, value in (
        ("promise_period", "Number of the period that frames are served in", "period"),
        ("promise_served_frames", "Frames served in it", "served"),
        ("promise_audits_drawn", "Of these, frames that the coin chose", "drawn"),
        ("promise_audits_settled", "Audits of these that are over", "settled"),
        ("promise_audits_wrong", "Of these, frames that were wrong, or lost", "caught"),
        ("promise_alarm", "1 while all frames are asked about after an alarm", "alarmed"),
    ):
        family = GaugeMetricFamily(f"framegate_{metric}", what, labels=["source"])
        for source, news in told:
            family.add_metric([source], float(getattr(news, value)))
        yield family
    verdict = StateSetMetricFamily(
        "framegate_promise_verdict", "Of the last period that is over", labels=["source"]
    )
    for source, news in told:
        last = news.verdict or "none"
        verdict.add_metric([source], {state: state == last for state in _STATES})
    yield verdict
