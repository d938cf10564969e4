"""Read the table `[telemetry]`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TelemetryConfig:
    """`[telemetry]`: spans of OpenTelemetry, for a collector such as Jaeger or Tempo.

    trace_ratio  share of the frames whose way through the stages is sent as spans, such as 0.01.
                 0: none. OTEL_EXPORTER_OTLP_ENDPOINT names the collector, and the other variables
                 OTEL_EXPORTER_OTLP_* are used too
    """

    trace_ratio: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})

    def faults(self) -> list[str]:
        """Return the faults of the table."""
        if self.trace_ratio and not _can_send_spans():
            return [
                f"trace_ratio = {self.trace_ratio:g}: needs packages that are not installed; run: "
                "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ]
        return []


def _can_send_spans() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # a package above it
        return False
