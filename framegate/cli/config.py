"""`framegate config`: print the effective configuration, the defaults, a key, or the schema."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from framegate.cli.console.arguments import add_config, configuration
from framegate.cli.help import ending
from framegate.pipeline.config.config import (
    DEFAULTS,
    Config,
    find_config,
    packaged_text,
    read_config,
    shipped_graph,
)
from framegate.pipeline.config.settings import (
    ANY,
    MISSING,
    ConfigKey,
    InForce,
    SettingsTable,
    in_force,
    schema,
    sentence,
    tables_of,
    type_in_words,
)
from framegate.pipeline.config.toml_edit import toml
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.redaction import redacted

SCHEMA_FILE = "pipeline.schema.json"
WIDTH = 78
_COLUMN = 44  # column of the origin of a value


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "config",
        description="Print the effective configuration as TOML, with the origin of each key: "
        "command line, file or default. Passwords are left out.",
        epilog=ending(
            "framegate config",
            "framegate config explain gate.object_age_s",
            "framegate config schema > pipeline.schema.json",
            page="configuration",
        ),
    )
    command.set_defaults(command=_config, sources=[])
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--default", action="store_true", help="print the defaults, with a comment for each key"
    )
    which.add_argument(
        "--resolved", action="store_true", help="print the effective configuration (the default)"
    )
    add_config(command)
    verbs = command.add_subparsers(metavar="VERB")
    explain = verbs.add_parser(
        "explain",
        help="explain a key or a table: meaning, allowed values, current value",
        description="Explain a key (gate.object_age_s, or object_age_s) or a table (gate).",
        epilog=ending("framegate config explain gate.object_age_s", page="configuration"),
    )
    explain.set_defaults(command=_explain)
    explain.add_argument(
        "keys", nargs="+", metavar="KEY", help="key or table, such as gate.object_age_s or gate"
    )
    described = verbs.add_parser(
        "schema",
        help="print a JSON Schema of pipeline.toml, for editors",
        description="Print a JSON Schema for your pipeline.toml, including your own stages. Save "
        f"it beside pipeline.toml, whose first line is then #:schema ./{SCHEMA_FILE}",
        epilog=ending(f"framegate config schema > {SCHEMA_FILE}", page="configuration"),
    )
    described.set_defaults(command=_schema)
    for verb in (explain, described):
        verb.add_argument(
            "-c",
            dest="config",
            type=Path,
            metavar="FILE",
            default=argparse.SUPPRESS,  # for an option before the verb
            help="configuration file",
        )


def _config(parsed: argparse.Namespace) -> Exit:
    if parsed.default:
        print(packaged_text(), end="")
        return Exit.DONE
    print("\n".join(resolved(configuration(parsed)[1])))
    return Exit.DONE


def resolved(config: Config) -> Iterator[str]:
    """Return the effective configuration as TOML; a comment gives the origin of each line."""
    yield f"# From {config.origin}. Each line shows the origin of its key; passwords are left out."
    for table, keys in groupby(in_force(config), lambda entry: entry.table):
        yield f"\n[{table}]"
        for entry in keys:
            if entry.value is None:
                yield f"# {entry.key}: none"
                continue
            line = f"{entry.key} = {redacted(toml(entry.value))}"
            yield f"{line:<{_COLUMN - 2}}  # {entry.origin or 'default'}"


# -- One key, or all of a table.


def _explain(parsed: argparse.Namespace) -> Exit:
    try:
        config = _file(parsed)
    except ConfigFaults:  # users ask about a key because its value is refused
        config = read_config(DEFAULTS, "")
    tables = tables_of((stage.name, stage.use) for stage in config.stages)
    texts = [explained(key, tables, in_force(config)) for key in parsed.keys]
    print("\n\n".join(texts))
    return Exit.DONE


def _file(parsed: argparse.Namespace) -> Config:
    return read_config(*find_config(parsed.config))


def explained(path: str, tables: Iterable[SettingsTable], values: Iterable[InForce]) -> str:
    """Explain a key, or each key of a table. ConfigFaults for an unknown key."""
    tables, values = list(tables), list(values)
    whole = [table for table in tables if _is(table.path, path)]
    head, _, key = path.rpartition(".")
    texts = []
    for table in tables:
        setting = table.setting(key)
        if setting is not None and (not head or _is(table.path, head)):
            texts.append(_setting(setting, head or table.path, values))
    texts += [_table(table, path, values) for table in whole[:1]]
    if not texts:
        raise ConfigFaults(
            [f"{path}: pipeline.toml has no such key or table{_near(path, key, tables)}"]
        )
    return "\n\n".join(texts)


def _near(path: str, key: str, tables: Iterable[SettingsTable]) -> str:
    """Return a hint at the path that was probably meant, else at a key of that name."""
    paths: list[str] = []
    keys: list[str] = []
    for table in tables:
        names = [setting.name for setting in table.settings]
        keys += names
        paths += [table.path, *(f"{table.path}.{name}" for name in names)]
    return did_you_mean(path, paths) or did_you_mean(key, keys)


def _is(path: str, asked: str) -> bool:
    """Return whether a table's path is the requested one; a name that users choose matches any."""
    if path == "stages.NAME" and not asked.endswith(ANY):
        return False
    return re.fullmatch(re.escape(path).replace(ANY, r"[A-Za-z0-9_]+"), asked) is not None


def _table(table: SettingsTable, path: str, values: list[InForce]) -> str:
    lead = table.text
    if table.tables:
        names = ", ".join(f"[{name}]" for name in table.tables)
        lead = f"{lead} Its tables: {names}.".lstrip()
    head = f"[{path}]"
    if lead:
        head += f"\n{textwrap.fill(lead, WIDTH)}"
    parts = [head]
    parts += [_setting(setting, path, values) for setting in table.settings]
    return "\n\n".join(parts)


def _setting(setting: ConfigKey, path: str, values: list[InForce]) -> str:
    if setting.default is MISSING:
        usual = "must be given"
    elif setting.default in (None, "", {}, ()):
        usual = "no default"
    else:
        usual = f"default {toml(setting.default)}"
    lines = [
        f"{path}.{setting.name}: {type_in_words(setting)}; {usual}",
        textwrap.fill(sentence(setting.text), WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    for entry in values:
        if entry.origin and entry.key == setting.name and _is(path, entry.table):
            value = redacted(toml(entry.value))
            lines.append(f"  Value: {value} ({entry.origin}: {entry.table})")
    return "\n".join(lines)


def _schema(parsed: argparse.Namespace) -> Exit:
    print(schema_text(_file(parsed)), end="")
    return Exit.DONE


def schema_text(config: Config) -> str:
    """Return the JSON Schema of a file with the stages of a configuration."""
    stages = [(stage.name, stage.use) for stage in config.stages]
    shipped = {name: entry["use"] for name, entry in shipped_graph()["stages"].items()}
    return json.dumps(schema(stages, shipped), indent=1) + "\n"
