"""How sinks get on: read from where they keep their positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from framegate.pipeline import keys

SINK_OUTCOMES: Final = ("delivered", "muted", "lost")


@dataclass(frozen=True)
class SinkView:
    """How a sink gets on with a source.

    delivered, muted  messages: taken, and left out on purpose
    lost              entries that were never told
    waiting           entries that are not told yet
    since, why        UNIX seconds since when the receiver takes none, and why; None: it does
    """

    sink: str
    source: str
    delivered: int
    muted: int
    lost: int
    waiting: int
    since: float | None = None
    why: str | None = None


def look_at_sinks(client: Any, sinks: Sequence[str], sources: Sequence[str]) -> list[SinkView]:
    """Return how sinks get on; of those that have begun with a source."""
    found = []
    for source in sources:
        pipe = client.pipeline(transaction=False)
        pipe.xinfo_stream(keys.out(source, keys.EVENTS))
        for sink in sinks:
            pipe.hmget(keys.sink(source, sink), "n", *SINK_OUTCOMES, "since", "why")
        info, *replies = pipe.execute(raise_on_error=False)
        added = 0 if isinstance(info, Exception) else int(info["entries-added"])
        for sink, reply in zip(sinks, replies, strict=True):
            if isinstance(reply, Exception) or reply[0] is None:
                continue
            n, delivered, muted, lost = (int(each or 0) for each in reply[:4])
            since, why = reply[4:]
            found.append(
                SinkView(
                    sink=sink,
                    source=source,
                    delivered=delivered,
                    muted=muted,
                    lost=lost,
                    waiting=max(0, added - n),
                    since=None if since is None else float(since),
                    why=None if why is None else why.decode(),
                )
            )
    return found


def sinks(views: Sequence[SinkView]) -> Iterator[Metric]:
    """What Prometheus scrapes of them."""
    labels = ["sink", "source"]
    messages = CounterMetricFamily(
        "framegate_sink_messages",
        "Messages of a sink: delivered, muted (left out on purpose), lost (entries never told)",
        labels=[*labels, "outcome"],
    )
    waiting = GaugeMetricFamily(
        "framegate_sink_waiting", "Entries that are to be told by a sink", labels=labels
    )
    failing = GaugeMetricFamily(
        "framegate_sink_failing_since_seconds",
        "UNIX time since which a sink's receiver takes nothing; 0 while it does",
        labels=labels,
    )
    for view in views:
        names = [view.sink, view.source]
        for outcome in SINK_OUTCOMES:
            messages.add_metric([*names, outcome], getattr(view, outcome))
        waiting.add_metric(names, view.waiting)
        failing.add_metric(names, view.since or 0.0)
    yield from (messages, waiting, failing)
