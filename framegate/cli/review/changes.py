"""`framegate changes`: list when a region of a source changed."""

from __future__ import annotations

import argparse
import math
from datetime import datetime
from typing import Any

import msgspec

from framegate.cli.console.arguments import add_data, given_time
from framegate.cli.help import ending
from framegate.cli.review.events import lasting
from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.recording.changed_parts import RegionChanges, changes_of_region, read_region
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.system.logs import to_user


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "changes",
        description="List when a region of a source changed, by the gate's stored comparisons: "
        "no video is decoded.",
        epilog=ending(
            "framegate changes entrance --region 0.1,0.2,0.4,0.6 --since 1d",
            "framegate changes entrance --region 0.1,0.2,0.4,0.6 --apart 30s --json",
            page="visits",
        ),
    )
    command.set_defaults(command=_changes)
    command.add_argument("source", metavar="SOURCE", help="name of the source")
    command.add_argument(
        "--region",
        metavar="X1,Y1,X2,Y2",
        default="0,0,1,1",
        help="left, top, right, bottom, as shares of the picture (default: 0,0,1,1, all of it)",
    )
    command.add_argument("--since", metavar="WHEN", help=f"only frames since: {TIME}")
    command.add_argument("--until", metavar="WHEN", help="only frames until this time")
    command.add_argument(
        "--apart",
        metavar="DURATION",
        default="2s",
        help="changes that are at most this time apart are one period (default: 2s)",
    )
    command.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_data(command)


def _changes(parsed: argparse.Namespace) -> Exit:
    try:
        region = read_region(parsed.region)
    except ValueError as error:
        raise ConfigFaults([f"--region {error}"]) from None
    try:
        apart_s = duration_s(parsed.apart)
    except ValueError as error:
        raise ConfigFaults([f"--apart {error}"]) from None
    since = given_time("--since", parsed.since) or 0.0
    until = given_time("--until", parsed.until)
    if until is None:
        until = math.inf
    folder = data_folder(parsed.data)
    changes = changes_of_region(folder, parsed.source, region, since, until, apart_s)
    if parsed.json:
        print(msgspec.json.encode(changes).decode())
    else:
        _show(changes)
    return Exit.DONE


def _show(changes: RegionChanges) -> None:
    for period in changes.periods:
        began = datetime.fromtimestamp(period.since)
        lasted = lasting(period.until - period.since)
        print(f"{began:%Y-%m-%d %H:%M:%S}  {lasted:>8}  {period.frames:>6} frames  {period.first}")
    compared = f"{changes.frames} compared frames in {lasting(changes.known_s)}"
    if not changes.periods:
        to_user.warning("the region did not change; %s", compared)
    elif changes.left_out:
        to_user.warning("%d earlier periods are left out; use --until", changes.left_out)
