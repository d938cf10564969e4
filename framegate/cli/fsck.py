"""`framegate fsck`: check that the parts of a data folder agree, and repair them."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from framegate.cli.console.terminal import counted, say
from framegate.cli.help import ending
from framegate.pipeline.config.store import url_said
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.fsck.check import Checked, fsck
from framegate.pipeline.fsck.snapshot import Discrepancy
from framegate.pipeline.recording.index_tables import RecordingLost
from framegate.pipeline.system.logs import to_user


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "fsck",
        description="Compare results, counters, positions, events, episodes, recordings, "
        "their index and pins in the data folder of an ended or killed run. "
        "Without --repair, nothing changes.",
        epilog=ending(
            "framegate fsck data",
            "framegate fsck data --repair",
            "framegate fsck data --json",
            page="running",
            more="exit codes: 0 consistent, 1 inconsistent, 2 no such folder, or a run uses "
            "it,\n  3 store",
        ),
    )
    command.set_defaults(command=_fsck)
    command.add_argument("data", type=Path, metavar="DATA", help="data folder of a run")
    command.add_argument(
        "--repair",
        action="store_true",
        help="rebuild the index of recordings, pins and the database of episodes from "
        "their sources, and remove files of interrupted writes",
    )
    command.add_argument("--json", action="store_true", help="print one finding per line as JSON")
    command.add_argument(
        "--store", metavar="URL", help="the run's store, or env:NAME (default: embedded)"
    )


def _fsck(parsed: argparse.Namespace) -> Exit:
    try:
        checked = fsck(parsed.data, store=url_said(parsed.store), repairs=parsed.repair)
    except (OSError, sqlite3.Error, RecordingLost) as error:
        to_user.error("%s cannot be checked: %s", parsed.data, error)
        return Exit.SOURCE_FAILED
    if parsed.json:
        for finding in checked.findings:
            print(msgspec.json.encode(finding).decode())
    else:
        _show(parsed.data, checked)
    return Exit.DONE if checked.is_consistent else Exit.SOURCE_FAILED


def _show(folder: Path, checked: Checked) -> None:
    for finding in checked.repaired:
        say(f"repaired: {finding.subject}: {finding.found}")
    if checked.findings:
        Console().print(table(checked.findings))
    faults = sum(finding.kind == "fault" for finding in checked.findings)
    verdict = counted(faults, "fault") if faults else "consistent"
    say(f"{folder}: {verdict}; checked {_extent(checked)}")


def _extent(checked: Checked) -> str:
    snapshot = checked.snapshot
    results = sum(len(source.results.frames) for source in snapshot.sources)
    parts = [counted(len(snapshot.sources), "source"), counted(results, "result")]
    if snapshot.episodes is not None:
        parts.append(counted(len(snapshot.episodes.episodes), "episode"))
    if snapshot.recordings is not None:
        parts.append(counted(len(snapshot.recordings.files), "recorded file"))
    return ", ".join(parts)


def table(findings: Sequence[Discrepancy]) -> Table:
    """Return the findings as a table."""
    shown = Table(box=None, pad_edge=False)
    for column in ("", "where", "found", "expected", "what to do"):
        shown.add_column(column, overflow="fold")
    for finding in findings:
        cells = (finding.kind, finding.subject, finding.found, finding.expected, finding.advice)
        shown.add_row(*map(Text, cells))
    return shown
