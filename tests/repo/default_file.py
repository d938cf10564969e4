"""`pipeline.toml`, the default configuration with comments, made from the classes that read it.

The graph (`use` and `input` of each stage) is taken from the present file. All else, keys, values
and comments, is what `framegate config explain` shows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from framegate.cli.config import toml
from framegate.pipeline.config.config import DEFAULTS, read_config
from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.config.read_options import members, range_in_words
from framegate.pipeline.config.settings import (
    ANY,
    MISSING,
    ConfigKey,
    SettingsTable,
    absent,
    sentence,
    tables_of,
)
from framegate.pipeline.system.loading import load

FILE: Final = Path(__file__).resolve().parents[2] / "pipeline.toml"
WIDTH: Final = 100
HEAD: Final = """\
# The default configuration: every key with its meaning and its default value.
#
# Your own pipeline.toml contains only what differs; it overrides these values key by key. The
# command `framegate run -c FILE` reads it; without -c, `framegate run` reads ./pipeline.toml.
# `framegate check` checks a file and starts nothing. `framegate config explain KEY` explains a key.
#
# A line that starts with "#" and a key is an example: that key has no default value.
# `make pages` writes this file from the classes that read it.
"""
SECTIONS: Final = {
    "sources.NAME": "Sources.",
    "store": "Storage, processes and logs.",
    "learn": "Data that are kept, and areas that are hidden.",
    "filters.NAME": "Objects that are dropped after detection.",
    "events": "Rules, and the receivers of their episodes. docs/events.md has recipes.",
    "stages.decode": "The graph. Each stage has one input; decode has none. Your file need not "
    "name these stages. It leaves one out if the next stage reads the one before it.",
    "stages.NAME": "A stage of your own, and the processes that host stages.",
}
"""Headings, by the table that they stand before."""
NOTES: Final = {
    "stages.windows": "The stage that keeps a window for each tracked object, and makes a visit "
    "when its track ends.",
    "stages.cache": "The stage that publishes results. Its name is part of keys in the store and "
    "of positions that readers keep.",
}
"""Texts of tables, in place of those of their classes."""
NAMES: Final = {
    "sources": "entrance",
    "filters": "street",
    "areas": "porch",
    "lines": "gate",
    "rules": "visitor",
    "profiles": "night",
    "sinks": "office",
    "stages": "people",
}
EXAMPLES: Final[dict[str, Any]] = {
    "sources.NAME.url": "clips/entrance.mp4",
    "sources.NAME.url_env": "ENTRANCE_URL",
    "sources.NAME.look_at": "rtsp://camera.example/small",
    "sources.NAME.look_at_env": "ENTRANCE_SMALL_URL",
    "sources.NAME.live": True,
    "sources.NAME.decode": "lazy",
    "sources.NAME.events": "onvif",
    "store.url_env": "FRAMEGATE_STORE",
    "store.tls_ca": "store-ca.pem",
    "store.tls_cert": "framegate.pem",
    "store.tls_key": "framegate.key",
    "store.listen": "127.0.0.1:6379",
    "store.listen_password_file": "viewer.password",
    "workers.shards": 2,
    "http.listen": "127.0.0.1:8686",
    "http.token_file": "http.token",
    "http.accounts_file": "accounts.toml",
    "http.proxies": ["127.0.0.1"],
    "http.tls_certificate": "fullchain.pem",
    "http.tls_key": "privkey.pem",
    "http.origins": ["https://wall.example"],
    "sound.labels": ["Smoke detector, smoke alarm"],
    "privacy.masks": {"entrance": [[[0.0, 0.0], [0.4, 0.0], [0.4, 0.25], [0.0, 0.25]]]},
    "events.view": "turned to the gate",
    "events.timezone": "Europe/Berlin",
    "events.profile": "night",
    "events.snoozed": "2026-12-01T15:00:00+01:00/2026-12-01T15:30:00+01:00",
    "events.snoozed_sources": {"entrance": "2026-12-01T15:00:00+01:00/2026-12-01T16:00:00+01:00"},
    "events.profiles.NAME.rules": ["visitor"],
    "events.profiles.NAME.schedule": ["22:00-06:00"],
    "events.areas.NAME.points": [[0.1, 0.5], [0.6, 0.5], [0.6, 0.98], [0.1, 0.98]],
    "events.areas.NAME.source": "entrance",
    "events.areas.NAME.metres": [[0, 0], [4, 0], [4, 6], [0, 6]],
    "events.lines.NAME.points": [[0.2, 0.6], [0.8, 0.62]],
    "events.lines.NAME.source": "entrance",
    "events.rules.NAME.when": "inside",
    "events.rules.NAME.area": "porch",
    "events.rules.NAME.line": "gate",
    "events.rules.NAME.source": "entrance",
    "events.rules.NAME.labels": ["person"],
    "events.rules.NAME.snoozed": "2026-12-01T15:00:00+01:00/2026-12-01T15:30:00+01:00",
    "events.rules.NAME.at_least": 3,
    "events.rules.NAME.at_most": 0,
    "events.rules.NAME.faster_m_s": 2.0,
    "events.rules.NAME.heading": 90.0,
    "events.rules.NAME.others": ["person"],
    "events.rules.NAME.closer": 1.0,
    "events.rules.NAME.closer_m": 2.0,
    "events.rules.NAME.ttc_s": 2.0,
    "events.rules.NAME.state": "lost",
    "events.rules.NAME.like": "like2:BQAAAAAAAAAA...",
    "events.rules.NAME.schedule": ["22:00-06:00"],
    "events.rules.NAME.after.rule": "arrival",
    "filters.NAME.sources": ["entrance"],
    "filters.NAME.labels": ["person"],
    "filters.NAME.area": [[0.0, 0.0], [1.0, 0.0], [1.0, 0.3], [0.0, 0.3]],
    "filters.NAME.min_score": 0.6,
    "filters.NAME.min_height": 0.05,
    "filters.NAME.max_height": 0.9,
    "filters.NAME.min_width": 0.02,
    "filters.NAME.max_width": 0.5,
    "filters.NAME.min_aspect": 1.0,
    "filters.NAME.max_aspect": 5.0,
    "filters.NAME.box": [0.62, 0.4, 0.68, 0.6],
    "filters.NAME.rule": "visitor",
    "filters.NAME.weights": [0.4, 1.1, 0.2, 0.0, 0.3, 0.5, 0.1, 0.0, -0.1, -0.6],
    "filters.NAME.rule_version": "1a2b3c4d",
    "sinks.NAME.kind": "webhook",
    "sinks.NAME.url": "https://receiver.example/hook",
    "sinks.NAME.url_env": "HOOK_URL",
    "sinks.NAME.rules": ["visitor"],
    "sinks.NAME.sources": ["entrance"],
    "sinks.NAME.severities": ["alert"],
    "sinks.NAME.give_up_s": 3600.0,
    "sinks.NAME.secret_env": "HOOK_SECRET",
    "sinks.NAME.secret_file": "hook.secret",
    "sinks.NAME.quiet": ["22:00-07:00"],
    "stages.detect.classes": ["person", "car"],
    "stages.detect.min_score": 0.35,
    "stages.detect.min_scores": {"person": 0.5, "car": 0.4},
    "gate.masks": {"entrance": [[[0, 0], [200, 0], [200, 32], [0, 32]]]},
    "models.registry": "models",
    "models.sources.NAME.model": "helmets",
    "models.sources.NAME.classes": ["helmet"],
    "models.sources.NAME.min_score": 0.4,
    "models.sources.NAME.min_scores": {"helmet": 0.5},
    "stages.escalate.classes": ["person", "car"],
    "escalate.url": "redis://store.example:6379/0",
    "escalate.url_env": "FRAMEGATE_HEAVY",
    "promise.audited": 0.01,
    "stages.NAME.use": "my_stages:PeoplePerMinute",
    "stages.NAME.input": "cache",
}
"""Values of keys that have no default."""
PLACEMENT: Final = """\
# Stages that share a process, by the name of that process. If one of them is on the main path, the
# rest of that path is in ingest, infer and publish, or with [workers] shards in the shards. A stage
# of your own beside the main path gets a process of its own.
[placement]
#rest = ["escalate", "cache"]
"""


def default_file() -> str:
    """Return the text of the file."""
    stages = {f"stages.{entry.name}": entry for entry in read_config(DEFAULTS, "").stages}
    tables = tables_of((entry.name, entry.use) for entry in stages.values())
    tables = [table for table in tables if table.path != "sources.NAME.frames"]
    paths = {table.path for table in tables}
    tables.sort(key=lambda table: table.path != "sources.NAME")  # what most files begin with
    own = {
        path: absent(load(entry.use).Options, path)
        for entry in stages.values()
        for path in _own_tables(tables, entry)
    }
    parts = [HEAD]
    for table in tables:
        if table.path in SECTIONS:
            parts.append(_comment(SECTIONS[table.path], "# -- "))
        entry, values = stages.get(table.path), own.get(table.path)
        parts.append("".join(_table(table, entry, values, paths)))
    return "\n".join([*parts, PLACEMENT])


def _own_tables(tables: list[SettingsTable], entry: StageEntry) -> tuple[str, ...]:
    return next(table.tables for table in tables if table.path == f"stages.{entry.name}")


def _table(
    table: SettingsTable, entry: StageEntry | None, values: Any, paths: Container[str]
) -> Iterator[str]:
    """Yield the lines of a table.

    values  those in force where the file leaves the table out; None: the defaults of its class
    paths   of all tables: a key with a table of its own is described there
    """
    named = ANY in table.path
    if text := NOTES.get(table.path, table.text):
        yield _comment(text, "# ")
    yield f"{'#' if named else ''}[{_with_name(table.path)}]\n"
    if entry is not None:
        yield f"use = {toml(entry.use)}\n"
        if entry.input is not None:
            yield f"input = {toml(entry.input)}\n"
    for setting in table.settings:
        path = f"{table.path}.{setting.name}"
        holds_tables = "each" in setting.limits
        is_table_elsewhere = path in paths
        if holds_tables or is_table_elsewhere:
            continue
        value = setting.default if values is None else getattr(values, setting.name)
        is_example = value is MISSING or value in (None, "", (), {})
        if is_example:
            value = EXAMPLES[path]
        yield _comment(_meaning(setting), "# ")
        yield f"{'#' if named or is_example else ''}{setting.name} = {toml(value)}\n"


def _meaning(setting: ConfigKey) -> str:
    """Return what a key is, with what is allowed unless the text names it."""
    text = f"{sentence(setting.text)}."
    kinds = members(setting.hint)
    words = []
    for kind in kinds:
        words += get_args(kind) if get_origin(kind) is Literal else ()
    takes_any_text = str in kinds
    if not takes_any_text and any(word not in text for word in words):
        return f"{text} Allowed: {', '.join(words)}."
    limits = range_in_words(setting.limits)
    return f"{text} Allowed: {limits}." if limits else text


def _with_name(path: str) -> str:
    """Return a table's path with examples in place of the names that a user chooses."""
    parts = path.split(".")
    for at, part in enumerate(parts):
        if part == ANY:
            parts[at] = NAMES[parts[at - 1]]
    return ".".join(parts)


def _comment(text: str, begin: str) -> str:
    lines = textwrap.wrap(text, WIDTH - len(begin), break_long_words=False, break_on_hyphens=False)
    return "".join(f"{begin if n == 0 else '# '}{line}\n" for n, line in enumerate(lines))
