"""`framegate learn`: show, export and delete the footage that a run keeps to learn from."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from framegate.cli.console.arguments import add_data, given_time
from framegate.cli.console.terminal import Meter, Person, counted, say
from framegate.cli.help import ending
from framegate.cli.own_models.models import named
from framegate.pipeline.client.when import TIME
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, write_whole

if TYPE_CHECKING:
    from framegate.stages.footage.kept_exports import KeptFootage

_FORMATS = ("coco", "yolo")
_REASONS_IN_LINE = 2


def register(commands: Any) -> None:
    """Add the command and its sub-commands to the command line."""
    command = commands.add_parser(
        "learn",
        description="Manage the footage that [learn] collect = true keeps in a run's data folder.",
        epilog=ending("framegate learn footage -d data --sheet seen.png", page="learning"),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "footage",
        help="show, export or delete kept frames",
        description="List how many frames an active or ended run kept, of which days, and "
        "why. --sheet writes a picture of some of them. --export writes a folder "
        "of pictures and labels for CVAT, Label Studio and Ultralytics; the "
        "labels are those of the heavy model. --delete removes frames "
        "permanently.",
        epilog=ending(
            "framegate learn footage",
            "framegate learn footage --sources gate --sheet seen.png",
            "framegate learn footage -d data --export gate-coco --as coco",
            "framegate learn footage -d data --delete --before 7d",
            page="learning",
        ),
    )
    verb.set_defaults(command=_footage)
    add_data(verb)
    verb.add_argument("--sources", metavar="A,B", help="only these sources")
    verb.add_argument(
        "--before",
        metavar="WHEN",
        help=f"only frames that were kept before: {TIME}",
    )
    verb.add_argument("--sheet", type=Path, metavar="FILE", help="write a picture, .png or .jpg")
    verb.add_argument("--export", type=Path, metavar="FOLDER", help="write a new folder")
    verb.add_argument(
        "--blur-faces", action="store_true", help="blur faces in the sheet; best effort"
    )
    verb.add_argument(
        "--as", dest="form", choices=_FORMATS, default="coco", help="format of the labels (coco)"
    )
    verb.add_argument("--delete", action="store_true", help="delete the frames, after a question")
    verb.add_argument("--yes", action="store_true", help="do not ask before deleting")
    add_overwrite(verb)


def _footage(parsed: argparse.Namespace) -> Exit:
    from framegate.stages.footage.kept_exports import KeptFootage

    _check(parsed)
    data = data_folder(parsed.data)
    before = given_time("--before", parsed.before)
    shown = KeptFootage(data, named(parsed.sources), before)
    _print(data, shown)
    if parsed.sheet is not None:
        picture = shown.sheet(parsed.sheet.suffix.lower(), parsed.blur_faces)
        write_whole("--sheet", parsed.sheet, picture, parsed.overwrite)
        print(f"sheet: {parsed.sheet}")
    if parsed.export is not None:
        with Meter() as meter:
            n_pictures = shown.export(parsed.export, parsed.form, meter)
        print(f"exported: {n_pictures} pictures to {parsed.export}")
    if parsed.delete:
        return _delete(shown, parsed.yes)
    return Exit.DONE


def _check(parsed: argparse.Namespace) -> None:
    """Check the options. ConfigFaults with all faults."""
    faults = []
    if parsed.data is not None and not parsed.data.is_dir():
        faults.append(f"-d {parsed.data}: this folder does not exist")
    if parsed.sheet is not None:
        if parsed.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            faults.append(f"--sheet {parsed.sheet}: the name must end in .png or .jpg")
        faults += output_faults("--sheet", parsed.sheet, Inputs({}), parsed.overwrite)
    if parsed.blur_faces and parsed.sheet is None:
        faults.append(
            "--blur-faces needs --sheet; exported frames are for learning and never blurred"
        )
    if parsed.delete and (parsed.sheet or parsed.export):
        faults.append("--delete cannot be used with --sheet or --export; export first, then delete")
    try:
        given_time("--before", parsed.before)
    except ConfigFaults as error:
        faults += error.faults
    if faults:
        raise ConfigFaults(faults)


def _print(data: Path, shown: KeptFootage) -> None:
    say(f"footage in {data}")
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for column in ("frames", "days", "MB", "answered"):
        table.add_column(column, justify="right")
    table.add_column("why kept")
    table.add_column("from, to")
    for row in shown.rows:
        reasons = [f"{n} {reason}" for reason, n in row.whys.items()]
        lines = [", ".join(batch) for batch in _batches(reasons)]
        span = ""
        if row.frames:
            span = f"{_day(row.first)}\n{_day(row.last)}"
        table.add_row(
            row.source,
            str(row.frames),
            str(row.days),
            f"{row.nbytes / 1e6:.1f}",
            str(row.answered),
            ",\n".join(lines),
            span,
        )
    Console().print(table)
    for row in shown.rows:
        if row.unreadable:
            files = counted(row.unreadable, "incomplete file")
            say(f"{row.source}: {files} left out")


def _batches(reasons: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(reasons), _REASONS_IN_LINE):
        yield reasons[start : start + _REASONS_IN_LINE]


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _delete(shown: KeptFootage, is_sure: bool) -> Exit:
    frames = sum(row.frames for row in shown.rows)
    nbytes = sum(row.nbytes for row in shown.rows)
    names = ", ".join(row.source for row in shown.rows)
    if not is_sure:
        person = Person(sys.stdin.isatty())
        if not person.is_there:
            raise ConfigFaults(
                ["--delete asks for a confirmation, which needs a terminal; without one, add --yes"]
            )
        question = f"Delete {frames} frames ({nbytes / 1e6:.1f} MB) of {names} permanently? [y/N]"
        if person.says(question).lower() not in ("y", "yes"):
            print("nothing was deleted")
            return Exit.DONE
    print(f"deleted: {shown.delete()} frames")
    return Exit.DONE
