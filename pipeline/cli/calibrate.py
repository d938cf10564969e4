"""`framegate calibrate`: which threshold of doubt is cheapest and still good enough, on footage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.config.options import read_options
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.errors import ConfigFaults, Exit
from framegate.pipeline.loading import DETECT, load
from framegate.pipeline.outputs import Inputs, add_overwrite, output_faults, write_whole

if TYPE_CHECKING:
    from framegate.pipeline.promise.calibration import Judgement
    from framegate.pipeline.promise.promise import Promise

_REPLAY = "framegate.stages.commands.calibrating:tallied"
_BUDGET = "framegate.stages.escalate.escalate_options:EscalateOptions"


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "calibrate",
        help="find the cheapest threshold of doubt that is good enough on footage",
        description="Runs files through detect and, for each of ten thresholds, through escalate; "
        "holds frames drawn at random against the heavy pass; and tests from asking always to "
        "asking never which thresholds keep what is to be promised (Learn then Test). Takes about "
        "ten times as long as a heavy run of a tenth of the footage.",
    )
    command.set_defaults(command=_calibrate)
    command.add_argument("sources", nargs="*", metavar="SOURCE", help="files of typical days")
    command.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration")
    command.add_argument("--alpha", type=float, help="share of frames that may differ")
    command.add_argument("--confidence", type=float, help="how sure that is to be")
    command.add_argument(
        "--frames",
        type=int,
        default=1000,
        help="draws of frames to hold against the heavy pass, each among all (1000)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the draw")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="risk against asked share")
    add_overwrite(command)


def _calibrate(parsed: argparse.Namespace) -> Exit:
    # Here, because they bring numpy and scipy, and no other command is to wait for these.
    from framegate.pipeline.cli.calibration_plot import as_svg
    from framegate.pipeline.promise.calibration import judged, verdict

    origin, text = find_config(parsed.config)
    said = {
        key: value
        for key, value in (("alpha", parsed.alpha), ("confidence", parsed.confidence))
        if value is not None
    }
    changes = {"promise": said, "sources": {n: {"url": u} for n, u in _files(parsed).items()}}
    config = read_config(origin, text, changes)
    promise = _promise(config)
    if not config.sources:
        raise ConfigFaults(["no source: name a file, for example: framegate calibrate day.mp4"])
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames {parsed.frames}: allowed is 1 and more"])
    if parsed.plot is not None:
        read = Inputs({f"source {name}": one.url for name, one in config.sources.items()})
        if faults := output_faults("--plot", parsed.plot, read, parsed.overwrite):
            raise ConfigFaults(faults)
    detect = next((dict(s.options) for s in config.stages if s.use == DETECT), None)
    if detect is None:
        raise ConfigFaults(
            [f"{origin}: no stage has use = {DETECT!r}; allowed is a configuration with one"]
        )
    urls = {name: source.url for name, source in config.sources.items()}
    footage = load(_REPLAY)(urls, detect, parsed.frames, parsed.seed, _progress(), _budget(config))
    judgement = judged(footage, promise)
    console = Console()
    console.print(as_table(judgement))
    print(verdict(judgement, promise))
    if parsed.plot is not None:
        plot = as_svg(judgement, promise.alpha).encode()
        write_whole("--plot", parsed.plot, plot, parsed.overwrite)
    return Exit.DONE


def _files(parsed: argparse.Namespace) -> dict[str, str]:
    """Files by name; a camera has no footage that could be drawn from."""
    named = named_sources(parsed.sources)
    if live := [url for url in named.values() if is_live(url)]:
        raise ConfigFaults([f"{url}: a camera; allowed are files of typical days" for url in live])
    return named


def _promise(config: Config) -> Promise:
    from framegate.pipeline.promise.promise import Promise

    table: dict[str, Any] = next(
        (s.options["promise"] for s in config.stages if "promise" in s.options), {}
    )
    faults: list[str] = []
    promise = read_options(Promise, {**table, "measure": "counts"}, "promise.", faults)
    if promise is None:
        raise ConfigFaults(faults)
    return promise


def _budget(config: Config) -> Any:
    """The table [escalate] as it stands."""
    table: dict[str, Any] = next(
        (s.options["escalate"] for s in config.stages if "escalate" in s.options), {}
    )
    faults: list[str] = []
    budget = read_options(load(_BUDGET), dict(table), "escalate.", faults)
    if budget is None:
        raise ConfigFaults(faults)
    return budget


def as_table(judgement: Judgement) -> Table:
    """All thresholds, the certified ones marked."""
    table = Table(title=f"{judgement.draws} draws of {judgement.frames} frames")
    for name in ("doubt", "asked", "oracle", "wrong", "risk", "p", "certified"):
        table.add_column(name, justify="right")
    for one in judgement.settings:
        least = "always" if one.least == 0 else "never" if one.least > 1 else f"{one.least:g}"
        cells = (f"{one.asked:.1%}", f"{one.oracle:.1%}", str(one.wrong), f"{one.risk:.2%}")
        mark = "best" if one == judgement.best else "yes" if one.certified else "-"
        table.add_row(least, *cells, f"{one.p_value:.3f}", mark)
    return table


def _progress() -> Any:
    console = Console(stderr=True)

    def tell(done: int, frames: int, looked: int) -> None:
        ends = "\n" if done == frames else "\r"
        console.print(f"{done} of {frames} frames, {looked} heavy passes", end=ends)

    return tell
