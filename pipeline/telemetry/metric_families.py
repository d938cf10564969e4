"""Metric families of Prometheus with the names of Framegate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


def counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    """Return an empty counter `framegate_<name>`."""
    return CounterMetricFamily(f"framegate_{name}", what, labels=labels)


def gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    """Return an empty gauge `framegate_<name>`."""
    return GaugeMetricFamily(f"framegate_{name}", what, labels=labels)


def of_each(
    kind: Callable[[str, str, str], CounterMetricFamily | GaugeMetricFamily],
    label: str,
    records: Mapping[str, object],
    *metrics: tuple[str, str, str],
) -> Iterator[Metric]:
    """Yield a family for each metric.

    records  record with the values, by value of the label
    metrics  name of the metric, its description, and the field of the record
    """
    for metric, description, field_name in metrics:
        family = kind(metric, description, label)
        for name, record in records.items():
            family.add_metric([name], float(getattr(record, field_name)))
        yield family


def one_gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"framegate_{name}", what, value=value)
