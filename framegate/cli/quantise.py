"""`framegate models quantise`: a model of the registry in 8 bits, if it still says the same."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.arguments import add_registry, ending
from framegate.cli.meter import Meter
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.loading import ours

_LEAST: Final = 0.9
_FRAMES: Final = 300
_MOST_LAYERS: Final = 10  # that are told


@dataclass(frozen=True, slots=True)
class QuantiseRequest:
    """What is wanted.

    ref     of the float model: NAME, NAME@VERSION or NAME@SHA8
    files   path by source; frames  drawn from all of them; seed  of that draw
    least   agreement with the float model that is asked for, 0..1: F1 of boxes at IoU .5
    """

    ref: str
    files: Mapping[str, str]
    frames: int = _FRAMES
    least: float = _LEAST
    seed: int = 0
    registry: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
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

    rows: tuple[ModelRow, ...]
    layers: tuple[NoisyLayer, ...]
    calibrated: int
    judged: int
    least: float
    added: str | None


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "quantise",
        help="make an INT8 model of a float one, on frames of your own sources",
        description="Draws frames from the files; with the earlier half of each it finds the "
        "ranges of the numbers, on the later half it holds the INT8 model's boxes against the "
        "float model's. The noisiest layers stay float, ever more of them, until the lower end of "
        "the agreement's interval reaches the bound; the model is then added as VERSION-int8. "
        "Needs the extra `train`.",
        epilog=ending("framegate models quantise shop --from monday.mp4", page="models"),
    )
    verb.set_defaults(command=_quantise)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    verb.add_argument(
        "--from", dest="sources", nargs="+", action="extend", required=True, metavar="SOURCE",
        help="video files of typical days",
    )  # fmt: skip
    verb.add_argument("--frames", type=int, default=_FRAMES, metavar="N", help=f"({_FRAMES})")
    verb.add_argument(
        "--least", type=float, default=_LEAST, metavar="F1",
        help=f"agreement that is asked for, 0..1, boxes at IoU .5 ({_LEAST})",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, help="of the draw of frames")
    add_registry(verb)


def _quantise(parsed: argparse.Namespace) -> Exit:
    files = named_sources(parsed.sources)
    faults = [f"{url}: a camera; allowed are files" for url in files.values() if is_live(url)]
    if not 0 <= parsed.least <= 1:
        faults.append(f"--least {parsed.least}: allowed is 0 to 1")
    if parsed.frames < 2:
        faults.append(f"--frames {parsed.frames}: allowed is 2 and more")
    if faults:
        raise ConfigFaults(faults)
    request = QuantiseRequest(
        parsed.ref, files, parsed.frames, parsed.least, parsed.seed, parsed.registry
    )
    told = Console(stderr=True)
    with Meter() as meter:
        found: Quantised = ours("models_quantise")(
            request, lambda words: told.print(words, highlight=False), meter
        )
    console = Console()
    console.print(layer_table(found.layers))
    console.print(as_table(found))
    print(verdict(found))
    return Exit.DONE if found.added is not None else Exit.SOURCE_FAILED


# -- How it is told.


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


def layer_table(layers: Sequence[NoisyLayer], most: int = _MOST_LAYERS) -> Table:
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
