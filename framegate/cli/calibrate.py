"""`framegate calibrate`: find the threshold of doubt that footage needs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from framegate.cli.help import ending
from framegate.cli.terminal import Meter, say
from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.config.options import read_options
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, write_whole

if TYPE_CHECKING:
    from framegate.pipeline.promise.calibration import Judgement, Setting
    from framegate.pipeline.promise.promise import Promise


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "calibrate",
        description="Process random blocks of the footage with ten thresholds of doubt, "
        "compare the results with the heavy model, and test which thresholds "
        "keep the promise (Learn then Test). It takes some tenths of a second per "
        "frame. Ctrl-C evaluates the frames so far; the same command continues "
        "from there, also with more frames.",
        epilog=ending(
            "framegate calibrate monday.mp4 tuesday.mp4",
            "framegate calibrate monday.mp4 --alpha 0.02 --frames 2000 --plot risk.svg",
            page="promise",
        ),
    )
    command.set_defaults(command=_calibrate)
    command.add_argument("sources", nargs="*", metavar="SOURCE", help="video files of typical days")
    command.add_argument("-c", dest="config", type=Path, metavar="FILE", help="configuration file")
    command.add_argument("--alpha", type=float, help="share of frames that may differ")
    command.add_argument("--confidence", type=float, help="confidence of the promise")
    command.add_argument(
        "--frames",
        type=int,
        default=1000,
        metavar="N",
        help="maximum number of frames to compare with the heavy model (1000)",
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the random draw")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="plot the risk against the share of frames that are asked about",
    )
    add_overwrite(command)


def _calibrate(parsed: argparse.Namespace) -> Exit:
    # Here, because it brings numpy and scipy, and no other command is to wait for these.
    from framegate.pipeline.promise.calibration import judged, verdict
    from framegate.stages.learning.doubt_replay import tallied

    origin, text = find_config(parsed.config)
    said = {
        key: value
        for key, value in (("alpha", parsed.alpha), ("confidence", parsed.confidence))
        if value is not None
    }
    changes = {"sources": {n: {"url": u} for n, u in _files(parsed).items()}}
    config = read_config(origin, text, changes)
    promise = promise_of(config, said)
    if not config.sources:
        raise ConfigFaults(
            ["no source; give a video file, for example: framegate calibrate day.mp4"]
        )
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames must be at least 1, got {parsed.frames}"])
    if parsed.plot is not None:
        read = Inputs({f"source {name}": one.url for name, one in config.sources.items()})
        if faults := output_faults("--plot", parsed.plot, read, parsed.overwrite):
            raise ConfigFaults(faults)
    urls = {name: source.url for name, source in config.sources.items()}
    stages = [(stage.use, stage.options) for stage in config.stages]
    with Meter() as tell:
        footage = tallied(urls, stages, parsed.frames, parsed.seed, tell)
    if footage.left:
        print(
            f"stopped, {footage.left} frames before the end; the same command continues from here"
        )
    if not footage.draws:
        print(f"{footage.frames} frames are too few for a result")
        return Exit.SOURCE_FAILED
    judgement = judged(footage, promise)
    console = Console()
    console.print(as_table(judgement))
    for line in verdict(judgement, promise).splitlines():
        say(line)
    if parsed.plot is not None:
        plot = as_svg(judgement, promise.alpha).encode()
        write_whole("--plot", parsed.plot, plot, parsed.overwrite)
    return Exit.DONE


def _files(parsed: argparse.Namespace) -> dict[str, str]:
    """Return files by name. ConfigFaults for a camera: it has no footage to draw from."""
    named = named_sources(parsed.sources)
    if live := [url for url in named.values() if is_live(url)]:
        raise ConfigFaults([f"{url} is a camera; give video files of typical days" for url in live])
    return named


def promise_of(config: Config, said: Mapping[str, float] = {}) -> Promise:
    """Return the promise of the configuration, made or not, with `said` instead of its keys.
    ConfigFaults.
    """
    from framegate.pipeline.promise.promise import Promise

    table: dict[str, Any] = next(
        (s.options["promise"] for s in config.stages if "promise" in s.options), {}
    )
    faults: list[str] = []
    promise = read_options(Promise, {**table, **said, "measure": "counts"}, "promise.", faults)
    if promise is None:
        raise ConfigFaults(faults)
    return promise


def as_table(judgement: Judgement) -> Table:
    """Return a table of all thresholds, with the certified ones marked."""
    table = Table(title=f"{judgement.draws} draws of {judgement.frames} frames")
    for name in ("doubt", "asked", "oracle", "wrong", "risk", "p", "certified"):
        table.add_column(name, justify="right")
    for one in judgement.settings:
        least = "always" if one.least == 0 else "never" if one.least > 1 else f"{one.least:g}"
        cells = (f"{one.asked:.1%}", f"{one.oracle:.1%}", str(one.wrong), f"{one.risk:.2%}")
        mark = "best" if one == judgement.best else "yes" if one.certified else "-"
        table.add_row(least, *cells, f"{one.p_value:.3f}", mark)
    return table


# -- Risk against the share of frames that are asked about, as SVG. Pure.


_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 400, 70, 30
_RIGHT, _BOTTOM = 20, 60
_STYLE = "font-family='sans-serif' font-size='13' fill='currentColor'"


def as_svg(judgement: Judgement, alpha: float) -> str:
    """Return an SVG of 640 x 400: all thresholds, the certified ones filled, the oracle dashed."""
    most = 1.1 * max(alpha, *(one.risk for one in judgement.settings))
    points = [(_x(one.asked), _y(one.risk, most), one) for one in judgement.settings]
    oracle = [(_x(one.oracle), _y(one.risk, most)) for one in judgement.settings]
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>",
        *_axes(most),
        _line(oracle, "stroke='#888' stroke-dasharray='5 4'"),
        _line([(x, y) for x, y, _ in points], "stroke='#1f6fb4' stroke-width='2'"),
        _line([(_x(0), _y(alpha, most)), (_x(1), _y(alpha, most))], "stroke='#c33'"),
        f"<text x='{_x(1) - 4}' y='{_y(alpha, most) - 5}' text-anchor='end' {_STYLE}>"
        "promised</text>",
        *(_dot(x, y, one, judgement) for x, y, one in points),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(risk: float, most: float) -> float:
    return round(_TOP + (1 - risk / most) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _line(points: list[tuple[float, float]], style: str) -> str:
    placed = " ".join(f"{x},{y}" for x, y in points)
    return f"<polyline points='{placed}' fill='none' {style}/>"


def _dot(x: float, y: float, one: Setting, judgement: Judgement) -> str:
    fill = "#1f6fb4" if one.certified else "white"
    radius = 7 if one == judgement.best else 4
    said = f"doubt {one.least:g}: asked {one.asked:.1%}, wrong {one.risk:.2%}"
    return (
        f"<circle cx='{x}' cy='{y}' r='{radius}' fill='{fill}' stroke='#1f6fb4'>"
        f"<title>{said}</title></circle>"
    )


def _axes(most: float) -> list[str]:
    left, right, bottom = _x(0), _x(1), _y(0, most)
    parts = [_line([(left, _TOP), (left, bottom), (right, bottom)], "stroke='currentColor'")]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _x(part), _y(part * most, most)
        parts.append(
            f"<text x='{x}' y='{bottom + 18}' text-anchor='middle' {_STYLE}>{part:.0%}</text>"
        )
        parts.append(
            f"<text x='{left - 6}' y='{y + 4}' text-anchor='end' {_STYLE}>{part * most:.2%}</text>"
        )
    middle = (left + right) / 2
    what = "frames that the heavy pass is asked about (dashed: an oracle)"
    parts.append(
        f"<text x='{middle}' y='{_HEIGHT - 14}' text-anchor='middle' {_STYLE}>{what}</text>"
    )
    parts.append(f"<text x='8' y='18' {_STYLE}>frames that differ from the heavy pass</text>")
    return parts
