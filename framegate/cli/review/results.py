"""`framegate results`: print the results of an active or ended run."""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.console.arguments import add_place, place_faults
from framegate.cli.help import ending
from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import RESULTS, Channel, Follower, outputs
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.client.when import WHEN, Span, TimeOrPosition, moment
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, ResultsTrimmed
from framegate.pipeline.contracts.result_exports import COLUMNS, Row, rows
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.run.ended import open_store
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.outputs import Inputs, add_overwrite, output_faults, written_whole

PATIENCE_S: Final = 60.0
# Stages whose output is not stored if the next stage is in the same worker.
_PASSED_ON: Final = ("decode", "escalate", "windows")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "results",
        description="Print the results of an active or ended run, the oldest first, as text, "
        "JSON, CSV or Parquet. Ends with the newest result, unless --follow is "
        "given.",
        epilog=ending(
            "framegate results",
            "framegate results --source entrance --from 10m --follow",
            "framegate results -d data --csv",
            page="results",
        ),
    )
    command.set_defaults(command=_results)
    add_place(command)
    command.add_argument(
        "--source",
        dest="names",
        action="append",
        metavar="NAME",
        help="only this source (default: all); may be repeated",
    )
    command.add_argument("--from", dest="first", metavar="WHEN", help=f"start: {WHEN}")
    command.add_argument("--to", dest="last", metavar="WHEN", help="end, as --from")
    command.add_argument(
        "--follow", action="store_true", help="continue with new results until the sources end"
    )
    command.add_argument("--stage", metavar="NAME", help="outputs of this stage instead of results")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one result per line as JSON")
    form.add_argument("--csv", action="store_true", help="print one object per line as CSV")
    form.add_argument(
        "--parquet",
        type=Path,
        metavar="FILE",
        help="write one object per row into FILE (needs pyarrow)",
    )
    add_overwrite(command)


def _results(parsed: argparse.Namespace) -> Exit:
    span = Span(_moment("--from", parsed.first), _moment("--to", parsed.last))
    if faults := _faults(parsed):
        raise ConfigFaults(faults)
    if parsed.stage in _PASSED_ON:
        to_user.warning(
            "the output of %s is stored only if a stage of another worker reads it", parsed.stage
        )
    store = url_said(parsed.store)
    with open_store(parsed.data, store) as opened:
        if parsed.data is None and opened.ended:
            to_user.warning("results of the run in %s, which has ended", opened.folder)
        channel: Channel[Any] = RESULTS
        if parsed.stage is not None:
            opened.check_stage(parsed.stage)
            channel = outputs(parsed.stage, object)
        follows = parsed.follow and not opened.ended
        follower = Follower(parsed.names, "earliest", follows, channel, once=not follows)
        with Subscription[Any](Reader(opened.url, follower, PATIENCE_S)) as stored:
            wanted = (entry for entry in entries_of(stored) if span.has(entry))
            has_some = True
            try:
                has_some = _write(wanted, parsed)
            except KeyboardInterrupt:  # the usual end of --follow
                if not follows:
                    raise
    if not has_some:
        to_user.warning("the store has no such results")
    return Exit.DONE


def _faults(parsed: argparse.Namespace) -> list[str]:
    faults = place_faults(parsed)
    if parsed.follow and parsed.last is not None:
        faults.append("give --follow or --to, not both")
    if parsed.stage and (parsed.csv or parsed.parquet):
        faults.append("--stage: the output of a stage has no columns; use --json")
    if parsed.parquet is not None:
        if find_spec("pyarrow") is None:
            faults.append(
                "--parquet needs the package pyarrow, which is missing; run: pip install pyarrow"
            )
        faults += output_faults("--parquet", parsed.parquet, Inputs({}), parsed.overwrite)
    return faults


def entries_of(stored: Subscription[Any]) -> Iterator[Any]:
    """Yield entries; report those that were removed before they were read."""
    while True:
        try:
            entry = next(stored)
        except StopIteration:
            return
        except ResultsTrimmed as gap:
            to_user.warning("%s", gap)
            continue
        yield entry


def _moment(option: str, text: str | None) -> TimeOrPosition | None:
    """Return the time or position of an option. ConfigFaults."""
    if text is None:
        return None
    try:
        return moment(text, time.time())
    except ValueError as error:
        raise ConfigFaults([f"{option} {error}"]) from None


# -- Formats; each function returns whether there were any results.


def _write(entries: Iterator[Any], parsed: argparse.Namespace) -> bool:
    if parsed.parquet is not None:
        return _as_parquet(entries, parsed.parquet, parsed.overwrite)
    if parsed.csv:
        return _as_csv(entries, parsed.follow)
    if parsed.json:
        return _as_lines(entries, parsed.follow, lambda each: [msgspec.json.encode(each).decode()])
    return _as_lines(entries, parsed.follow, _ResultLines().lines)


def _as_lines(entries: Iterator[Any], flush: bool, lines: Callable[[Any], Iterable[str]]) -> bool:
    has_some = False
    for entry in entries:
        has_some = True
        for line in lines(entry):
            print(line, flush=flush)
    return has_some


class _ResultLines:
    """Print results as text; nothing is cut, and long lines continue below."""

    def __init__(self) -> None:
        self._width = 0  # no limit
        if sys.stdout.isatty():
            self._width = shutil.get_terminal_size().columns
        self._day: date | None = None
        self._has_head = False
        self._source = len("source")

    def lines(self, each: Result | Output[Any]) -> Iterator[str]:
        """Yield the lines of one entry, after new headings and a new day if there are any."""
        clock = "end"  # an output at the end of an epoch belongs to no frame
        day = self._day
        if each.captured:
            at = datetime.fromtimestamp(each.captured)
            clock = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
            day = at.date()
        is_wider = len(each.source) > self._source
        self._source = max(self._source, len(each.source))
        if not self._has_head or is_wider:
            self._has_head = True
            yield self._head("time", "source", "frame", "how", "objects")
        if day != self._day:
            self._day = day
            yield f"-- {self._day}"
        if isinstance(each, Output):
            how, text = each.stage, msgspec.json.encode(each.output).decode()
        else:
            how, text = each.outcome, _objects(each)
            if each.camera_events:
                text += f"; camera: {', '.join(each.camera_events)}"
        head = self._head(clock, each.source, str(each.position), how, "")
        if not self._width or self._width - len(head) < _LEAST_TEXT:
            yield head + text
            return
        inside = textwrap.wrap(text, self._width - len(head), break_long_words=False)
        yield head + "".join(inside[:1])
        yield from (" " * len(head) + line for line in inside[1:])

    def _head(self, clock: str, source: str, frame: str, how: str, rest: str) -> str:
        return f"{clock:<12}  {source:<{self._source}}  {frame:>8}  {how:<8}  {rest}"


_LEAST_TEXT: Final = 20


def _objects(result: Result) -> str:
    """Return the objects in words; of a failed frame, the reason."""
    if result.outcome == "failed":
        return result.reason
    texts = []
    for box in result.objects:
        track = f" #{box.track}" if box.track else ""
        texts.append(f"{box.label}{track} {box.score:.2f}")
    return ", ".join(texts) or "-"


# -- One object per row.


ROWS: Final = 10_000  # of a Parquet file, in memory at once


def _as_csv(results: Iterator[Result], flush: bool) -> bool:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([name for name, _ in COLUMNS])
    has_some = False
    for result in results:
        has_some = True
        out.writerows(rows(result))
        if flush:
            sys.stdout.flush()
    return has_some


def _as_parquet(results: Iterator[Result], path: Path, overwrite: bool) -> bool:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS])
    has_some = False

    def all_rows() -> Iterator[Row]:
        nonlocal has_some
        for result in results:
            has_some = True
            yield from rows(result)

    with (
        written_whole("--parquet", path, overwrite) as new,
        parquet.ParquetWriter(new, schema) as file,
    ):
        remaining = all_rows()
        while batch := list(islice(remaining, ROWS)):
            columns = [list(column) for column in zip(*batch, strict=True)]
            file.write_table(pyarrow.table(columns, schema=schema))
    print(path)
    return has_some
