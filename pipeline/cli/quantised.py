"""What quantising a model came to, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

N_TOLD = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate.

    layers_float      that stay as they are; None: the float model itself
    f1, low, high     agreement with the float model and its 95 % interval
    ms                median of an inference at one thread
    """

    layers_float: int | None
    f1: float
    low: float
    high: float
    ms: float
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class NoisyLayer:
    """A layer and its signal-to-noise ratios, decibels: of its own, and with all before it."""

    name: str
    kind: str
    own_db: float
    total_db: float


@dataclass(frozen=True, slots=True)
class Quantised:
    """All candidates, the float model first, and what was written.

    layers   the noisiest first
    added    NAME@VERSION and digest of the new model; None: no candidate was good enough
    """

    rows: tuple[Row, ...]
    layers: tuple[NoisyLayer, ...]
    calibrated: int
    judged: int
    least: float
    added: str | None


def as_table(found: Quantised) -> Table:
    """The candidates."""
    title = f"calibrated on {found.calibrated} frames, judged on {found.judged} others"
    table = Table(title=title)
    for name in ("candidate", "layers float", "F1 with float", "95 %", "ms", "weights"):
        table.add_column(name, justify="right")
    for row in found.rows:
        is_float = row.layers_float is None
        name, layers = ("float", "all") if is_float else ("int8", str(row.layers_float))
        interval = "" if is_float else f"{row.low:.3f} - {row.high:.3f}"
        figures = f"{row.f1:.3f}", interval, f"{row.ms:.1f}", f"{row.weight_bytes / 1e6:.2f} MB"
        table.add_row(name, layers, *figures)
    return table


def layer_table(layers: Sequence[NoisyLayer], most: int = N_TOLD) -> Table:
    """The noisiest layers."""
    table = Table(title=f"the {min(most, len(layers))} noisiest of {len(layers)} layers, dB")
    for name in ("own", "in all"):
        table.add_column(name, justify="right")
    for name in ("kind", "layer"):
        table.add_column(name, overflow="fold")
    for one in layers[:most]:
        table.add_row(f"{one.own_db:.1f}", f"{one.total_db:.1f}", one.kind, one.name)
    return table


def verdict(found: Quantised) -> str:
    """What follows, in words."""
    best = max(found.rows[1:], key=lambda row: row.low)
    bound = f"at least {found.least:.3f} was asked for, with 95 % confidence"
    if found.added is None:
        return f"not added: the best has {best.low:.3f}; {bound}"
    float_ms = found.rows[0].ms
    faster = f"{float_ms / best.ms:.2f} times as fast as float here"
    slow = "; that is no gain" if best.ms >= float_ms else ""
    return f"added: {found.added}: {best.low:.3f}; {bound}; {faster}{slow}"
