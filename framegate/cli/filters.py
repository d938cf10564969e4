"""`framegate filters`: list, add and remove the object filters of a run."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from framegate.cli.arguments import add_data
from framegate.cli.config import toml
from framegate.cli.help import ending
from framegate.pipeline.config.read_options import read_options
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    FilterRequest,
    GetFilters,
    NamedFilter,
    ObjectFilter,
    RemoveFilter,
)
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.run.folder import read_run
from framegate.pipeline.run.rpc import ANSWER_S, NoRun, ask, find_run

_ORIGINS = {"config": "from the configuration", "add": "added", "verdict": "by the verdict about"}


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "filters",
        description="List, add and remove object filters: objects that a run drops after "
        "detection. A change applies to the next frames; the run's log names the first one.",
        epilog=ending(
            "framegate filters list",
            "framegate filters add specks 'min_height = 0.05'",
            "framegate filters remove specks",
            page="filters",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _register_list(verbs)
    _register_add(verbs)
    _register_remove(verbs)


def _register_list(verbs: Any) -> None:
    verb = verbs.add_parser(
        "list",
        help="print the filters of a run as pipeline.toml has them",
        description="Print the filters of a run as pipeline.toml has them, each with its origin. "
        "Of an ended run, these are the filters that were added to it.",
        epilog=ending("framegate filters list", "framegate filters list --json", page="filters"),
    )
    verb.set_defaults(command=_list)
    add_data(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")


def _register_add(verbs: Any) -> None:
    verb = verbs.add_parser(
        "add",
        help="add a filter to an active run",
        description="Add a filter to an active run. It stays, also after --resume, until it is "
        "removed. Its keys are those of [filters.NAME].",
        epilog=ending(
            "framegate filters add specks 'min_height = 0.05'",
            "framegate filters add cars 'sources = [\"yard\"]' 'labels = [\"car\"]'",
            page="filters",
        ),
    )
    verb.set_defaults(command=_add)
    verb.add_argument("name", metavar="NAME", help="name of the filter")
    verb.add_argument(
        "keys", nargs="+", metavar="KEY=VALUE", help="key of [filters.NAME] with a value, as TOML"
    )
    verb.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def _register_remove(verbs: Any) -> None:
    verb = verbs.add_parser(
        "remove",
        help="remove a filter that was added to an active run",
        description="Remove a filter that was added to an active run. Its objects are seen again "
        "in the next frames.",
        epilog=ending("framegate filters remove street", page="filters"),
    )
    verb.set_defaults(command=_remove)
    verb.add_argument("name", metavar="NAME", help="name of the filter")
    verb.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def _list(parsed: argparse.Namespace) -> Exit:
    filters = _filters(data_folder(parsed.data))
    if parsed.json:
        print(msgspec.json.encode(filters).decode())
    elif filters:
        print("\n\n".join(as_toml(each) for each in filters))
    else:
        print("the run has no object filters; add one: framegate filters add NAME KEY=VALUE")
    return Exit.DONE


def _filters(folder: Path) -> Sequence[NamedFilter]:
    try:
        return _asked(folder, GetFilters()).filters
    except NoRun:
        run = read_run(folder)
        if run is None:
            raise
        return run.filters


def as_toml(each: NamedFilter) -> str:
    """Return a filter as pipeline.toml has it, with its origin as a comment."""
    lines = [f"# {_ORIGINS[each.by]} {each.episode}".rstrip(), f"[filters.{each.name}]"]
    for key in fields(ObjectFilter):
        value = getattr(each, key.name)
        if value != key.default:
            lines.append(f"{key.name} = {toml(value)}")
    return "\n".join(lines)


def _add(parsed: argparse.Namespace) -> Exit:
    new = filter_of(parsed.name, parsed.keys)
    _asked(Path(find_run(parsed.data).folder), AddFilter(new))
    print(f"added: {new.name}")
    return Exit.DONE


def filter_of(name: str, keys: Sequence[str]) -> NamedFilter:
    """Return the filter with these keys, each KEY=VALUE in TOML. ConfigFaults."""
    try:
        table = tomllib.loads("\n".join(keys))
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults(
            [f"filter {name}: {error}; each argument must be KEY=VALUE, with TOML's quotes"]
        ) from None
    faults: list[str] = []
    new = read_options(ObjectFilter, table, f"filters.{name}.", faults)
    if new is None:
        raise ConfigFaults(faults)
    values: dict[str, Any] = vars(new)
    return NamedFilter(**values, name=name)


def _remove(parsed: argparse.Namespace) -> Exit:
    _asked(Path(find_run(parsed.data).folder), RemoveFilter(parsed.name))
    print(f"removed: {parsed.name}")
    return Exit.DONE


def _asked(folder: Path, request: FilterRequest) -> FilterList:
    reply = ask(folder, request, ANSWER_S)
    assert isinstance(reply, FilterList)
    return reply
