"""Metrics of sources that follow from their counters in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily

from framegate.pipeline.contracts.drops import BURST, REPLACED, drops_of
from framegate.pipeline.telemetry.counters import (
    EMPTY_LOOKS,
    SOUND_BLOCKS,
    escalations_of,
    in_view,
    looks_of,
    objects_of,
    sounds_of,
    with_prefix,
)
from framegate.pipeline.telemetry.histograms import latency_bounds
from framegate.pipeline.telemetry.metric_families import counter, gauge

LOST, LAGGED, WOKEN = "lost:", "lagged:", "lazy:woken:"
Counters = Mapping[str, int]

# name of the metric, name of the counter, what it counts
_COUNTED = (
    ("frames_decoded", "decoded", "Frames decoded"),
    ("frames_published", "published", "Frames whose result was published, failed ones included"),
    ("frames_failed", "failed", "Frames published as failed"),
    ("frames_undecoded", "undecoded", "Frames of calm sources that were not decoded"),
    ("frames_skipped", "skipped", "Packets and frames that were not wanted ([sources] frames)"),
    ("packets_damaged", "damaged", "Packets that did not decode, and frames marked as damaged"),
    ("packets_late", "late", "Packets left out because decoding fell behind the camera"),
    ("lazy_audits", "lazy:audited", "Calm groups of pictures decoded only to measure misses"),
    ("lazy_misses", "lazy:missed", "Those in which only decoding showed a change"),
    ("empty_looks", EMPTY_LOOKS, "Looks at a change that found no object"),
    ("source_connects", "connects", "Times that a camera was connected"),
    ("source_connect_failures", "connect_failures", "Tries to connect that failed"),
    (
        "source_url_connects",
        "url_connects",
        "Times that the stream of url was connected, beside look_at",
    ),
    ("source_url_losses", "url_lost", "Times that the stream of url went away, beside look_at"),
)

# name of the metric, its description, the label that splits it, and how the counters are split
_SPLIT: Final[tuple[tuple[str, str, str, Callable[[Counters], Counters]], ...]] = (
    (
        "frames_dropped",
        "Frames dropped, by reason",
        "reason",
        lambda counters: drops_of({REPLACED: 0, BURST: 0, **counters}),
    ),
    (
        "source_losses",
        "Connections lost, by reason",
        "reason",
        lambda counters: with_prefix(counters, LOST),
    ),
    (
        "frames_lagged",
        "Frames that a side stage missed",
        "stage",
        lambda counters: with_prefix(counters, LAGGED),
    ),
    (
        "lazy_wakes",
        "Times that a calm source was woken",
        "reason",
        lambda counters: with_prefix(counters, WOKEN),
    ),
    (
        "objects",
        "Objects: tracks, each counted once when its label is final",
        "label",
        objects_of,
    ),
    (
        "frames_escalated",
        "Published frames that needed the heavy model: done, or the reason for no answer",
        "outcome",
        lambda counters: {"done": 0, **escalations_of(counters)},
    ),
)


def counter_metrics(
    counters: Mapping[str, Counters], labels: Mapping[str, Sequence[str]]
) -> Iterator[Metric]:
    """Yield the families that follow from counters.

    counters  by source
    labels    labels of the objects in the last result of each running source
    """
    yield from _counted(counters)
    yield from _split(counters)
    yield _looks(counters)
    yield _objects_in_view(counters, labels)
    yield from _sounds(counters)
    yield _latency(counters)


def _counted(counters: Mapping[str, Counters]) -> Iterator[Metric]:
    for metric, name, what in _COUNTED:
        family = counter(metric, what, "source")
        for source, counted in counters.items():
            family.add_metric([source], counted.get(name, 0))
        yield family


def _split(counters: Mapping[str, Counters]) -> Iterator[Metric]:
    for metric, what, label, split in _SPLIT:
        family = counter(metric, what, "source", label)
        for source, counted in counters.items():
            for value, n in split(counted).items():
                family.add_metric([source, value], n)
        yield family


def _looks(counters: Mapping[str, Counters]) -> Metric:
    what = "Published frames, by the part that was looked at (whole, part, no) and the reason"
    family = counter("looks", what, "source", "looked", "reason")
    for source, counted in counters.items():
        for looked, reasons in looks_of(counted).items():
            for reason, n in reasons.items():
                family.add_metric([source, looked, reason], n)
    return family


def _objects_in_view(
    counters: Mapping[str, Counters], labels: Mapping[str, Sequence[str]]
) -> Metric:
    family = gauge(
        "objects_in_view",
        "Objects in a source's last result; none while it does not run",
        "source",
        "label",
    )
    for source, seen in labels.items():
        for label, n in in_view(seen, counters.get(source, {})).items():
            family.add_metric([source, label], n)
    return family


def _latency(counters: Mapping[str, Counters]) -> Metric:
    family = HistogramMetricFamily(
        "framegate_arrival_to_publish_seconds",
        "From a frame's arrival to its result",
        labels=["source"],
    )
    for source, counted in counters.items():
        family.add_metric([source], latency_bounds(counted), None)
    return family


def _sounds(counters: Mapping[str, Counters]) -> Iterator[Metric]:
    """Yield the metrics of sound, by source."""
    blocks = counter("sound_blocks", "Blocks of sound decoded", "source")
    windows = counter(
        "sound_windows",
        "Blocks by the outcome of the window that ends with them: heard, unchanged and quiet (the "
        "network did not look), lost",
        "source",
        "outcome",
    )
    dropped = counter("sound_dropped", "Blocks of sound that no frame could carry", "source")
    damaged = counter("sound_damaged", "Packets of sound that did not decode", "source")
    for source, counted in counters.items():
        outcomes = sounds_of(counted)
        if not outcomes:
            continue
        blocks.add_metric([source], counted[SOUND_BLOCKS])
        dropped.add_metric([source], counted.get("sound_dropped", 0))
        damaged.add_metric([source], counted.get("sound_damaged", 0))
        for outcome, n in outcomes.items():
            windows.add_metric([source, outcome], n)
    yield from (blocks, windows, dropped, damaged)
