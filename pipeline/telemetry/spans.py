"""Spans of OpenTelemetry for a sample of the frames: a trace for a frame, a span for each stage.

All ids derive from the run, the source, the position and the stage. So all processes choose the
same frames without a message between them, a span knows the id of its parent, and a frame that a
restarted worker does again has the same spans. A span is made from times that the engine measures
anyway. A queue of bounded length and a thread of the SDK send it; no hop waits for them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.spec import StageSpec, WorkerSpec
from framegate.pipeline.telemetry.run_status import SpanCounts

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 2048  # spans of a process that wait to be sent; further ones are dropped
CLOSE_S: Final = 2.0  # for sending the last spans when the process ends
DECODE: Final = "decode"
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2 ** 64 by the golden ratio: multiples spread evenly
_MASK: Final = (1 << 64) - 1


class FrameSample:
    """The frames of a run that are traced. All processes of the run have the same."""

    def __init__(self, run: str, ratio: float) -> None:
        """ratio: share of the frames, 0 to 1"""
        self._run = run
        self._limit = int(ratio * (1 << 64))
        self._offsets: dict[str, tuple[int, int]] = {}  # by source: an epoch, and its offset

    def has(self, source: str, position: Position) -> bool:
        """Return whether a frame is traced."""
        epoch, offset = self._offsets.get(source, (0, 0))
        if epoch != position.epoch:
            digest = sha256(f"{self._run}/{source}/{position.epoch}".encode()).digest()
            offset = int.from_bytes(digest[:8])
            self._offsets[source] = (position.epoch, offset)
        return (position.seq * _GOLDEN + offset) & _MASK < self._limit

    def trace_id(self, source: str, position: Position) -> int:
        """Return the id of the trace of a frame."""
        return int.from_bytes(sha256(f"{self._run}/{source}/{position}".encode()).digest()[:16])


def span_id(trace_id: int, stage: str) -> int:
    """Return the id of the span of a stage."""
    return int.from_bytes(sha256(f"{trace_id:032x}/{stage}".encode()).digest()[:8])


class StageWork(NamedTuple):
    """A call of a stage with a batch.

    began, ended  monotonic seconds
    frames        number of frames in the batch
    """

    spec: StageSpec
    began: float
    ended: float
    frames: int


class _Made(msgspec.Struct):
    """The fields of a published result that its span has."""

    outcome: str
    looked: str
    reason: str = ""
    escalation: str = ""
    degraded: str | None = None


_made: Final = msgspec.msgpack.Decoder(_Made)


class FrameSpans:
    """The spans of a worker. Methods are called in its main thread.

    counts  of spans, by stage, since the start of the process
    """

    def __init__(self, spec: WorkerSpec) -> None:
        """Load the SDK, and prepare the exporter that OTEL_EXPORTER_OTLP_* describe."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self.sample = FrameSample(spec.run, spec.trace_ratio)
        self.counts: dict[str, SpanCounts] = {}
        self._stages = {stage.name: stage for stage in spec.stages}
        described = {"service.instance.id": spec.run, "framegate.worker": spec.name}
        attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        named = [pair.partition("=")[0].strip() for pair in attributes.split(",")]
        if "OTEL_SERVICE_NAME" not in os.environ and "service.name" not in named:
            described["service.name"] = "framegate"
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            ALWAYS_ON,
            Resource.create(described),
            shutdown_on_exit=False,
            id_generator=self._ids,  # type: ignore[arg-type]
        )
        exporter = _counting(OTLPSpanExporter(), self.counts)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED))
        self._tracer = self._provider.get_tracer("framegate")

    def add_decoded(self, source: str, position: Position, record: Record, now: float) -> None:
        """Add the span of a frame that was decoded between its arrival and now."""
        self._add(
            DECODE,
            source,
            position,
            (min(record.arrived, now), now),
            {"framegate.dropped_before": record.dropped},
        )

    def add_work(
        self,
        work: StageWork,
        source: str,
        position: Position,
        record: Record,
        output: bytes | str | None,
    ) -> None:
        """Add the span of a stage's work on a frame.

        output: of the stage; or the reason why it has none because it failed; None: it has none
        """
        since = work.began
        attributes: dict[str, Any] = {
            "framegate.work_s": work.ended - work.began,
            "framegate.batch_frames": work.frames,
        }
        if record.arrived:  # a published result, the input of a side stage, has no such time
            since = min(since, record.arrived + record.taken_us / 1e6)
            attributes["framegate.wait_s"] = work.began - since
        failed = None
        if isinstance(output, str):
            failed = output
        elif work.spec.publishes and output is not None:
            made = _made.decode(output)
            for key in ("outcome", "looked", "reason", "escalation", "degraded"):
                if getattr(made, key):
                    attributes[f"framegate.{key}"] = getattr(made, key)
        self._add(work.spec.name, source, position, (since, work.ended), attributes, failed)

    def _add(
        self,
        stage: str,
        source: str,
        position: Position,
        times: tuple[float, float],
        attributes: dict[str, Any],
        failed: str | None = None,
    ) -> None:
        counts = self.counts.setdefault(stage, SpanCounts())
        if sum(each.waiting for each in self.counts.values()) >= MAX_QUEUED:
            counts.dropped += 1
            return
        from opentelemetry import trace

        counts.made += 1
        trace_id = self.sample.trace_id(source, position)
        context = None
        before = self._stages[stage].input
        if before is not None:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            parent = trace.SpanContext(trace_id, span_id(trace_id, before), True, flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        self._ids.next = (trace_id, span_id(trace_id, stage))
        to_wall = time.time() - time.monotonic()
        span = self._tracer.start_span(
            stage,
            context,
            attributes={
                "framegate.source": source,
                "framegate.epoch": position.epoch,
                "framegate.seq": position.seq,
                **attributes,
            },
            start_time=int((times[0] + to_wall) * 1e9),
        )
        if failed is not None:
            span.set_status(trace.Status(trace.StatusCode.ERROR, failed))
        span.end(int((times[1] + to_wall) * 1e9))

    def close(self) -> None:
        """Send the spans that wait, for at most CLOSE_S."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class _GivenIds:
    """Gives the SDK the ids of the next span. next: of trace and span"""

    next = (0, 0)

    def generate_trace_id(self) -> int:
        return self.next[0]

    def generate_span_id(self) -> int:
        return self.next[1]

    def is_trace_id_random(self) -> bool:
        return False


def _counting(exporter: SpanExporter, counts: dict[str, SpanCounts]) -> SpanExporter:
    """Return an exporter that counts the spans which it sends, and those that it cannot send."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Counting(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = SpanExportResult.FAILURE
            try:
                result = exporter.export(spans)
            finally:
                for span in spans:
                    if result is SpanExportResult.SUCCESS:
                        counts[span.name].sent += 1
                    else:
                        counts[span.name].failed += 1
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

    return Counting()


def spans_of(spec: WorkerSpec) -> FrameSpans | None:
    """Return the spans of a worker; None if nothing is traced, or the packages are missing."""
    if not spec.trace_ratio:
        return None
    try:
        return FrameSpans(spec)
    except ImportError as error:
        log.warning(
            "no frame is traced: %s; run: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http",
            error,
        )
    except ValueError as error:
        log.warning("no frame is traced: a variable OTEL_* has a wrong value: %s", error)
    return None
