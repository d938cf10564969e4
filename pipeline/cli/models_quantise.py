"""`framegate models quantise`: a model of the registry in 8 bits, if it still says the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from framegate.pipeline.cli.quantised import as_table, layer_table, verdict
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.errors import ConfigFaults, Exit
from framegate.pipeline.loading import load

_QUANTISE = "framegate.stages.commands.quantising:quantise"
LEAST, FRAMES = 0.9, 300


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
    )
    verb.set_defaults(command=_quantise)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    verb.add_argument(
        "--from", dest="sources", nargs="+", action="extend", required=True, metavar="SOURCE",
        help="video files of typical days",
    )  # fmt: skip
    verb.add_argument("--frames", type=int, default=FRAMES, metavar="N", help=f"({FRAMES})")
    verb.add_argument(
        "--least", type=float, default=LEAST, metavar="F1",
        help=f"agreement that is asked for, 0..1, boxes at IoU .5 ({LEAST})",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, help="of the draw of frames")
    verb.add_argument(
        "--registry", type=Path, metavar="DIR",
        help="of models (default: $XDG_DATA_HOME/framegate/models, or below ~/.local/share)",
    )  # fmt: skip


def _quantise(parsed: argparse.Namespace) -> Exit:
    files = named_sources(parsed.sources)
    faults = [f"{url}: a camera; allowed are files" for url in files.values() if is_live(url)]
    if not 0 <= parsed.least <= 1:
        faults.append(f"--least {parsed.least}: allowed is 0 to 1")
    if parsed.frames < 2:
        faults.append(f"--frames {parsed.frames}: allowed is 2 and more")
    if faults:
        raise ConfigFaults(faults)
    told = Console(stderr=True)
    found = load(_QUANTISE)(
        parsed.ref,
        files,
        parsed.frames,
        parsed.least,
        parsed.registry,
        parsed.seed,
        lambda words: told.print(words, highlight=False),
    )
    console = Console()
    console.print(layer_table(found.layers))
    console.print(as_table(found))
    print(verdict(found))
    return Exit.DONE if found.added is not None else Exit.SOURCE_FAILED
