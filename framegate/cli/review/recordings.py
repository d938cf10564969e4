"""`framegate recordings`: list the recordings of a run, and export ranges of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from framegate.cli.console.arguments import add_data, given_time, place_faults
from framegate.cli.console.terminal import Meter, say
from framegate.cli.help import ending
from framegate.pipeline.client.when import TIME
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.recorded_range import RecordedRange
from framegate.pipeline.fleet.recording_places import RecordingPlace, all_places
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index, RecordedSource, Segment, Trim
from framegate.pipeline.recording.playlist import parts
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults

_CAUSES = {"age": "days", "bytes": "bytes", "space": "free_bytes"}


def register(commands: Any) -> None:
    """Add the command and its sub-command to the command line."""
    command = commands.add_parser(
        "recordings",
        description="List the recordings of an active or ended run. `export` writes a range "
        "as one MP4 file.",
        epilog=ending(
            "framegate recordings",
            "framegate recordings -d data --json",
            "framegate recordings --store redis://store.example",
            "framegate recordings export entrance --from 10:30 --to 10:32",
            page="recording",
        ),
    )
    command.set_defaults(command=_recordings)
    add_data(command)
    command.add_argument(
        "--store",
        metavar="URL",
        help="list the hosts of a fleet with their recordings, from its store; env:NAME reads the "
        "URL from a variable; not with -d",
    )
    command.add_argument("--json", action="store_true", help="print one source per line as JSON")
    verbs = command.add_subparsers(metavar="VERB")
    verb = verbs.add_parser(
        "export",
        help="export a range as one MP4 file",
        description="Write a range of a recording as one MP4, without encoding it again. It "
        "starts at the exact time. If the camera changed its picture size or "
        "codec, there is one file for each. With --blur-faces, every frame is "
        "encoded again as VP9, with blurred faces and without sound; this takes "
        "one to four seconds of a core per second of video.",
        epilog=ending(
            "framegate recordings export entrance --from 10:30 --to 10:32",
            "framegate recordings export entrance --from 15m -o visit.mp4",
            "framegate recordings export entrance --from 15m --blur-faces",
            page="recording",
        ),
    )
    verb.set_defaults(command=_export)
    verb.add_argument("source", metavar="SOURCE", help="name of a source")
    add_data(verb)
    verb.add_argument("--from", dest="since", metavar="WHEN", help=f"start of the range: {TIME}")
    verb.add_argument(
        "--to",
        dest="until",
        metavar="WHEN",
        help="end of the range (default: the end of the recording)",
    )
    verb.add_argument(
        "-o",
        dest="file",
        type=Path,
        metavar="FILE",
        help="file to write (default: ./SOURCE-TIME.mp4)",
    )
    verb.add_argument(
        "--blur-faces", action="store_true", help="blur faces; best effort; encodes again"
    )
    add_overwrite(verb)


def _opened(data: Path) -> Index:
    """Open the index, and add the files that have no row in it."""
    index = Index(data, makes=False)
    rebuild(index)
    return index


def _recordings(parsed: argparse.Namespace) -> Exit:
    faults = place_faults(parsed)
    if faults:
        raise ConfigFaults(faults)
    store = url_said(parsed.store)
    if store is not None:
        return _of_fleet(store, parsed.json)
    data = data_folder(parsed.data)
    with closing(_opened(data)) as index:
        recorded, trims = index.recorded(), index.trims()
    if not recorded:
        to_user.warning("the run has no recordings")
    if parsed.json:
        for source in recorded:
            print(msgspec.json.encode(source).decode())
        return Exit.DONE
    say(f"recordings in {data}")
    if recorded:
        Console().print(_table(recorded))
    for trim in trims:
        say(_describe(trim))
    return Exit.DONE


def _of_fleet(store: str, as_json: bool) -> Exit:
    """List the recordings of all hosts of a fleet."""
    places = all_places(store)
    if not places:
        to_user.warning("the slots of this store have no recordings")
    if as_json:
        for place in places:
            print(msgspec.json.encode(place).decode())
        return Exit.DONE
    if places:
        Console().print(_places_table(places))
    return Exit.DONE


def _places_table(places: Sequence[RecordingPlace]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("source", "from, to", "slot", "host", "data folder"):
        table.add_column(column, overflow="fold")
    for place in places:
        table.add_row(
            place.source,
            f"{_local_time(place.since)}\n{_local_time(place.until)}",
            place.slot,
            f"{place.host}\n{place.http}".rstrip(),
            place.folder,
        )
    return table


def _table(recorded: Sequence[RecordedSource]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("from, to")
    for column in ("recorded", "MB", "MB in clips"):
        table.add_column(column, justify="right")
    table.add_column("sound")
    for source in recorded:
        sound = "yes" if source.sound else "no"
        table.add_row(
            source.source,
            f"{_local_time(source.since)}\n{_local_time(source.until)}",
            _length(source.seconds),
            f"{source.nbytes / 1e6:.1f}",
            f"{source.pinned_bytes / 1e6:.1f}",
            sound,
        )
    return table


def _describe(trim: Trim) -> str:
    return (
        f"{trim.source}: {trim.segments} files, {trim.nbytes / 1e6:.1f} MB were deleted because of "
        f"[record] {_CAUSES[trim.cause]}; the newest was of {_local_time(trim.until)}"
    )


def _local_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _length(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _export(parsed: argparse.Namespace) -> Exit:
    since, until = _range(parsed.since, parsed.until)
    with closing(_opened(data_folder(parsed.data))) as index:
        segments = _segments(index, parsed.source, since, until)
        made = parts(segments)
        first = max(since, segments[0].captured)
        name = time.strftime("%Y%m%dT%H%M%S", time.localtime(first))
        file = parsed.file or Path(f"{parsed.source}-{name}.mp4")
        files = [file]
        files += [file.with_stem(f"{file.stem}-{n}") for n in range(2, len(made) + 1)]
        faults = []
        for each in files:
            faults += output_faults("-o", each, Inputs({}), parsed.overwrite)
        if faults:
            raise ConfigFaults(faults)
        for each, part in zip(files, made, strict=True):
            begin_s = max(0.0, since - part[0].captured)
            seconds = until - max(since, part[0].captured)
            if parsed.blur_faces:
                from framegate.stages.draw.faces import write_blurred_clip

                with Meter() as meter:
                    write_blurred_clip(index.folder, part, each, begin_s, seconds, meter)
            else:
                from framegate.stages.decode.clip import write_clip

                write_clip(index.folder, part, each, begin_s, seconds)
            print(f"written: {each}")
    return Exit.DONE


def recorded_places(named: Sequence[str], since: str | None, until: str | None) -> dict[str, str]:
    """Return the places of recorded sources for `framegate run --from-recording`, by name.

    named  SOURCE of the active or last run, or DATA/SOURCE
    ConfigFaults if nothing, or several kinds of pictures, were recorded in the range.
    """
    begin, end = _range(since, until, ("--since", "--until"))
    places: dict[str, str] = {}
    for word in named:
        folder, _, source = word.rpartition("/")
        if source in places:
            raise ConfigFaults([f"--from-recording {word}: two sources have this name"])
        data = _recorded_in(folder, source)
        with closing(_opened(data)) as index:
            found = _segments(index, source, begin, end)
            first = found[0].captured
            last = max(each.captured_end for each in found)
            files = index.within(source, first, last)
        made = parts(files)
        if len(made) > 1:
            change = _local_time(made[1][0].captured)
            raise ConfigFaults(
                [
                    f"--from-recording {word}: its pictures have another size or codec since "
                    f"{change}; give a range before or after this with --since and --until"
                ]
            )
        places[source] = RecordedRange(data, source, first, last, len(files)).place
    return places


def _recorded_in(folder: str, source: str) -> Path:
    """Return the folder with the recordings of a source; "": that of the active or last run."""
    if folder:
        return Path(folder)
    try:
        return data_folder(None)
    except ConfigFaults:  # its hint names -d, which is the folder of the new run here
        raise ConfigFaults(
            [
                f"--from-recording {source}: not exactly one run is active on this host; name its "
                f"data folder: --from-recording DATA/{source}"
            ]
        ) from None


def _range(
    since: str | None, until: str | None, options: tuple[str, str] = ("--from", "--to")
) -> tuple[float, float]:
    """Return the range in UNIX seconds. ConfigFaults with all faults, which name the options."""
    faults: list[str] = []
    begin, end = options
    read = {begin: 0.0, end: float("inf")}
    for option, text in ((begin, since), (end, until)):
        try:
            at = given_time(option, text)
        except ConfigFaults as error:
            faults += error.faults
            continue
        if at is not None:
            read[option] = at
    if not faults and read[begin] >= read[end]:
        faults.append(f"{begin} {since} {end} {until}: the end must be after the start")
    if faults:
        raise ConfigFaults(faults)
    return read[begin], read[end]


def _segments(index: Index, source: str, since: float, until: float) -> Sequence[Segment]:
    """Return the segments of a range. ConfigFaults, with the recorded range, if there are none."""
    recorded = {each.source: each for each in index.recorded()}
    if source not in recorded:
        near = did_you_mean(source, recorded)
        known = ", ".join(recorded) or "no source"
        raise ConfigFaults(
            [f"{source}: the run recorded nothing of this source; it recorded: {known}{near}"]
        )
    segments = index.between(source, since, until)
    if not segments:
        first = _local_time(recorded[source].since)
        last = _local_time(recorded[source].until)
        raise ConfigFaults(
            [
                f"{source}: nothing was recorded in this range; recordings exist from {first} to "
                f"{last}"
            ]
        )
    return segments
