"""Show the sources of a run as lines of text for logs.

Apart from the table, because a run without a terminal does without the package that draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from framegate.pipeline.system.clocks import span
from framegate.pipeline.telemetry.source_view import View


def objects_a_frame(v: View, most: int = 4) -> str:
    """Return the mean number of objects in a frame, of the first `most` labels."""
    return ", ".join(f"{label} {n:.1f}" for label, n in list(v.objects.items())[:most])


def as_line(v: View) -> str:
    """Return a view as one line for logs."""
    state: str = v.state
    if v.fault:  # the log has the whole fault from the time when it occurred
        state += f" ({v.fault.partition(':')[0]})"
    parts = [f"{v.source}: {state}", f"{v.published} frames"]
    if v.fps is not None:
        parts.append(f"{v.fps:.1f} fps")
    if v.looked is not None and v.looked < 1:
        parts.append(f"{v.looked:.0%} looked at")
    if v.p50_s:
        parts.append(f"p50 {v.p50_s * 1e3:.0f} ms")
        parts.append(f"p99 {(v.p99_s or 0) * 1e3:.0f} ms")
    parts.append(f"{v.dropped} dropped{_reasons(v.drops)}")
    if v.late:
        parts.append(f"{v.late} left out late")
    parts += _degraded(v.escalations)
    parts.append(f"{v.failed} failed")
    return f"{', '.join(parts)}; a frame: {objects_a_frame(v, 3) or 'no objects'}"


def in_sum(views: Sequence[View]) -> str:
    """Return all sources together as one line for logs."""
    states = Counter(v.state for v in views)
    escalations: Counter[str] = Counter()
    drops: Counter[str] = Counter()
    for v in views:
        escalations.update(v.escalations)
        drops.update(v.drops)
    parts = [
        f"{sum(v.published for v in views)} frames",
        f"{sum(v.fps or 0.0 for v in views):.1f} fps",
    ]
    latencies = [v.p99_s for v in views if v.p99_s is not None]
    if latencies:
        parts.append(f"p99 up to {max(latencies) * 1e3:.0f} ms")
    parts.append(f"{drops.total()} dropped{_reasons(drops)}")
    parts += _degraded(escalations)
    parts.append(f"{sum(v.failed for v in views)} failed")
    counts = ", ".join(f"{n} {state}" for state, n in states.most_common())
    line = f"{len(views)} sources: {counts}; {', '.join(parts)}"
    rests = [v.left_s for v in views if v.left_s is not None]
    if rests:
        line += f"; files end in about {span(max(rests))}"
    return line


def _degraded(escalations: Mapping[str, int]) -> list[str]:
    """Return the frames without an answer of the heavy model, as at most one part of a line."""
    reasons = {reason: n for reason, n in escalations.items() if reason != "done" and n}
    if not reasons:
        return []
    return [f"{sum(reasons.values())} degraded{_reasons(reasons)}"]


def _reasons(counts: Mapping[str, int]) -> str:
    """Return the counts by reason in parentheses after a space, or nothing if all are 0."""
    counted = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()) if n)
    if not counted:
        return ""
    return f" ({counted})"
