"""All keys of a pipeline.toml, with their meaning, types and defaults.

They come from the dataclasses that read the tables and from their docstrings. A docstring describes
a field in a line `name  text`, or `name, name  text`, and in the lines after it with a larger
indent. The reference page, `framegate config` and the JSON Schema are made from this module.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec

from framegate.pipeline.config.config import ENGINE_TABLES, Config
from framegate.pipeline.config.read_options import in_words, members, table_type
from framegate.pipeline.config.read_stages import StageTable, own_tables
from framegate.pipeline.contracts.keys import NAME
from framegate.pipeline.contracts.source import Frames
from framegate.pipeline.system.loading import load_declared

ANY: Final = "NAME"  # in a path: a name that the user chooses
_ENTRY: Final = re.compile(r"( *)(\w+(?:, \w+)*)  +(\S.*)")


class _Missing:
    """The type of MISSING."""


MISSING: Final = _Missing()


@dataclass(frozen=True)
class ConfigKey:
    """A key of a table.

    default  default in TOML's types; None: no default; MISSING: the key is required
    limits   metadata of its field: see read_options.py
    text     meaning of the key
    """

    name: str
    hint: Any
    default: Any
    limits: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class SettingsTable:
    """A table of pipeline.toml.

    path      dotted path, such as `gate` or `sources.NAME`
    text      meaning of the table, a sentence; may be empty
    tables    top-level tables that its stage owns
    """

    path: str
    text: str
    settings: tuple[ConfigKey, ...]
    tables: tuple[str, ...] = ()

    def setting(self, name: str) -> ConfigKey | None:
        """Return the key of this name; None if there is none."""
        return next((each for each in self.settings if each.name == name), None)


def tables_of(stages: Iterable[tuple[str, str]]) -> list[SettingsTable]:
    """Return all tables, in the order of the packaged file.

    stages  name and `use` of each stage
    """
    tables = []
    for path, kind in ENGINE_TABLES.items():
        tables += [_table(path, kind), *_named_tables(path, kind)]
    tables.append(_table("sources.NAME.frames", Frames))
    for name, use in stages:
        options = load_declared(use).Options
        tables.append(_table(f"stages.{name}", options))
        for path, kind in own_tables(options).items():
            tables += [_table(path, kind), *_named_tables(path, kind, has_defaults=False)]
    tables.append(_table("stages.NAME", StageTable))
    return tables


def _named_tables(path: str, kind: Any, *, has_defaults: bool = True) -> list[SettingsTable]:
    """Return the tables that a table contains by name, and the tables inside these."""
    tables = []
    for field in dataclasses.fields(kind):
        each = field.metadata.get("each")
        if each is None:
            continue
        named = f"{path}.{field.name}.{ANY}"
        tables.append(_table(named, each, has_defaults=has_defaults))
        for name, hint in get_type_hints(each).items():
            inner = table_type(hint)
            if inner is not None:
                tables.append(_table(f"{named}.{name}", inner))
    return tables


def _table(path: str, kind: Any, *, has_defaults: bool = True) -> SettingsTable:
    """Return the table that `kind` reads. has_defaults: False: a missing key changes nothing"""
    texts = meanings(kind)
    hints = get_type_hints(kind)
    settings = []
    for name, value, limits in _fields(kind):
        if limits.get("table") or limits.get("hidden"):
            continue
        if not has_defaults:
            value = None
        hint = limits.get("said_as", hints[name])
        settings.append(ConfigKey(name, hint, value, limits, texts.get(name, "")))
    own: tuple[str, ...] = ()
    if not issubclass(kind, msgspec.Struct):
        own = tuple(own_tables(kind))
    return SettingsTable(path, lead(kind.__doc__ or ""), tuple(settings), own)


def _fields(kind: Any) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield the name, the default (MISSING if there is none) and the limits of each field."""
    value: Any
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            value = field.default
            if field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            if value is dataclasses.MISSING:
                value = MISSING
            yield field.name, value, field.metadata
        return
    for struct_field in msgspec.structs.fields(kind):
        value = struct_field.default
        if value is msgspec.NODEFAULT:
            value = MISSING
        yield struct_field.name, value, {}


# -- The values of a configuration


@dataclass(frozen=True)
class InForce:
    """The value of a key in a configuration, and the file that sets it ("": the default).

    For a value in an environment variable, this is the name of the variable.
    """

    table: str
    key: str
    value: Any
    origin: str


def in_force(config: Config) -> list[InForce]:
    """Return all keys of a configuration, table by table."""
    values: list[InForce] = []

    def add(table: str, keys: Iterable[tuple[str, Any]]) -> None:
        for key, value in keys:
            values.append(InForce(table, key, value, config.origins.get(f"{table}.{key}", "")))

    for path in ENGINE_TABLES:
        if ANY not in path:
            read = getattr(config, path)
            named = [field.name for field in dataclasses.fields(read) if "each" in field.metadata]
            add(path, [(key, value) for key, value in _values(read) if key not in named])
            for key in named:
                for name, entry in getattr(read, key).items():
                    add(f"{path}.{key}.{name}", _values(entry))
    for name, source in config.sources.items():
        add(f"sources.{name}", _values(source))
    for name, sink in config.sinks.items():
        add(f"sinks.{name}", _values(sink))
    for name, each in config.filters.items():
        add(f"filters.{name}", _values(each))
    for stage in config.stages:
        kind = load_declared(stage.use).Options
        own = own_tables(kind)
        common = [("use", stage.use), ("input", stage.input), ("on_lag", stage.on_lag)]
        add(f"stages.{stage.name}", common)
        given = config.set_options(stage)
        for key, value, limits in _fields(kind):
            if key not in own and not limits.get("hidden"):
                add(f"stages.{stage.name}", [(key, given.get(key, value))])
        for table, table_kind in own.items():
            default = absent(kind, table)
            if table in stage.options:
                default = table_kind()
            given = config.set_options(stage, table)
            add(table, [(key, given.get(key, value)) for key, value in _values(default)])
    add("placement", [(worker, list(names)) for worker, names in config.placement.items()])
    return values


def _values(read: Any) -> list[tuple[str, Any]]:
    return [
        (field.name, msgspec.to_builtins(getattr(read, field.name)))
        for field in dataclasses.fields(read)
    ]


def absent(options: type, table: str) -> Any:
    """Return the value that a stage uses for a missing table of its own."""
    (field,) = (field for field in dataclasses.fields(options) if field.name == table)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


# -- The texts of docstrings


def meanings(kind: type) -> dict[str, str]:
    """Return the descriptions of fields in the docstrings of a type and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        texts |= _entries(base.__doc__ or "")
    return texts


def _entries(text: str) -> dict[str, str]:
    texts: dict[str, list[str]] = {}
    # `names` are the fields of the open entry, which continues while lines are indented further.
    open_at: int | None = None
    names: list[str] = []
    for line in text.expandtabs().splitlines():
        indent = len(line) - len(line.lstrip())
        entry = _ENTRY.fullmatch(line)
        if open_at is not None and line.strip() and indent > open_at:
            for name in names:
                texts[name].append(line.strip())
        elif entry is not None:
            open_at = indent
            names = entry[2].split(", ")
            texts |= {name: [entry[3].strip()] for name in names}
        else:
            open_at = None
    return {name: " ".join(lines) for name, lines in texts.items()}


def lead(text: str) -> str:
    """Return the first paragraph of a docstring without the name of the table; "" if no more."""
    lines = text.strip().split("\n\n")[0].splitlines()
    if not lines or _ENTRY.fullmatch(lines[0]):
        return ""
    paragraph = " ".join(line.strip() for line in lines)
    paragraph = re.sub(r"^(The table )?`\[[\w.]+\]`[.:]? *", "", paragraph)
    if not paragraph or paragraph.startswith("Options of"):
        return ""
    return f"{paragraph[0].upper()}{paragraph[1:]}"


def sentence(text: str) -> str:
    """Return the description of a field with a capital letter and without a full stop."""
    text = text.strip().rstrip(".;")
    if text.partition(" ")[0].isalpha():  # otherwise it begins with a value, which stays
        text = f"{text[:1].upper()}{text[1:]}"
    return text


def type_in_words(setting: ConfigKey) -> str:
    """Return the allowed values of a key in words."""
    return in_words(setting.hint, setting.limits)


# -- A JSON Schema, with which editors complete a pipeline.toml and mark its faults


def schema(stages: Sequence[tuple[str, str]], shipped: Mapping[str, str]) -> dict[str, Any]:
    """Return a JSON Schema (draft 7, which TOML editors support) of a file with these stages.

    stages   name and `use` of each stage
    shipped  `use` of the stages that a file need not name

    It accepts more than Framegate does: it checks neither several keys together, nor files and
    variables, nor the options of other classes.
    """
    tables = {table.path: table for table in tables_of(stages)}
    root: dict[str, Any] = {}
    for path in ENGINE_TABLES:
        if ANY not in path:
            root[path] = _with_named(path, tables)
    source = _object(tables["sources.NAME"])
    source["properties"]["frames"] = {
        "description": source["properties"]["frames"]["description"],
        "anyOf": [{"enum": ["all", "keyframes"]}, _frames(tables["sources.NAME.frames"])],
    }
    sink = _object(tables["sinks.NAME"])
    for entry in (source, sink):
        entry["oneOf"] = [{"required": ["url"]}, {"required": ["url_env"]}]
    root["sources"] = _by_name("Cameras and files, by name", source)
    root["sinks"] = _by_name("Receivers of episodes, by name", sink)
    root["filters"] = _by_name("Filters of objects, by name", _object(tables["filters.NAME"]))
    graph = {}
    any_stage = _object(tables["stages.NAME"])
    for name, use in stages:
        table = tables[f"stages.{name}"]
        graph[name] = _stage(table, any_stage, shipped.get(name), use)
        for own in table.tables:
            root[own] = _with_named(own, tables)
    root["stages"] = {
        "description": "Stages, by name: shipped stages with other options, and your own",
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


def _by_name(description: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of tables by name."""
    return {
        "description": description,
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": entry,
    }


def _with_named(path: str, tables: Mapping[str, SettingsTable]) -> dict[str, Any]:
    """Return the schema of a top-level table, with the tables that it contains by name."""
    root = _object(tables[path])
    for key, property_ in root["properties"].items():
        each = tables.get(f"{path}.{key}.{ANY}")
        if each is None:
            continue
        entry = _object(each)
        property_["additionalProperties"] = entry
        for name, old in entry["properties"].items():
            inner = tables.get(f"{path}.{key}.{ANY}.{name}")
            if inner is not None:
                entry["properties"][name] = _with_inner(old, inner)
    return root


def _with_inner(old: dict[str, Any], inner: SettingsTable) -> dict[str, Any]:
    """Return the schema of a key with the keys of its table; it may accept other types, too."""
    table = {"description": old["description"], **_object(inner)}
    others = [kind for kind in old.get("anyOf", ()) if kind["type"] != "object"]
    if others:
        return {"anyOf": [*others, table]}
    return table


def _stage(
    table: SettingsTable, any_stage: dict[str, Any], shipped: str | None, use: str
) -> dict[str, Any]:
    """Return the schema of a stage: the options of its class, or any with another class."""
    own = _object(table)
    properties = {**any_stage["properties"], **own["properties"]}
    properties["use"] = {**properties["use"], "const": use}
    own["properties"] = properties
    required = own.pop("required", [])
    if shipped != use:
        required = ["use", *required]
    if required:
        own["required"] = required
    other = {
        **any_stage,
        "properties": {**any_stage["properties"], "use": {"not": {"const": use}}},
        "additionalProperties": True,
    }
    return {"anyOf": [own, other]}


def _frames(table: SettingsTable) -> dict[str, Any]:
    result = _object(table)
    result["properties"]["every"]["minimum"] = 1
    result["properties"]["max_fps"]["exclusiveMinimum"] = 0
    return result


def _object(table: SettingsTable) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "object"}
    if table.text:
        result["description"] = table.text
    result["properties"] = {each.name: _property(each) for each in table.settings}
    required = [each.name for each in table.settings if each.default is MISSING]
    if required:
        result["required"] = required
    return {**result, "additionalProperties": False}


def _property(setting: ConfigKey) -> dict[str, Any]:
    result: dict[str, Any] = {"description": sentence(setting.text)}
    kinds = [_kind(part) for part in members(setting.hint) if part is not type(None)]
    if len(kinds) == 1:
        result |= kinds[0]
    else:
        result["anyOf"] = kinds
    names = {"least": "minimum", "most": "maximum"}
    result |= {names[key]: value for key, value in setting.limits.items() if key in names}
    result |= setting.limits.get("schema", {})
    if setting.default is not MISSING and setting.default not in (None, "", {}, ()):
        result["default"] = setting.default
    return result


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
