"""`framegate rules`: show and change the rules of an active run, without a restart."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.help import ending
from framegate.pipeline.config.toml_edit import toml, value_at
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigChange,
    ConfigRequest,
    EditableConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.run.rpc import ANSWER_S, ask, find_run

_KINDS: Final = ("rules", "areas", "lines", "profiles")  # tables of [events]


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "rules",
        description="Show and change the rules of an active run, with their areas, lines and "
        "profiles, and its filters, sinks and masks. Each change is written into the configuration "
        "file, whose comments stay, and applies from the next frames on. No camera is touched.",
        epilog=ending(
            "framegate rules list",
            "framegate rules set events.areas.porch 'points = [[0, 0], [1, 0], [1, 1]]'",
            "framegate rules set events.rules.visitor 'when = \"inside\"' 'area = \"porch\"'",
            "framegate rules off visitor",
            "framegate rules profile night",
            "framegate rules undo",
            page="events",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _register_list(verbs)
    _register_set(verbs)
    _register_switches(verbs)
    _register_history(verbs)


def _register_list(verbs: Any) -> None:
    verb = verbs.add_parser(
        "list",
        help="print the rules of a run",
        description="Print the rules of an active run as its file has them, and what of the file "
        "waits for the next start.",
        epilog=ending("framegate rules list", "framegate rules list --json", page="events"),
    )
    verb.set_defaults(command=_list)
    _add_run(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")


def _register_set(verbs: Any) -> None:
    verb = verbs.add_parser(
        "set",
        help="set keys of a rule, an area, a filter, a sink or a mask",
        description="Set keys of a table in the configuration file, which is added if it does not "
        "exist. Other keys stay.",
        epilog=ending(
            "framegate rules set events.rules.visitor 'severity = \"alert\"'",
            "framegate rules set events.rules.lost 'when = \"state\"' 'state = \"lost\"'",
            "framegate rules set privacy.masks 'yard = [[[0, 0], [0.3, 0], [0.3, 0.3]]]'",
            page="events",
        ),
    )
    verb.set_defaults(command=_set)
    verb.add_argument("path", metavar="TABLE", help="such as events.rules.NAME or filters.NAME")
    verb.add_argument("keys", nargs="+", metavar="KEY=VALUE", help="key with its value, as TOML")
    _add_run(verb)
    verb = verbs.add_parser(
        "remove",
        help="remove a rule, an area, a filter, a sink or a mask",
        description="Remove a table or a key from the configuration file.",
        epilog=ending(
            "framegate rules remove events.rules.visitor",
            "framegate rules remove privacy.masks.yard",
            page="events",
        ),
    )
    verb.set_defaults(command=_remove)
    verb.add_argument("path", metavar="PATH", help="such as events.rules.NAME or filters.NAME")
    _add_run(verb)


def _register_switches(verbs: Any) -> None:
    for name, is_on in (("on", True), ("off", False)):
        verb = verbs.add_parser(
            name,
            help=f"switch rules {name}",
            description=f"Switch rules {name}. Their lines stay in the file.",
            epilog=ending(f"framegate rules {name} visitor", page="events"),
        )
        verb.set_defaults(command=_switch, is_on=is_on)
        verb.add_argument("rules", nargs="+", metavar="RULE", help="name of a rule")
        _add_run(verb)
    verb = verbs.add_parser(
        "profile",
        help="switch the profile",
        description="Switch the profile: the set of rules that is active. Without a name, the "
        "schedules of the profiles decide.",
        epilog=ending("framegate rules profile night", "framegate rules profile", page="events"),
    )
    verb.set_defaults(command=_profile)
    verb.add_argument("profile", nargs="?", default="", metavar="NAME", help="name of the profile")
    _add_run(verb)


def _register_history(verbs: Any) -> None:
    verb = verbs.add_parser(
        "reload",
        help="use the file after an edit by hand",
        description="Use the configuration file as it is now, after an edit by hand.",
        epilog=ending("framegate rules reload", page="events"),
    )
    verb.set_defaults(command=_reload)
    _add_run(verb)
    verb = verbs.add_parser(
        "undo",
        help="undo the last change",
        description="Write the text before the last change into the configuration file. A second "
        "undo brings the change back. With a version of framegate rules history, go back to that.",
        epilog=ending("framegate rules undo", page="events"),
    )
    verb.set_defaults(command=_undo)
    verb.add_argument("version", nargs="?", default="", metavar="VERSION", help="earlier version")
    _add_run(verb)
    verb = verbs.add_parser(
        "history",
        help="list the earlier versions of the file",
        description="List the earlier versions of the configuration file, newest first: when a "
        "change replaced each of them, and what it changed.",
        epilog=ending("framegate rules history", page="events"),
    )
    verb.set_defaults(command=_history)
    _add_run(verb)


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


# -- The verbs.


def _list(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    if parsed.json:
        print(msgspec.json.encode(now).decode())
        return Exit.DONE
    events = now.tables.get("events", {})
    blocks = []
    for kind in _KINDS:
        for name, table in events.get(kind, {}).items():
            lines = [f"[events.{kind}.{name}]"]
            lines += [f"{key} = {toml(value)}" for key, value in table.items()]
            blocks.append("\n".join(lines))
    if blocks:
        print("\n\n".join(blocks))
    else:
        print("the run has no rules; add one: framegate rules set events.rules.NAME KEY=VALUE ...")
    _report(now)
    return Exit.DONE


def _set(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    new = _keys_of(parsed.keys)
    keys = tuple(parsed.path.split("."))
    if keys in (("events",), ("privacy", "masks"), ("gate", "masks")):
        changes = [ConfigChange(f"{parsed.path}.{key}", value) for key, value in new.items()]
    else:
        old = value_at(now.tables, keys) or {}
        if not isinstance(old, dict):
            table, _, key = parsed.path.rpartition(".")
            fault = f"{parsed.path}: it is a key, not a table; set it in its table: "
            raise ConfigFaults([f"{fault}framegate rules set {table} '{key} = VALUE'"])
        changes = [ConfigChange(parsed.path, {**old, **new})]
    return _changed(parsed, now, changes)


def _remove(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    if value_at(now.tables, tuple(parsed.path.split("."))) is None:
        raise ConfigFaults([f"{parsed.path}: {now.file} has no such table or key"])
    return _changed(parsed, now, [ConfigChange(parsed.path, None)])


def _switch(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    known = now.tables.get("events", {}).get("rules", {})
    faults = [
        f"rule {name}: {now.file} has no such rule{did_you_mean(name, known)}"
        for name in parsed.rules
        if name not in known
    ]
    if faults:
        raise ConfigFaults(faults)
    changes = []
    for name in parsed.rules:
        table = {key: value for key, value in known[name].items() if key != "enabled"}
        if not parsed.is_on:
            table["enabled"] = False
        changes.append(ConfigChange(f"events.rules.{name}", table))
    return _changed(parsed, now, changes)


def _profile(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    change = ConfigChange("events.profile", parsed.profile or None)
    return _changed(parsed, now, [change])


def _reload(parsed: argparse.Namespace) -> Exit:
    _report(_asked(parsed, ReloadConfig()))
    return Exit.DONE


def _undo(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    _report(_asked(parsed, RestoreConfig(now.digest, parsed.version)))
    return Exit.DONE


def _history(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    for each in now.history:
        at = datetime.fromtimestamp(each.at).strftime("%Y-%m-%d %H:%M:%S")
        print(f"{each.digest}  replaced {at}  {', '.join(each.changes)}")
    if not now.history:
        print("the file has no earlier versions; framegate rules makes one with each change")
    return Exit.DONE


# -- The run.


def _keys_of(words: Sequence[str]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(words))
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults(
            [f"{' '.join(words)}: not TOML: {error}; a text needs quotes: 'area = \"porch\"'"]
        ) from None


def _changed(
    parsed: argparse.Namespace, now: EditableConfig, changes: Sequence[ConfigChange]
) -> Exit:
    after = _asked(parsed, ChangeConfig(now.digest, changes))
    if after.digest == now.digest:
        print(f"{after.file} has it already")
    _report(after)
    return Exit.DONE


def _report(now: EditableConfig) -> None:
    """Print which rules the run evaluates, and what waits."""
    print(f"# {now.file}: the run evaluates {', '.join(now.versions) or 'no rule'}")
    if now.profile:
        print(f"# profile: {now.profile}")
    for wait in now.waits:
        print(f"# {wait}")


def _asked(parsed: argparse.Namespace, request: ConfigRequest) -> EditableConfig:
    reply = ask(Path(find_run(parsed.data).folder), request, ANSWER_S)
    assert isinstance(reply, EditableConfig)
    return reply
