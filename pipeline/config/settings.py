"""Every key that a pipeline.toml may have: what it is, may be, and is by default.

It is taken from the code: from the dataclasses that read the tables, and from their docstrings,
which tell of a field in a line `name  text`, or `name, name  text`, and the lines that are indented
further than its name. The reference page, `framegate config` and the JSON Schema are made of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from framegate.pipeline.config.config import ENGINE_TABLES, Config
from framegate.pipeline.config.graph import StageTable, own_tables
from framegate.pipeline.config.options import in_words, members
from framegate.pipeline.contracts.keys import NAME
from framegate.pipeline.contracts.source import Frames
from framegate.pipeline.system.loading import load

ANY: Final = "NAME"  # in a path: a name that the user chooses
_ENTRY: Final = re.compile(r"( *)(\w+(?:, \w+)*)  +(\S.*)")


class _Missing:
    """There is no default: the key must be given."""


MISSING: Final = _Missing()


@dataclass(frozen=True)
class ConfigKey:
    """One key of a table.

    default  as TOML has it; None: none; MISSING: it must be given
    limits   metadata of its field: see options.py
    text     what it is
    """

    name: str
    hint: Any
    default: Any
    limits: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class SettingsTable:
    """A table of pipeline.toml.

    path      dotted, as `gate` or `sources.NAME`
    text      what it is, one sentence; may be empty
    tables    the tables at the top that its stage owns
    """

    path: str
    text: str
    settings: tuple[ConfigKey, ...]
    tables: tuple[str, ...] = ()

    def setting(self, name: str) -> ConfigKey | None:
        """The key of this name."""
        return next((one for one in self.settings if one.name == name), None)


def tables_of(stages: Iterable[tuple[str, str]]) -> list[SettingsTable]:
    """All tables, in the order of the packaged file.

    stages  name and `use` of each
    """
    found = []
    for path, kind in ENGINE_TABLES.items():
        found += [_table(path, kind), *_named_tables(path, kind)]
    found.append(_table("sources.NAME.frames", Frames))
    for name, use in stages:
        options = load(use).Options
        found.append(_table(f"stages.{name}", options))
        for path, kind in own_tables(options).items():
            found += [_table(path, kind), *_named_tables(path, kind, nothing=True)]
    found.append(_table("stages.NAME", StageTable))
    return found


def _named_tables(path: str, kind: Any, *, nothing: bool = False) -> list[SettingsTable]:
    """Tables that a table holds by name, and those that stand in one of these."""
    found = []
    for field in dataclasses.fields(kind):
        if each := field.metadata.get("each"):
            named = f"{path}.{field.name}.{ANY}"
            found.append(_table(named, each, nothing=nothing))
            for name, hint in get_type_hints(each).items():
                inner = next((one for one in members(hint) if dataclasses.is_dataclass(one)), None)
                found += [_table(f"{named}.{name}", inner)] if inner is not None else []
    return found


def _table(path: str, kind: Any, *, nothing: bool = False) -> SettingsTable:
    """nothing: a key that is not said changes nothing, whatever its type has by default."""
    told, hints = meanings(kind), get_type_hints(kind)
    settings = []
    for name, value, limits in _fields(kind):
        if limits.get("table") or limits.get("hidden"):
            continue
        hint, text = limits.get("said_as", hints[name]), told.get(name, "")
        settings.append(ConfigKey(name, hint, None if nothing else value, limits, text))
    own = () if issubclass(kind, msgspec.Struct) else tuple(own_tables(kind))
    return SettingsTable(path, lead(kind.__doc__ or ""), tuple(settings), own)


def _fields(kind: Any) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            value: Any = field.default
            if field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            yield field.name, MISSING if value is dataclasses.MISSING else value, field.metadata
        return
    for one in msgspec.structs.fields(kind):
        yield one.name, MISSING if one.default is msgspec.NODEFAULT else one.default, {}


# -- What is in force.


@dataclass(frozen=True)
class InForce:
    """One key of a configuration: its value, and where that was said ("" by default).

    A value that an environment variable holds is not here; the variable's name is.
    """

    table: str
    key: str
    value: Any
    said_in: str


def in_force(config: Config) -> list[InForce]:
    """All keys of a configuration, table by table."""
    found: list[InForce] = []

    def add(table: str, keys: Iterable[tuple[str, Any]]) -> None:
        for key, value in keys:
            found.append(InForce(table, key, value, config.said.get(f"{table}.{key}", "")))

    for path in ENGINE_TABLES:
        if ANY not in path:
            read = getattr(config, path)
            held = [field.name for field in dataclasses.fields(read) if "each" in field.metadata]
            add(path, [(key, value) for key, value in _values(read) if key not in held])
            for key in held:
                for name, entry in getattr(read, key).items():
                    add(f"{path}.{key}.{name}", _values(entry))
    for name, source in config.sources.items():
        add(f"sources.{name}", _values(source))
    for name, sink in config.sinks.items():
        add(f"sinks.{name}", _values(sink))
    for stage in config.stages:
        kind = load(stage.use).Options
        own = own_tables(kind)
        said = config.said_options(stage)
        add(f"stages.{stage.name}", [
            ("use", stage.use), ("input", stage.input), ("on_lag", stage.on_lag),
            *(
                (key, said.get(key, value))
                for key, value, limits in _fields(kind)
                if key not in own and not limits.get("hidden")
            ),
        ])  # fmt: skip
        for table, holds in own.items():
            usual = holds() if table in stage.options else absent(kind, table)
            given = config.said_options(stage, table)
            add(table, [(key, given.get(key, value)) for key, value in _values(usual)])
    add("placement", [(worker, list(names)) for worker, names in config.placement.items()])
    return found


def _values(read: Any) -> list[tuple[str, Any]]:
    return [
        (field.name, msgspec.to_builtins(getattr(read, field.name)))
        for field in dataclasses.fields(read)
    ]


def absent(options: type, table: str) -> Any:
    """What a stage takes for a table of its own that is not there."""
    (field,) = (field for field in dataclasses.fields(options) if field.name == table)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


# -- What a docstring tells.


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of a type, and of those that it extends, tells of its fields."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        told |= _entries(base.__doc__ or "")
    return told


def _entries(text: str) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    open_at: int | None = None
    names: list[str] = []
    for line in text.expandtabs().splitlines():
        indent = len(line) - len(line.lstrip())
        entry = _ENTRY.fullmatch(line)
        if open_at is not None and line.strip() and indent > open_at:
            for name in names:
                told[name].append(line.strip())
        elif entry is not None:
            open_at, names = indent, entry[2].split(", ")
            told |= {name: [entry[3].strip()] for name in names}
        else:
            open_at = None
    return {name: " ".join(lines) for name, lines in told.items()}


def lead(text: str) -> str:
    """The first paragraph of a docstring, without the name of the table; "" if it says no more."""
    lines = text.strip().split("\n\n")[0].splitlines()
    if not lines or _ENTRY.fullmatch(lines[0]):
        return ""
    said = re.sub(r"^(The table )?`\[[\w.]+\]`[.:]? *", "", " ".join(x.strip() for x in lines))
    if not said or said.startswith("Options of"):
        return ""
    return f"{said[0].upper()}{said[1:]}"


def sentence(text: str) -> str:
    """What a docstring tells of a field, to stand alone."""
    text = text.strip().rstrip(".;")
    if text.partition(" ")[0].isalpha():  # else it names a value, and stays as it is
        text = f"{text[:1].upper()}{text[1:]}"
    return text


def type_in_words(setting: ConfigKey) -> str:
    """Return which values a key takes."""
    return in_words(setting.hint, setting.limits)


# -- As a JSON Schema, by which editors complete a pipeline.toml and underline what is wrong in it.


def schema(stages: Sequence[tuple[str, str]], shipped: Mapping[str, str]) -> dict[str, Any]:
    """A JSON Schema (draft 7, which editors of TOML know) of a file with these stages.

    stages   name and `use` of each
    shipped  `use` of those that a file need not name

    It refuses less than Framegate does: what several keys say together, files, variables, the
    options of a class that the schema was not made for.
    """
    tables = {table.path: table for table in tables_of(stages)}
    root: dict[str, Any] = {}
    for path in ENGINE_TABLES:
        if ANY not in path:
            root[path] = _with_named(path, tables)
    source = _object(tables["sources.NAME"])
    source["oneOf"] = [{"required": ["url"]}, {"required": ["url_env"]}]
    source["properties"]["frames"] = {
        "description": source["properties"]["frames"]["description"],
        "anyOf": [{"enum": ["all", "keyframes"]}, _frames(tables["sources.NAME.frames"])],
    }
    root["sources"] = {
        "description": "Cameras and files, by name",
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": source,
    }
    sink = _object(tables["sinks.NAME"])
    sink["oneOf"] = [{"required": ["url"]}, {"required": ["url_env"]}]
    root["sinks"] = {
        "description": "Receivers of episodes, by name",
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": sink,
    }
    graph, any_stage = {}, _object(tables["stages.NAME"])
    for name, use in stages:
        table = tables[f"stages.{name}"]
        graph[name] = _stage(table, any_stage, shipped.get(name), use)
        for own in table.tables:
            root[own] = _with_named(own, tables)
    root["stages"] = {
        "description": "Stages, by name: the shipped ones where something else is wanted of them, "
        "and your own",
        "type": "object",
        "properties": graph,
        "additionalProperties": {**any_stage, "additionalProperties": True},
    }
    root["placement"] = {
        "description": "Which stages share a process, by a name of that process",
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Framegate's pipeline.toml",
        "type": "object",
        "properties": root,
        "additionalProperties": False,
    }


def _with_named(path: str, tables: Mapping[str, SettingsTable]) -> dict[str, Any]:
    """A table of the root, with those that it holds by name."""
    root = _object(tables[path])
    for key, held in root["properties"].items():
        if each := tables.get(f"{path}.{key}.{ANY}"):
            held["additionalProperties"] = _object(each)
            for name, one in held["additionalProperties"]["properties"].items():
                if inner := tables.get(f"{path}.{key}.{ANY}.{name}"):
                    said = {"description": one.pop("description"), **_object(inner)}
                    kinds = [each for each in one.pop("anyOf", ()) if each["type"] != "object"]
                    one.clear()
                    one |= {"anyOf": [*kinds, said]} if kinds else said
    return root


def _stage(
    table: SettingsTable, any_stage: dict[str, Any], shipped: str | None, use: str
) -> dict[str, Any]:
    """Options of the class, and what every stage has; with another class, any options."""
    said = _object(table)
    properties = {**any_stage["properties"], **said["properties"]}
    properties["use"] = {**properties["use"], "const": use}
    required = [] if shipped == use else ["use"]
    own = {**said, "properties": properties}
    if needed := [*required, *said.get("required", ())]:
        own["required"] = needed
    other = {
        **any_stage,
        "properties": {**any_stage["properties"], "use": {"not": {"const": use}}},
        "additionalProperties": True,
    }
    return {"anyOf": [own, other]}


def _frames(table: SettingsTable) -> dict[str, Any]:
    said = _object(table)
    said["properties"]["every"]["minimum"] = 1
    said["properties"]["max_fps"]["exclusiveMinimum"] = 0
    return said


def _object(table: SettingsTable) -> dict[str, Any]:
    said: dict[str, Any] = {"type": "object"}
    if table.text:
        said["description"] = table.text
    said["properties"] = {one.name: _property(one) for one in table.settings}
    if required := [one.name for one in table.settings if one.default is MISSING]:
        said["required"] = required
    return {**said, "additionalProperties": False}


def _property(setting: ConfigKey) -> dict[str, Any]:
    kinds = [_kind(part) for part in members(setting.hint) if part is not type(None)]
    said: dict[str, Any] = {"description": sentence(setting.text)}
    said |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    names = {"least": "minimum", "most": "maximum"}
    said |= {names[key]: value for key, value in setting.limits.items() if key in names}
    said |= setting.limits.get("schema", {})
    if setting.default is not MISSING and setting.default not in (None, "", {}, ()):
        said["default"] = setting.default
    return said


def _kind(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple and Ellipsis in get_args(hint):
        return {"type": "array", "items": _kind(get_args(hint)[0])}
    if get_origin(hint) is tuple:
        count = len(get_args(hint))
        items = {"type": "array", "items": {"type": "number"}}
        return {**items, "minItems": count, "maxItems": count}
    names = {int: "integer", float: "number", str: "string", bool: "boolean"}
    return {"type": names.get(hint, "object")}
