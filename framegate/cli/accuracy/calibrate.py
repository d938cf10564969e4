"""`framegate calibrate`: find the threshold of doubt that footage needs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from framegate.cli.console.terminal import Meter, say
from framegate.cli.help import ending
from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.config.read_options import read_options
from framegate.pipeline.config.sources import is_live, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, write_whole

if TYPE_CHECKING:
    from framegate.pipeline.promise.calibration import Judgement, Setting
    from framegate.pipeline.promise.period import Promise
    from framegate.pipeline.promise.reference import Reference


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
    command.add_argument(
        "--alpha", type=float, metavar="SHARE", help="share of frames that may differ"
    )
    command.add_argument(
        "--confidence", type=float, metavar="SHARE", help="confidence of the promise"
    )
    command.add_argument(
        "--frames",
        type=int,
        default=1000,
        metavar="N",
        help="maximum number of frames to compare with the heavy model (1000)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random draw")
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="plot the risk against the share of frames that are asked about",
    )
    add_overwrite(command)


def _calibrate(parsed: argparse.Namespace) -> Exit:
    # They load numpy and scipy, for which no other command should wait.
    from framegate.pipeline.promise.calibration import judged, verdict
    from framegate.stages.learning.doubt_replay import tallied

    origin, text = find_config(parsed.config)
    options = {"alpha": parsed.alpha, "confidence": parsed.confidence}
    given = {key: value for key, value in options.items() if value is not None}
    changes = {"sources": {name: {"url": url} for name, url in _files(parsed).items()}}
    config = read_config(origin, text, changes)
    promise = promise_of(config, given)
    if not config.sources:
        raise ConfigFaults(
            ["no source; give a video file, for example: framegate calibrate day.mp4"]
        )
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames must be at least 1, got {parsed.frames}"])
    if parsed.plot is not None:
        read = Inputs({f"source {name}": source.url for name, source in config.sources.items()})
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
    say(f"this is agreement with the heavy model, not accuracy; {shipped_reference()}")
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


def promise_of(config: Config, changes: Mapping[str, float] = {}) -> Promise:
    """Return the promise of the configuration as if it were on, with `changes` of its keys.
    ConfigFaults.
    """
    from framegate.pipeline.promise.period import Promise

    table: dict[str, Any] = next(
        (stage.options["promise"] for stage in config.stages if "promise" in stage.options), {}
    )
    faults: list[str] = []
    promise = read_options(Promise, {**table, **changes, "measure": "counts"}, "promise.", faults)
    if promise is None:
        raise ConfigFaults(faults)
    return promise


def shipped_reference() -> Reference:
    """Return the shipped heavy model, with its accuracy by labels."""
    from framegate.models.detector import policy
    from framegate.pipeline.promise.reference import reference_of

    return reference_of(policy.load("heavy").members)


def as_table(judgement: Judgement) -> Table:
    """Return a table of all thresholds, with the certified ones marked."""
    table = Table(title=f"{judgement.draws} draws of {judgement.frames} frames")
    for name in ("doubt", "asked", "oracle", "wrong", "risk", "p", "certified"):
        table.add_column(name, justify="right")
    for setting in judgement.settings:
        table.add_row(
            _threshold(setting),
            f"{setting.asked:.1%}",
            f"{setting.oracle:.1%}",
            str(setting.wrong),
            f"{setting.risk:.2%}",
            f"{setting.p_value:.3f}",
            _mark(setting, judgement),
        )
    return table


def _threshold(setting: Setting) -> str:
    if setting.least == 0:
        return "always"
    if setting.least > 1:
        return "never"
    return f"{setting.least:g}"


def _mark(setting: Setting, judgement: Judgement) -> str:
    if setting == judgement.best:
        return "best"
    if setting.certified:
        return "yes"
    return "-"


# -- The plot: risk against the share of frames that are asked about.


_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 400, 70, 30
_RIGHT, _BOTTOM = 20, 60
_STYLE = "font-family='sans-serif' font-size='13' fill='currentColor'"


def as_svg(judgement: Judgement, alpha: float) -> str:
    """Return an SVG of 640 x 400: all thresholds, the certified ones filled, the oracle dashed."""
    most = 1.1 * max(alpha, *(each.risk for each in judgement.settings))
    points = [(_x(each.asked), _y(each.risk, most), each) for each in judgement.settings]
    oracle = [(_x(each.oracle), _y(each.risk, most)) for each in judgement.settings]
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>",
        *_axes(most),
        _line(oracle, "stroke='#888' stroke-dasharray='5 4'"),
        _line([(x, y) for x, y, _ in points], "stroke='#1f6fb4' stroke-width='2'"),
        _line([(_x(0), _y(alpha, most)), (_x(1), _y(alpha, most))], "stroke='#c33'"),
        f"<text x='{_x(1) - 4}' y='{_y(alpha, most) - 5}' text-anchor='end' {_STYLE}>"
        "promised</text>",
        *(_dot(x, y, setting, judgement) for x, y, setting in points),
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


def _dot(x: float, y: float, setting: Setting, judgement: Judgement) -> str:
    fill = "#1f6fb4" if setting.certified else "white"
    radius = 7 if setting == judgement.best else 4
    title = f"doubt {setting.least:g}: asked {setting.asked:.1%}, wrong {setting.risk:.2%}"
    return (
        f"<circle cx='{x}' cy='{y}' r='{radius}' fill='{fill}' stroke='#1f6fb4'>"
        f"<title>{title}</title></circle>"
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
    label = "frames that the heavy pass is asked about (dashed: an oracle)"
    parts.append(
        f"<text x='{middle}' y='{_HEIGHT - 14}' text-anchor='middle' {_STYLE}>{label}</text>"
    )
    parts.append(f"<text x='8' y='18' {_STYLE}>frames that differ from the heavy pass</text>")
    return parts
