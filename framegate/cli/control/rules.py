"""`framegate rules`: show and change the rules of an active run, without a restart."""

from __future__ import annotations

import argparse
import re
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.console.arguments import add_run
from framegate.cli.help import ending
from framegate.pipeline.client.when import time_of
from framegate.pipeline.config.switches import (
    AskConfig,
    Snoozed,
    snooze,
    snoozes,
    switch_profile,
    switch_rules,
    unsnooze,
)
from framegate.pipeline.config.toml_edit import toml, value_at
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, RequestRefused
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

_ENDS_S: Final = 2.0  # an earlier end is that of `unsnooze`, at the next whole second but one
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
            "framegate rules snooze visitor 30m",
            "framegate rules profile night",
            "framegate rules undo",
            page="events",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _register_list(verbs)
    _register_set(verbs)
    _register_switches(verbs)
    _register_snoozes(verbs)
    _register_history(verbs)


def _register_list(verbs: Any) -> None:
    verb = verbs.add_parser(
        "list",
        help="print the rules of a run",
        description="Print the rules of an active run as its file has them, and the parts of the "
        "file that wait for the next start.",
        epilog=ending("framegate rules list", "framegate rules list --json", page="events"),
    )
    verb.set_defaults(command=_list)
    add_run(verb)
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
    add_run(verb)
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
    add_run(verb)


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
        add_run(verb)
    verb = verbs.add_parser(
        "profile",
        help="switch the profile",
        description="Switch the profile: the set of rules that is active. Without a name, the "
        "schedules of the profiles decide.",
        epilog=ending("framegate rules profile night", "framegate rules profile", page="events"),
    )
    verb.set_defaults(command=_profile)
    verb.add_argument("profile", nargs="?", default="", metavar="NAME", help="name of the profile")
    add_run(verb)


def _register_snoozes(verbs: Any) -> None:
    verb = verbs.add_parser(
        "snooze",
        help="let rules start no episode for a while",
        description="Let a rule, the rules of a source, or all rules start no episode for a while. "
        "Open episodes end as at the end of a schedule.",
        epilog=ending(
            "framegate rules snooze visitor 30m",
            "framegate rules snooze --source yard --until 18:00",
            "framegate rules snooze --all 1h",
            page="events",
        ),
    )
    verb.set_defaults(command=_snooze)
    verb.add_argument(
        "words",
        nargs="*",
        metavar="RULE DURATION",
        help="name of the rule, and for how long: 90s, 30m or 2h",
    )
    verb.add_argument("--until", metavar="WHEN", help="end (18:00 or 2026-12-01T07:00)")
    _add_snoozed(verb)
    verb = verbs.add_parser(
        "unsnooze",
        help="end a snooze early",
        description="Let rules start episodes again before the end of their snooze.",
        epilog=ending(
            "framegate rules unsnooze visitor", "framegate rules unsnooze --all", page="events"
        ),
    )
    verb.set_defaults(command=_unsnooze)
    verb.add_argument("words", nargs="*", metavar="RULE", help="name of the rule")
    _add_snoozed(verb)


def _add_snoozed(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--source", metavar="NAME", help="the rules of this source, not one rule")
    verb.add_argument("--all", action="store_true", help="all rules")
    add_run(verb)


def _register_history(verbs: Any) -> None:
    verb = verbs.add_parser(
        "reload",
        help="use the file after an edit by hand",
        description="Use the configuration file as it is now, after an edit by hand.",
        epilog=ending("framegate rules reload", page="events"),
    )
    verb.set_defaults(command=_reload)
    add_run(verb)
    verb = verbs.add_parser(
        "undo",
        help="undo the last change",
        description="Write the text before the last change into the configuration file. A second "
        "undo brings the change back. With a version of framegate rules history, go back to that.",
        epilog=ending("framegate rules undo", page="events"),
    )
    verb.set_defaults(command=_undo)
    verb.add_argument("version", nargs="?", default="", metavar="VERSION", help="earlier version")
    add_run(verb)
    verb = verbs.add_parser(
        "history",
        help="list the earlier versions of the file",
        description="List the earlier versions of the configuration file, newest first: when a "
        "change replaced each of them, and what it changed.",
        epilog=ending("framegate rules history", page="events"),
    )
    verb.set_defaults(command=_history)
    add_run(verb)


# -- The verbs.


def _list(parsed: argparse.Namespace) -> Exit:
    now = _asked(parsed, GetConfig())
    if parsed.json:
        print(msgspec.json.encode(now).decode())
        return Exit.DONE
    blocks = []
    for kind in _KINDS:
        tables = value_at(now.tables, ("events", kind))
        if not isinstance(tables, Mapping):  # none, or an edit by hand: `waits` has the fault
            continue
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                blocks.append(f"events.{kind}.{name} = {toml(table)}")
                continue
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
    return _reported(parsed, lambda ask: switch_rules(ask, parsed.rules, parsed.is_on))


def _profile(parsed: argparse.Namespace) -> Exit:
    return _reported(parsed, lambda ask: switch_profile(ask, parsed.profile))


def _snooze(parsed: argparse.Namespace) -> Exit:
    what, words = _snoozed(parsed)
    now = time.time()
    if parsed.until is not None:
        until = _coming(parsed.until, now)
    elif words:
        try:
            until = now + duration_s(words.pop(0))
        except ValueError as error:
            raise ConfigFaults([f"DURATION {error}"]) from None
    else:
        raise ConfigFaults([f"for how long? framegate rules snooze {_option(what)} 30m"])
    _refuse_rest(words)
    return _reported(parsed, lambda ask: snooze(ask, what, until, now))


def _unsnooze(parsed: argparse.Namespace) -> Exit:
    what, words = _snoozed(parsed)
    _refuse_rest(words)
    return _reported(parsed, lambda ask: unsnooze(ask, what, time.time()))


def _snoozed(parsed: argparse.Namespace) -> tuple[Snoozed, list[str]]:
    """Return what the command line names, and the words after it. ConfigFaults."""
    words = list(parsed.words)
    if parsed.all and parsed.source:
        raise ConfigFaults(["--all and --source: give one of them"])
    if parsed.all:
        return Snoozed(), words
    if parsed.source:
        return Snoozed(source=parsed.source), words
    if not words:
        raise ConfigFaults(["which rules? give the name of a rule, --source NAME or --all"])
    return Snoozed(rule=words.pop(0)), words


def _option(what: Snoozed) -> str:
    """Return what is snoozed as the command line names it."""
    if what.source:
        return f"--source {what.source}"
    return what.rule or "--all"


def _refuse_rest(words: Sequence[str]) -> None:
    if words:
        raise ConfigFaults(
            [f"{' '.join(words)}: not used; give RULE, --source NAME or --all, and one end"]
        )


def _coming(text: str, now: float) -> float:
    """Return the UNIX seconds of a time; a time of the day that is over is of tomorrow."""
    try:
        until = time_of(text, now)
    except ValueError as error:
        raise ConfigFaults([f"--until {error}"]) from None
    if until <= now and re.fullmatch(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?", text):
        until = (datetime.fromtimestamp(until) + timedelta(days=1)).timestamp()
    return until


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
            [f"{' '.join(words)}: not TOML: {error}; a string needs quotes: 'area = \"porch\"'"]
        ) from None


def _changed(
    parsed: argparse.Namespace, now: EditableConfig, changes: Sequence[ConfigChange]
) -> Exit:
    after = _asked(parsed, ChangeConfig(now.digest, changes))
    if after.digest == now.digest:
        print(f"{after.file} has it already")
    _report(after)
    return Exit.DONE


def _reported(parsed: argparse.Namespace, switch: Callable[[AskConfig], EditableConfig]) -> Exit:
    """Make a switch and print the configuration after it. ConfigFaults if it is refused."""
    try:
        after = switch(lambda request: _asked(parsed, request))
    except RequestRefused as error:
        raise ConfigFaults([str(error)]) from None
    _report(after)
    return Exit.DONE


def _report(now: EditableConfig) -> None:
    """Print which rules the run evaluates, which are off, and what waits."""
    off = [
        name
        for name in now.versions
        if value_at(now.tables, ("events", "rules", name, "enabled")) is False
    ]
    evaluated = [name for name in now.versions if name not in off]
    print(f"# {now.file}: the run evaluates {', '.join(evaluated) or 'no rule'}")
    if off:
        print(f"# off: {', '.join(off)}")
    if now.profile:
        print(f"# profile: {now.profile}")
    for what, until in snoozes(now, time.time() + _ENDS_S):
        print(f"# snoozed until {datetime.fromtimestamp(until):%Y-%m-%d %H:%M:%S}: {what}")
    for wait in now.waits:
        print(f"# {wait}")


def _asked(parsed: argparse.Namespace, request: ConfigRequest) -> EditableConfig:
    reply = ask(Path(find_run(parsed.data).folder), request, ANSWER_S)
    assert isinstance(reply, EditableConfig)
    return reply
