"""`framegate filters`: list, add and remove the filters of a run, and learn one from verdicts."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from framegate.cli.console.arguments import add_data, add_run
from framegate.cli.help import ending
from framegate.cli.review.events import EpisodeTable
from framegate.pipeline.config.config import named_filter
from framegate.pipeline.config.toml_edit import toml
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
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.teach import FilterOffer, offer, switch_on
from framegate.pipeline.run.ended import data_folder
from framegate.pipeline.run.folder import read_run
from framegate.pipeline.run.rpc import ANSWER_S, NoRun, ask, find_run

_ORIGINS = {"config": "from the configuration", "add": "added", "verdict": "by the verdict about"}


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "filters",
        description="List, add and remove filters: objects that a run drops after detection, and "
        "episodes that it mutes because they look like those that you judged false. A change "
        "applies to the next frames.",
        epilog=ending(
            "framegate filters list",
            "framegate filters add specks 'min_height = 0.05'",
            "framegate filters learn visitor --source door",
            "framegate filters remove specks",
            page="filters",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _register_list(verbs)
    _register_add(verbs)
    _register_learn(verbs)
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
    add_run(verb)


def _register_learn(verbs: Any) -> None:
    verb = verbs.add_parser(
        "learn",
        help="learn from verdicts which episodes of a rule are false",
        description="Compute a filter of ten numbers from the verdicts about a rule at a source, "
        "and print what it would have muted. With --add, the active run mutes such episodes from "
        "now on: they are stored, but sinks do not get them.",
        epilog=ending(
            "framegate filters learn visitor --source door",
            "framegate filters learn visitor --source door --add",
            page="review",
        ),
    )
    verb.set_defaults(command=_learn)
    verb.add_argument("rule", metavar="RULE", help="name of the rule")
    verb.add_argument("--source", metavar="NAME", required=True, help="name of the source")
    add_data(verb)
    verb.add_argument("--add", action="store_true", help="add the filter to the active run")
    verb.add_argument("--json", action="store_true", help="print JSON")


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
    add_run(verb)


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
    origin = f"{_ORIGINS[each.by]} {each.episode}".rstrip()
    if each.rule and each.by == "verdict":
        origin = "learned from verdicts"
    lines = [f"# {origin}", f"[filters.{each.name}]"]
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
    return named_filter(name, table)


def _learn(parsed: argparse.Namespace) -> Exit:
    folder = data_folder(parsed.data)
    with opened(folder / FILE) as database:
        offered = offer(database, parsed.source, parsed.rule)
    if parsed.add:
        name = switch_on(lambda request: _asked(folder, request), offered)
        offered = msgspec.structs.replace(
            offered, filter=name, filter_digest=offered.digest, filter_version=offered.version
        )
    if parsed.json:
        print(msgspec.json.encode(offered).decode())
    else:
        print(as_text(offered))
    return Exit.DONE


def as_text(offered: FilterOffer) -> str:
    """Return an offered filter, and what it would have done, as lines of text."""
    about = f"rule {offered.rule} at {offered.source}"
    trial = offered.trial
    if trial is None or offered.weights is None or offered.miss is None:
        return f"{about}: no filter: {offered.refused}."
    not_counted = offered.right - offered.counted
    lines = [
        f"{about}: a filter from {offered.right} true and {offered.false} false verdicts",
        f"it would have muted {trial.muted} of {trial.episodes} stored episodes",
        f"it mutes {offered.false_muted} of the {offered.false} false ones when it is learned "
        "without the episode, and none of the true ones",
        f"it may miss up to {offered.miss:.0%} of true episodes (confidence 95 %), if later "
        "episodes are like the judged ones",
    ]
    if not_counted:
        lines.append(
            f"{not_counted} true verdicts do not count for this bound: they are about episodes "
            "from after a filter muted one"
        )
    table = EpisodeTable()
    for title, episodes in (("muted", trial.would_mute), ("kept", trial.would_keep)):
        lines.append(f"-- the newest that it would have {title}")
        for episode in episodes[:10]:
            lines += table.lines(episode)
    if offered.filter is None:
        lines.append(
            f"add it: framegate filters learn {offered.rule} --source {offered.source} --add"
        )
    else:
        lines.append(f"added: {offered.filter}")
    return "\n".join(lines)


def _remove(parsed: argparse.Namespace) -> Exit:
    _asked(Path(find_run(parsed.data).folder), RemoveFilter(parsed.name))
    print(f"removed: {parsed.name}")
    return Exit.DONE


def _asked(folder: Path, request: FilterRequest) -> FilterList:
    reply = ask(folder, request, ANSWER_S)
    assert isinstance(reply, FilterList)
    return reply
