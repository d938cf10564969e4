"""Prometheus metrics, made at each scrape from the store's counters and the status of the run.

`engine/hosted_stage` measures latencies when it publishes a result; `histograms` has their buckets.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, get_args

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)

from framegate.pipeline.contracts.drops import BURST, REPLACED, drops_of
from framegate.pipeline.contracts.queries import BreakerState
from framegate.pipeline.contracts.results import Verdict
from framegate.pipeline.system.process import ProcessUse
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
from framegate.pipeline.telemetry.histograms import SHORT_BOUNDS_S, latency_bounds, upper_bounds
from framegate.pipeline.telemetry.recording_sound_sinks import SINK_OUTCOMES, Beside
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus, StageTimes
from framegate.pipeline.telemetry.source_view import State, View

STATES: Final = get_args(State)
VERDICTS: Final = ("none", *get_args(Verdict))
LOST, LAGGED, WOKEN = "lost:", "lagged:", "lazy:woken:"

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


@dataclass(frozen=True, eq=False)
class Scrape:
    """The values of one scrape.

    counters, views   by source, read at one moment for each source
    models            models of the last result, by source
    labels            labels of the objects in the last result that did not fail, by running source
    uses              memory and CPU by worker
    own               memory and CPU of the supervisor
    store             INFO of the store; None while it does not answer
    beside            recording, sound and sinks by source
    folder            data folder of the run, which identifies it
    """

    status: RunStatus
    counters: Mapping[str, Mapping[str, int]]
    views: Sequence[View]
    models: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[str]]
    uses: Mapping[str, ProcessUse]
    own: ProcessUse | None
    store: Mapping[str, object] | None
    beside: Mapping[str, Beside] = field(default_factory=dict)
    folder: str = ""

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, as a prometheus_client collector."""
        build = {"version": version("framegate"), "python": platform.python_version()}
        yield InfoMetricFamily("framegate_build", "Versions of Framegate and Python", value=build)
        run = {"folder": self.folder}
        yield InfoMetricFamily("framegate_run", "The run, by its data folder", value=run)
        ready = self.store is not None and not self.status.unready
        yield _one("ready", "1 while all workers serve and the store answers", ready)
        yield from self._counted()
        yield from self._by_reason()
        yield self._looks()
        yield from self._objects()
        yield _escalations(self.counters)
        yield from _asks(self.status.times)
        yield from _look_ups(self.status.times)
        yield from _footage(self.status.times)
        yield from _sounds(self.counters)
        yield from _promises(self.views)
        yield from _recordings(self.beside)
        yield from _sinks(self.beside)
        yield from self._sources()
        yield self._latency()
        yield from self._stages()
        yield self._models()
        yield from self._workers()
        yield from self._store()

    def _counted(self) -> Iterator[Metric]:
        for metric, counter, what in _COUNTED:
            family = _counter(metric, what, "source")
            for source, counters in self.counters.items():
                family.add_metric([source], counters.get(counter, 0))
            yield family

    def _by_reason(self) -> Iterator[Metric]:
        dropped = _counter("frames_dropped", "Frames dropped, by reason", "source", "reason")
        losses = _counter("source_losses", "Connections lost, by reason", "source", "reason")
        for source, counters in self.counters.items():
            for reason, n in drops_of({REPLACED: 0, BURST: 0, **counters}).items():
                dropped.add_metric([source, reason], n)
            for name, n in counters.items():
                if name.startswith(LOST):
                    losses.add_metric([source, name.removeprefix(LOST)], n)
        lagged = _counter("frames_lagged", "Frames that a side stage missed", "source", "stage")
        for source, counters in self.counters.items():
            for name, n in counters.items():
                if name.startswith(LAGGED):
                    lagged.add_metric([source, name.removeprefix(LAGGED)], n)
        woken = _counter("lazy_wakes", "Times that a calm source was woken", "source", "reason")
        for source, counters in self.counters.items():
            for reason, n in with_prefix(counters, WOKEN).items():
                woken.add_metric([source, reason], n)
        yield from (dropped, losses, lagged, woken)

    def _looks(self) -> Metric:
        what = "Published frames, by the part that was looked at (whole, part, no) and the reason"
        family = _counter("looks", what, "source", "looked", "reason")
        for source, counters in self.counters.items():
            for looked, reasons in looks_of(counters).items():
                for reason, n in reasons.items():
                    family.add_metric([source, looked, reason], n)
        return family

    def _objects(self) -> Iterator[Metric]:
        labels = ("source", "label")
        came = _counter(
            "objects", "Objects: tracks, each counted once when its label is final", *labels
        )
        for source, counters in self.counters.items():
            for label, n in objects_of(counters).items():
                came.add_metric([source, label], n)
        now = _gauge(
            "objects_in_view",
            "Objects in a source's last result; none while it does not run",
            *labels,
        )
        for source, seen in self.labels.items():
            for label, n in in_view(seen, self.counters.get(source, {})).items():
                now.add_metric([source, label], n)
        yield from (came, now)

    def _sources(self) -> Iterator[Metric]:
        state = StateSetMetricFamily(
            "framegate_source_state", "State of a source", labels=["source"]
        )
        up = _gauge("source_up", "1 while a source gives frames, or is done", "source")
        flight = _gauge(
            "frames_in_flight", "Frames decoded, neither published nor dropped", "source"
        )
        credit = _gauge("credit_left", "Frames that the decoder may still be ahead", "source")
        for view in self.views:
            state.add_metric([view.source], {name: view.state == name for name in STATES})
            up.add_metric([view.source], view.state in ("running", "finished"))
            flight.add_metric([view.source], view.in_flight)
            spec = self._spec(view.source)
            if spec is not None:
                credit.add_metric([view.source], max(0, spec.credit - view.in_flight))
        yield from (state, up, flight, credit)
        memory = _gauge("frame_store_bytes", "Shared memory of a source", "source")
        slots = _gauge("frame_store_slots", "Slots of a source's frame store", "source")
        used = _gauge(
            "frame_store_slots_used", "Slots of the frame store that are in use", "source"
        )
        for source in self.status.sources:
            memory.add_metric([source.name], source.shared_bytes)
            slots.add_metric([source.name], source.slots)
        for view in self.views:
            spec = self._spec(view.source)
            if spec is not None:
                used.add_metric([view.source], min(spec.slots, view.in_flight))
        yield from (memory, slots, used)

    def _models(self) -> Metric:
        labels = ["source", "model", "precision"]
        models = InfoMetricFamily(
            "framegate_model", "Model and precision of the last result", labels=labels
        )
        for source, made_by in self.models.items():
            for name in made_by:
                models.add_metric([source, *model_parts(name)], {})
        return models

    def _spec(self, name: str) -> SourceStatus | None:
        return next((source for source in self.status.sources if source.name == name), None)

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            "framegate_arrival_to_publish_seconds",
            "From a frame's arrival to its result",
            labels=["source"],
        )
        for source, counters in self.counters.items():
            family.add_metric([source], latency_bounds(counters), None)
        return family

    def _stages(self) -> Iterator[Metric]:
        wait = HistogramMetricFamily(
            "framegate_stage_queue_wait_seconds",
            "Wait of a batch's first frame since the stage before finished it",
            labels=["stage"],
        )
        work = HistogramMetricFamily(
            "framegate_stage_compute_seconds", "Work of a stage on a batch", labels=["stage"]
        )
        frames = _counter("stage_frames", "Frames that a stage took", "stage")
        for stage, times in self.status.times.items():
            for family, spent in ((wait, times.waited), (work, times.worked)):
                family.add_metric(
                    [stage], upper_bounds(spent.counts, SHORT_BOUNDS_S), spent.sum_us / 1e6
                )
            frames.add_metric([stage], times.frames)
        yield from (wait, work, frames)

    def _workers(self) -> Iterator[Metric]:
        ready = _gauge("worker_ready", "1 while it serves", "worker")
        again = _counter("worker_restarts", "Restarts of the worker", "worker")
        memory = _gauge("worker_resident_memory_bytes", "Resident memory", "worker")
        cpu = _counter("worker_cpu_seconds", "CPU since it was started", "worker")
        for worker in self.status.workers:
            ready.add_metric([worker.name], worker.ready)
            again.add_metric([worker.name], worker.restarts)
            use = self.uses.get(worker.name)
            if use is not None:
                memory.add_metric([worker.name], use.resident_bytes)
                cpu.add_metric([worker.name], use.cpu_s)
        yield from (ready, again, memory, cpu)
        if self.own is not None:
            name, whose = "supervisor_resident_memory_bytes", "of the supervisor"
            yield _one(name, f"Resident memory {whose}", self.own.resident_bytes)
            name = "framegate_supervisor_cpu_seconds"
            yield CounterMetricFamily(name, f"CPU {whose}", value=self.own.cpu_s)

    def _store(self) -> Iterator[Metric]:
        yield _one("store_up", "1 while the store answers", self.store is not None)
        for metric, key, what in (
            ("store_memory_bytes", "used_memory", "Memory that the store uses"),
            ("store_aof_bytes", "aof_current_size", "Size of the store's append-only file"),
        ):
            value = (self.store or {}).get(key)
            if isinstance(value, int):
                yield _one(metric, what, value)


def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"framegate_{name}", what, labels=labels)


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"framegate_{name}", what, labels=labels)


def _of_each(
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


def _one(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"framegate_{name}", what, value=value)


def model_parts(name: str) -> tuple[str, str]:
    """Split MODEL-PRECISION@DIGEST of a result into MODEL@DIGEST and PRECISION.

    A name of another form, from a user's stage, has no precision.
    """
    kind, at, digest = name.partition("@")
    model, dash, precision = kind.rpartition("-")
    if not (at and dash):
        return name, ""
    return f"{model}{at}{digest}", precision


# -- Questions to the heavy model, and the promise.


def _escalations(counters: Mapping[str, Mapping[str, int]]) -> Metric:
    """Return the published frames that needed the heavy model, by source."""
    family = _counter(
        "frames_escalated",
        "Published frames that needed the heavy model: done, or the reason for no answer",
        "source",
        "outcome",
    )
    for source, counted in counters.items():
        for outcome, n in {"done": 0, **escalations_of(counted)}.items():
            family.add_metric([source, outcome], n)
    return family


def _asks(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of questions to the heavy model, by stage."""
    counts = {stage: spent.asks for stage, spent in times.items() if spent.asks is not None}
    yield from _of_each(
        _counter,
        "stage",
        counts,
        ("heavy_answers", "Questions that the heavy model answered", "answered"),
        ("heavy_joined", "Questions that were equal to one in progress", "joined"),
        ("heavy_sent_bytes", "Bytes of pictures sent over the network", "sent_bytes"),
        ("heavy_wire_seconds", "Time on the network, without the model", "wire_s"),
        ("heavy_wait_seconds", "Time from questions to their answers", "waited_s"),
    )
    breaker = StateSetMetricFamily(
        "framegate_heavy_breaker",
        "State of the circuit breaker of the heavy model",
        labels=["stage"],
    )
    for stage, counted in counts.items():
        states = {state: counted.breaker == state for state in get_args(BreakerState)}
        breaker.add_metric([stage], states)
    yield breaker
    left = _gauge("heavy_asks_left", "Questions left in a budget", "stage", "source")
    for stage, counted in counts.items():
        for source, asks_left in counted.left.items():
            left.add_metric([stage, source], asks_left)
    yield left


def _promises(views: Sequence[View]) -> Iterator[Metric]:
    """Yield the metrics of promises, by source."""
    promises = {view.source: view.promise for view in views if view.promise is not None}
    yield from _of_each(
        _gauge,
        "source",
        promises,
        ("promise_period", "Number of the current period", "period"),
        ("promise_served_frames", "Frames published in the current period", "served"),
        ("promise_audits_drawn", "Frames of the period that the coin drew", "drawn"),
        ("promise_audits_settled", "Finished audits of the period", "settled"),
        ("promise_audits_wrong", "Audited frames of the period that were wrong, or lost", "caught"),
        ("promise_alarm", "1 while all frames are asked about after an alarm", "alarmed"),
    )
    verdict = StateSetMetricFamily(
        "framegate_promise_verdict", "Verdict of the last finished period", labels=["source"]
    )
    for source, news in promises.items():
        last = news.verdict or "none"
        verdict.add_metric([source], {name: name == last for name in VERDICTS})
    yield verdict


# -- Answers that are looked up.


def _look_ups(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of the answer cache, by stage."""
    counts = {stage: spent.cache for stage, spent in times.items() if spent.cache is not None}
    yield from _of_each(
        _counter,
        "stage",
        counts,
        ("cache_hits", "Inputs answered from the cache", "hits"),
        ("cache_misses", "Inputs that were looked up and not found", "misses"),
        ("cache_refused", "Looked-up inputs whose cached value did not fit", "refused"),
        ("cache_skipped", "Inputs that were not looked up, as hits are rare", "skipped"),
    )
    yield from _of_each(
        _gauge,
        "stage",
        counts,
        ("cache_sources", "Sources whose inputs are looked up", "sources"),
        ("cache_sources_off", "Sources with rare hits: only a sample is looked up", "off"),
    )


# -- Footage that is kept to learn from.


def _footage(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of the footage that `[learn] collect` stores."""
    counts = [spent.footage for spent in times.values() if spent.footage is not None]
    kept = _counter("footage_kept", "Frames kept as footage", "why")
    dropped = _counter("footage_dropped", "Frames that were due and were not kept", "reason")
    removed = _counter(
        "footage_removed", "Frames of footage that were removed for their age or for space"
    )
    nbytes = _gauge("footage_bytes", "Bytes of the kept footage")
    for footage in counts:
        for why, n in footage.kept.items():
            kept.add_metric([why], n)
        for reason, n in footage.dropped.items():
            dropped.add_metric([reason], n)
        removed.add_metric([], footage.removed)
        nbytes.add_metric([], footage.nbytes)
    yield from (kept, dropped, removed, nbytes)


# -- Sound.


def _sounds(counters: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    """Yield the metrics of sound, by source."""
    blocks = _counter("sound_blocks", "Blocks of sound decoded", "source")
    windows = _counter(
        "sound_windows",
        "Blocks by the outcome of the window that ends with them: heard, unchanged and quiet (the "
        "network did not look), lost",
        "source",
        "outcome",
    )
    dropped = _counter("sound_dropped", "Blocks of sound that no frame could carry", "source")
    damaged = _counter("sound_damaged", "Packets of sound that did not decode", "source")
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


# -- Recordings and sinks.


def _recordings(beside: Mapping[str, Beside]) -> Iterator[Metric]:
    views = {name: each.recording for name, each in beside.items() if each.recording is not None}
    does = _gauge("recording", "1 while a source is recorded", "source")
    for name, view in views.items():
        does.add_metric([name], view.does == "records")
    yield does
    yield from _of_each(
        _gauge,
        "source",
        views,
        ("recorded_seconds", "Seconds of a source that are kept", "seconds"),
        ("recorded_bytes", "Bytes of a source that are kept", "nbytes"),
        (
            "recorded_pinned_bytes",
            "Bytes of recordings that clips of episodes need",
            "pinned_bytes",
        ),
    )
    limit = _gauge("recorded_bytes_limit", "Bytes that all recordings together may take")
    if views:
        limit.add_metric([], max(view.most_bytes for view in views.values()))
    lost = _gauge(
        "recording_lost_seconds",
        "Seconds of the last day that were not recorded",
        "source",
        "reason",
    )
    for name, view in views.items():
        for why, seconds in view.lost.items():
            lost.add_metric([name, why], seconds)
    yield from (limit, lost)


def _sinks(beside: Mapping[str, Beside]) -> Iterator[Metric]:
    labels = ("sink", "source")
    messages = _counter(
        "sink_messages",
        "Messages of a sink: delivered, muted (skipped on purpose), lost (entries never delivered)",
        *labels,
        "outcome",
    )
    waiting = _gauge("sink_waiting", "Entries that wait for a sink", *labels)
    failing = _gauge(
        "sink_failing_since_seconds",
        "UNIX time since which a sink's receiver accepts nothing; 0 while it accepts messages",
        *labels,
    )
    for each in beside.values():
        for view in each.sinks:
            names = [view.sink, view.source]
            for outcome in SINK_OUTCOMES:
                messages.add_metric([*names, outcome], getattr(view, outcome))
            waiting.add_metric(names, view.waiting)
            failing.add_metric(names, view.since or 0.0)
    yield from (messages, waiting, failing)
