"""Which sources a resumed run goes on with.

Files must be those of the run, unchanged. Cameras follow the configuration: what is new in it
comes, what it no longer has goes; those of the command line and of `framegate add` stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from framegate.pipeline.contracts.errors import DataFolderRefused
from framegate.pipeline.run.folder import RunFile, RunSource, changed


@dataclass(frozen=True)
class Resumed:
    """run: with the sources that stay, as they are said now. new: to be added."""

    run: RunFile
    new: tuple[RunSource, ...] = ()


def resumed(known: RunFile, asked: Sequence[RunSource], folder: Path) -> Resumed:
    """Return what the run goes on with. DataFolderRefused if files are not what they were.

    asked: what configuration and command line say now
    """
    if not known.begun:
        return _begin_again(known, asked)
    theirs = {source.name: source for source in known.sources}
    now = {source.name: source for source in asked}
    strange = [
        f"source {source.name}: it is not in the run that {folder} holds ({', '.join(theirs)}); "
        "--resume goes on with those, so name none, or cameras only"
        for source in asked
        if not _fits(theirs.get(source.name), source)
    ]
    gone = [
        source.name
        for source in known.sources
        if source.live and source.by == "config" and source.name not in now
    ]
    stay = [
        _as_said(source, now.get(source.name))
        for source in known.sources
        if source.name not in gone
    ]
    if faults := strange + changed(stay):
        raise DataFolderRefused("\n".join(faults))
    new = [source for source in asked if source.name not in theirs]
    return Resumed(replace(known, sources=tuple(stay)), tuple(new))


def _begin_again(known: RunFile, asked: Sequence[RunSource]) -> Resumed:
    """Return a run that was killed before it had all sources: it keeps its id for what it owns."""
    now = {source.name for source in asked}
    wanted = [s for s in known.sources if s.name not in now and not (s.live and s.by == "config")]
    if faults := changed(wanted):
        raise DataFolderRefused("\n".join(faults))
    return Resumed(replace(known, sources=()), (*asked, *wanted))


def _fits(known: RunSource | None, asked: RunSource) -> bool:
    """Return whether a source may go on: a camera may be new, or moved; a file must be the same."""
    if asked.live:
        return known is None or known.live
    return known is not None and (known.url, known.url_env) == (asked.url, asked.url_env)


def _as_said(known: RunSource, asked: RunSource | None) -> RunSource:
    if asked is None or not known.live or known.ending:
        return known
    return replace(asked, past=known.past, model=known.model, before=known.before)
