"""What Prometheus scrapes of answers that are looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from framegate.pipeline.telemetry.durations import StageTimes


def look_ups(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Of each stage that looks answers up."""
    counts = {stage: spent.cache for stage, spent in times.items() if spent.cache is not None}
    for metric, what in (
        ("hits", "Inputs answered by what an equal one was answered"),
        ("misses", "Inputs that were looked up and not found"),
        ("refused", "Of these, inputs where what was found was no answer to them"),
        ("skipped", "Inputs that were not looked up, as hits are rare"),
    ):
        family = CounterMetricFamily(f"framegate_cache_{metric}", what, labels=["stage"])
        for stage, counted in counts.items():
            family.add_metric([stage], getattr(counted, metric))
        yield family
    groups = GaugeMetricFamily(
        "framegate_cache_groups", "Groups of sources that share answers", labels=["stage"]
    )
    off = GaugeMetricFamily(
        "framegate_cache_groups_off",
        "Of these, groups of which a sample is looked up",
        labels=["stage"],
    )
    for stage, counted in counts.items():
        groups.add_metric([stage], counted.groups)
        off.add_metric([stage], counted.off)
    yield from (groups, off)
