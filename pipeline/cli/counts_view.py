"""What a person wants to see of a run's questions to the heavy model and of its look-ups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from framegate.pipeline.counts import AskCounts, CacheCounts
from framegate.pipeline.errors import ConfigFaults, RunRefused
from framegate.pipeline.run.rpc import TheCounts, WhatCounts, ask

PATIENCE_S = 3.0


def count_lines(folder: Path) -> list[str]:
    """A line for each stage that asks or looks up, from the run in a folder; none if it ended."""
    try:
        counts = ask(folder, WhatCounts(), PATIENCE_S)
    except (ConfigFaults, RunRefused):
        return []
    assert isinstance(counts, TheCounts)
    return list(as_lines(counts))


def as_lines(counts: TheCounts) -> Iterator[str]:
    """The counts in words, stage by stage."""
    for stage, asks in counts.asks.items():
        yield f"{stage}: {in_words(asks)}"
    for stage, cache in counts.cache.items():
        if cache.hits + cache.misses + cache.skipped:
            yield f"{stage}: {look_ups_in_words(cache)}"


def in_words(asks: AskCounts) -> str:
    """Answers, failures by reason, bytes, breaker, budgets."""
    said = [f"{asks.answered} answers, {asks.joined} of them shared", f"breaker {asks.breaker}"]
    if asks.answered:
        said.append(f"{1e3 * asks.waited_s / asks.answered:.0f} ms a question")
    said += [f"{n} {reason}" for reason, n in sorted(asks.degraded.items())]
    if asks.sent_bytes:
        said.append(f"{asks.sent_bytes / 1e6:.1f} MB up")
    if asks.left:
        said.append("asks left: " + ", ".join(f"{s} {n:.1f}" for s, n in sorted(asks.left.items())))
    return "; ".join(said)


def look_ups_in_words(cache: CacheCounts) -> str:
    """Share of hits, what was refused, whether it is on."""
    looked_up = cache.hits + cache.misses
    said = [f"{cache.hits / max(1, looked_up):.1%} of {looked_up} inputs known"]
    if cache.refused:
        said.append(f"{cache.refused} refused")
    if cache.off:
        said.append(f"hits are rare: off in {cache.off} of {cache.groups} groups")
    return "; ".join(said)
