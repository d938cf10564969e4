"""Prometheus metrics, made at each scrape from the store's counters and the status of the run.

`engine/hosted_stage` measures latencies when it publishes a result; `histograms` has their buckets.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, get_args

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
)

from framegate.pipeline.contracts.queries import BreakerState
from framegate.pipeline.contracts.results import Verdict
from framegate.pipeline.system.process import ProcessUse
from framegate.pipeline.telemetry.counter_metrics import Counters, counter_metrics
from framegate.pipeline.telemetry.histograms import SHORT_BOUNDS_S, upper_bounds
from framegate.pipeline.telemetry.metric_families import counter, gauge, of_each, one_gauge
from framegate.pipeline.telemetry.recording_sound_sinks import SINK_OUTCOMES, Beside
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus, StageTimes
from framegate.pipeline.telemetry.source_view import State, View

STATES: Final = get_args(State)
VERDICTS: Final = ("none", *get_args(Verdict))


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
    counters: Mapping[str, Counters]
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
        yield one_gauge("ready", "1 while all workers serve and the store answers", ready)
        yield from counter_metrics(self.counters, self.labels)
        yield from _asks(self.status.times)
        yield from _look_ups(self.status.times)
        yield from _footage(self.status.times)
        yield from _spans(self.status.times)
        yield from _promises(self.views)
        yield from _recordings(self.beside)
        yield from _sinks(self.beside)
        yield from self._sources()
        yield from self._stages()
        yield self._models()
        yield from self._workers()
        yield from self._store()

    def _sources(self) -> Iterator[Metric]:
        state = StateSetMetricFamily(
            "framegate_source_state", "State of a source", labels=["source"]
        )
        up = gauge("source_up", "1 while a source gives frames, or is done", "source")
        flight = gauge(
            "frames_in_flight", "Frames decoded, neither published nor dropped", "source"
        )
        credit = gauge("credit_left", "Frames that the decoder may still be ahead", "source")
        for view in self.views:
            state.add_metric([view.source], {name: view.state == name for name in STATES})
            up.add_metric([view.source], view.state in ("running", "finished"))
            flight.add_metric([view.source], view.in_flight)
            spec = self._spec(view.source)
            if spec is not None:
                credit.add_metric([view.source], max(0, spec.credit - view.in_flight))
        yield from (state, up, flight, credit)
        memory = gauge("frame_store_bytes", "Shared memory of a source", "source")
        slots = gauge("frame_store_slots", "Slots of a source's frame store", "source")
        used = gauge("frame_store_slots_used", "Slots of the frame store that are in use", "source")
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

    def _stages(self) -> Iterator[Metric]:
        wait = HistogramMetricFamily(
            "framegate_stage_queue_wait_seconds",
            "Wait of a batch's first frame since the stage before finished it",
            labels=["stage"],
        )
        work = HistogramMetricFamily(
            "framegate_stage_compute_seconds", "Work of a stage on a batch", labels=["stage"]
        )
        frames = counter("stage_frames", "Frames that a stage took", "stage")
        for stage, times in self.status.times.items():
            if stage == "decode":  # it has counts of spans only
                continue
            for family, spent in ((wait, times.waited), (work, times.worked)):
                family.add_metric(
                    [stage], upper_bounds(spent.counts, SHORT_BOUNDS_S), spent.sum_us / 1e6
                )
            frames.add_metric([stage], times.frames)
        yield from (wait, work, frames)

    def _workers(self) -> Iterator[Metric]:
        ready = gauge("worker_ready", "1 while it serves", "worker")
        again = counter("worker_restarts", "Restarts of the worker", "worker")
        memory = gauge("worker_resident_memory_bytes", "Resident memory", "worker")
        cpu = counter("worker_cpu_seconds", "CPU since it was started", "worker")
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
            yield one_gauge(name, f"Resident memory {whose}", self.own.resident_bytes)
            name = "framegate_supervisor_cpu_seconds"
            yield CounterMetricFamily(name, f"CPU {whose}", value=self.own.cpu_s)

    def _store(self) -> Iterator[Metric]:
        yield one_gauge("store_up", "1 while the store answers", self.store is not None)
        for metric, key, what in (
            ("store_memory_bytes", "used_memory", "Memory that the store uses"),
            ("store_aof_bytes", "aof_current_size", "Size of the store's append-only file"),
        ):
            value = (self.store or {}).get(key)
            if isinstance(value, int):
                yield one_gauge(metric, what, value)


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


def _asks(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of questions to the heavy model, by stage."""
    counts = {stage: spent.asks for stage, spent in times.items() if spent.asks is not None}
    yield from of_each(
        counter,
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
    left = gauge("heavy_asks_left", "Questions left in a budget", "stage", "source")
    for stage, counted in counts.items():
        for source, asks_left in counted.left.items():
            left.add_metric([stage, source], asks_left)
    yield left


def _promises(views: Sequence[View]) -> Iterator[Metric]:
    """Yield the metrics of promises, by source."""
    promises = {view.source: view.promise for view in views if view.promise is not None}
    yield from of_each(
        gauge,
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
    yield from of_each(
        counter,
        "stage",
        counts,
        ("cache_hits", "Inputs answered from the cache", "hits"),
        ("cache_misses", "Inputs that were looked up and not found", "misses"),
        ("cache_refused", "Looked-up inputs whose cached value did not fit", "refused"),
        ("cache_skipped", "Inputs that were not looked up, as hits are rare", "skipped"),
    )
    yield from of_each(
        gauge,
        "stage",
        counts,
        ("cache_sources", "Sources whose inputs are looked up", "sources"),
        ("cache_sources_off", "Sources with rare hits: only a sample is looked up", "off"),
    )


# -- Spans of traced frames.


def _spans(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of spans, by stage."""
    counts = {stage: spent.spans for stage, spent in times.items() if spent.spans is not None}
    yield from of_each(
        counter,
        "stage",
        counts,
        ("spans_sent", "Spans that the collector accepted", "sent"),
        ("spans_failed", "Spans that the collector did not accept in time", "failed"),
        ("spans_dropped", "Spans that were not made, as too many waited", "dropped"),
    )


# -- Footage that is kept to learn from.


def _footage(times: Mapping[str, StageTimes]) -> Iterator[Metric]:
    """Yield the metrics of the footage that `[learn] collect` stores."""
    counts = [spent.footage for spent in times.values() if spent.footage is not None]
    kept = counter("footage_kept", "Frames kept as footage", "why")
    dropped = counter("footage_dropped", "Frames that were due and were not kept", "reason")
    removed = counter(
        "footage_removed", "Frames of footage that were removed for their age or for space"
    )
    nbytes = gauge("footage_bytes", "Bytes of the kept footage")
    for footage in counts:
        for why, n in footage.kept.items():
            kept.add_metric([why], n)
        for reason, n in footage.dropped.items():
            dropped.add_metric([reason], n)
        removed.add_metric([], footage.removed)
        nbytes.add_metric([], footage.nbytes)
    yield from (kept, dropped, removed, nbytes)


# -- Recordings and sinks.


def _recordings(beside: Mapping[str, Beside]) -> Iterator[Metric]:
    views = {name: each.recording for name, each in beside.items() if each.recording is not None}
    does = gauge("recording", "1 while a source is recorded", "source")
    for name, view in views.items():
        does.add_metric([name], view.does == "records")
    yield does
    yield from of_each(
        gauge,
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
    limit = gauge("recorded_bytes_limit", "Bytes that all recordings together may take")
    if views:
        limit.add_metric([], max(view.most_bytes for view in views.values()))
    lost = gauge(
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
    messages = counter(
        "sink_messages",
        "Messages of a sink: delivered, muted (skipped on purpose), lost (entries never delivered)",
        *labels,
        "outcome",
    )
    waiting = gauge("sink_waiting", "Entries that wait for a sink", *labels)
    failing = gauge(
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
