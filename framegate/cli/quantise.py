"""`framegate models quantise`: make an 8-bit version of a model, if its answers stay the same."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.arguments import add_registry
from framegate.cli.help import ending
from framegate.cli.terminal import Meter
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit

if TYPE_CHECKING:
    from framegate.stages.learning.int8_version import NoisyLayer, Quantised

_LEAST: Final = 0.9
_FRAMES: Final = 300
_MAX_LAYERS: Final = 10  # in the table


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "quantise",
        help="convert a float model to INT8, with frames of your sources",
        description="Draw frames from the files. The earlier half of each file calibrates the "
        "INT8 model, the later half compares its boxes with those of the float "
        "model. The noisiest layers stay float, until the lower end of the "
        "agreement's interval reaches the bound. The model is then added as "
        "VERSION-int8. Needs the extra `train`.",
        epilog=ending("framegate models quantise shop --from monday.mp4", page="models"),
    )
    verb.set_defaults(command=_quantise)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    verb.add_argument(
        "--from", dest="sources", nargs="+", action="extend", required=True, metavar="SOURCE",
        help="video files of typical days",
    )  # fmt: skip
    verb.add_argument(
        "--frames", type=int, default=_FRAMES, metavar="N", help=f"number of frames ({_FRAMES})"
    )
    verb.add_argument(
        "--least", type=float, default=_LEAST, metavar="F1",
        help=f"required agreement, 0 to 1, of boxes at IoU 0.5 ({_LEAST})",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, help="seed of the random draw of frames")
    add_registry(verb)


def _quantise(parsed: argparse.Namespace) -> Exit:
    from framegate.stages.learning.int8_version import quantise

    files = named_sources(parsed.sources)
    faults = [f"{url} is a camera; give video files" for url in files.values() if is_live(url)]
    if not 0 <= parsed.least <= 1:
        faults.append(f"--least must be 0 to 1, got {parsed.least}")
    if parsed.frames < 2:
        faults.append(f"--frames must be at least 2, got {parsed.frames}")
    if faults:
        raise ConfigFaults(faults)
    log = Console(stderr=True)
    with Meter() as meter:
        quantised = quantise(
            parsed.ref,
            files,
            lambda words: log.print(words, highlight=False),
            meter,
            parsed.frames,
            parsed.least,
            parsed.seed,
            parsed.registry,
        )
    console = Console()
    console.print(layer_table(quantised.layers))
    console.print(as_table(quantised))
    print(verdict(quantised))
    return Exit.SOURCE_FAILED if quantised.added is None else Exit.DONE


# -- Output.


def as_table(quantised: Quantised) -> Table:
    """Return a table of the candidates."""
    title = f"calibrated on {quantised.calibrated} frames, judged on {quantised.judged} others"
    table = Table(title=title)
    for name in ("candidate", "layers float", "F1 with float", "95 %", "ms", "weights"):
        table.add_column(name, justify="right")
    for row in quantised.rows:
        if row.layers_float is None:
            name, layers, interval = "float", "all", ""
        else:
            name, layers = "int8", str(row.layers_float)
            interval = f"{row.low:.3f} - {row.high:.3f}"
        size = f"{row.weight_bytes / 1e6:.2f} MB"
        table.add_row(name, layers, f"{row.f1:.3f}", interval, f"{row.ms:.1f}", size)
    return table


def layer_table(layers: Sequence[NoisyLayer]) -> Table:
    """Return a table of the noisiest layers."""
    shown = layers[:_MAX_LAYERS]
    table = Table(title=f"the {len(shown)} noisiest of {len(layers)} layers, dB")
    for name in ("own", "in all"):
        table.add_column(name, justify="right")
    for name in ("kind", "layer"):
        table.add_column(name, overflow="fold")
    for layer in shown:
        table.add_row(f"{layer.own_db:.1f}", f"{layer.total_db:.1f}", layer.kind, layer.name)
    return table


def verdict(quantised: Quantised) -> str:
    """Return the outcome in words."""
    best = max(quantised.rows[1:], key=lambda row: row.low)
    bound = f"at least {quantised.least:.3f} is required, with 95 % confidence"
    if quantised.added is None:
        return f"not added: the best candidate reaches {best.low:.3f}; {bound}"
    float_ms = quantised.rows[0].ms
    text = (
        f"added: {quantised.added}: {best.low:.3f}; {bound}; {float_ms / best.ms:.2f} times as "
        "fast as float here"
    )
    if best.ms >= float_ms:
        text += "; it is not faster"
    return text
