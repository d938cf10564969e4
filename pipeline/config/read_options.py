"""Read a TOML table into a frozen dataclass. All faults are reported at once, with their key paths.

The type of a field decides which values it takes: bool, int, float, str, Literal, tuple[X, ...],
dict, `| None`, or a dataclass, which is a table of its own. The metadata of a field can have:

    least, most  limits of a number
    check        a function that returns a fault of a value, or None
    holds        the name of another field. The first field names an environment variable; the
                 second field gets the value of that variable. A secret can only come this way
    schema       a part of a JSON Schema, where the type is too general (settings.py)
    each         the dataclass of the tables that this table holds by name
    said_as      the type in a file, where the field has another type

A method `faults` returns the faults of several values together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.redaction import remember, remember_url

T = TypeVar("T")
SECRETS: Final = "secrets.env"  # the file in which `framegate init` writes variables


def read_options(kind: type[T], table: dict[str, Any], path: str, faults: list[str]) -> T | None:
    """Return a `kind` with the values of `table`. If there are faults, append them and return None.

    path  of the table, with a dot at its end
    """
    before = len(faults)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = _hints(kind)  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            faults.append(f"{path}{key}: unknown key; {_known_keys(key, fields, hints)}")
    values = {}
    for name, field in fields.items():
        hint, limits = hints[name], field.metadata
        if name in table:
            values[name] = _read_value(hint, table[name], limits, f"{path}{name}", faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{path}{name}: missing; it must be {in_words(hint, limits)}")
    if len(faults) > before:
        return None
    read = kind(**values)
    together: list[str] = getattr(read, "faults", list)()
    faults += [f"{path}{fault}" for fault in together]
    if together:
        return None
    return read


@functools.cache  # a fleet has thousands of tables of one kind
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def read_named(
    kind: type[T], table: Mapping[str, Any], path: str, content: str, faults: list[str]
) -> dict[str, T]:
    """Return a `kind` for each table in `table`, by name. Append the faults, and leave out tables
    that have some.

    path     of the table that holds them
    content  what each of them must be, in words
    """
    read = {}
    for name, entry in table.items():
        if not is_name(name):
            faults.append(f"{path}.{name}: a name is {NAME_RULE}")
        if not isinstance(entry, dict):
            faults.append(f"{path}.{name} = {entry!r}: must be {content}")
            continue
        options = read_options(kind, entry, f"{path}.{name}.", faults)
        if options is not None:
            read[name] = options
    return read


def _known_keys(key: str, fields: Mapping[str, Any], hints: Mapping[str, Any]) -> str:
    """Return the known keys of a table in words, with the most similar one to an unknown key."""
    own_tables = [name for name, field in fields.items() if field.metadata.get("table")]
    for name in own_tables:
        if key in (field.name for field in dataclasses.fields(hints[name])):
            return f"it is a key of [{name}]"
    keys = sorted(fields.keys() - set(own_tables))
    if not keys:
        return "this table has no keys"
    return f"known keys are {listed(keys)}{did_you_mean(key, keys)}"


def _read_value(hint: Any, value: Any, limits: Any, path: str, faults: list[str]) -> Any:
    """Return a value as the field has it; append its faults."""
    inner = table_type(hint)
    if inner and isinstance(value, dict):
        return read_options(inner, value, f"{path}.", faults)
    fault = _fault(hint, value, limits)
    if inner and inner is hint:
        fault = "must be a table"
    if fault is not None:
        faults.append(f"{path} = {value!r}: {fault}")
    if hint is float and isinstance(value, int) and fault is None:
        return float(value)
    return _with_tuples(value)


def table_type(hint: Any) -> Any:
    """Return the dataclass that a type is or has among its members; None if there is none."""
    return next((part for part in members(hint) if dataclasses.is_dataclass(part)), None)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union; for another type the type itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_tuples(item) for item in value)
    return value


def _fault(hint: Any, value: Any, limits: Any) -> str | None:
    is_number = isinstance(value, int | float)
    if not _fits(hint, value) or (is_number and not _is_within(value, limits)):
        return f"must be {in_words(hint, limits)}{_similar_word(hint, value)}"
    if "check" not in limits:
        return None
    fault: str | None = limits["check"](value)
    return fault


def _is_within(value: float, limits: Any) -> bool:
    least, most = limits.get("least", value), limits.get("most", value)
    return math.isfinite(value) and bool(least <= value <= most)


def _is_whole(value: Any) -> bool:
    """Return whether a value is an integer of TOML; Python's parser also takes longer ones."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and -(2**63) <= value < 2**63


def _fits(hint: Any, value: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple) and _items_fit(get_args(hint), value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, float) or _is_whole(value)
    if hint is int:
        return _is_whole(value)
    return isinstance(value, hint)


def _items_fit(kinds: tuple[Any, ...], items: Any) -> bool:
    if kinds[-1] is Ellipsis:
        return all(_fits(kinds[0], item) for item in items)
    return len(items) == len(kinds) and all(map(_fits, kinds, items))


def _similar_word(hint: Any, value: Any) -> str:
    """Return a hint at the allowed word that is most similar to the first wrong one in a value."""
    words = words_of(hint)
    if isinstance(value, str):
        value = [value]
    if not words or not isinstance(value, list | tuple):
        return ""
    for text in value:
        if isinstance(text, str) and text not in words:
            return did_you_mean(text, words)
    return ""


def words_of(hint: Any) -> list[str]:
    """Return the texts that a type names."""
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if isinstance(value, str)]
    words = []
    for part in get_args(hint):
        words += words_of(part)
    return words


# -- A type in words.


def in_words(hint: Any, limits: Mapping[str, Any]) -> str:
    """Return the values that a field takes, as `a number, 0.5 to 3600`."""
    parts = [_part_in_words(part) for part in members(hint) if part is not type(None)]
    words = ", or ".join(dict.fromkeys(parts))
    limit = range_in_words(limits)
    if not limit:
        return words
    return f"{words}, {limit}"


def _part_in_words(hint: Any) -> str:
    origin = get_origin(hint)
    parts = get_args(hint)
    if origin is Literal:
        return listed([f'"{word}"' for word in parts], "or")
    if origin is tuple and Ellipsis not in parts:
        return "[x, y]"
    if origin is tuple and get_origin(parts[0]) is tuple:
        return "a list of points [x, y]"
    if origin is tuple and parts[0] is float:
        return "a list of numbers"
    if origin is tuple:
        words = [f'"{word}"' for word in words_of(parts[0])]
        if not words:
            return "a list of strings"
        return f"a list of {listed(words, 'or')}"
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(hint, "a table")


def range_in_words(limits: Mapping[str, Any]) -> str:
    """Return the range of a number; "" if it has none."""
    least = limits.get("least")
    most = limits.get("most")
    if least is None:
        return ""
    if most is None:
        return f"{least:.15g} or more"
    return f"{least:.15g} to {most:.15g}"


def listed(values: Any, joint: str = "and") -> str:
    """Return values as a list in words; after twelve of them only their number."""
    texts = [str(value) for value in values]
    if len(texts) > 12:
        return f"{', '.join(texts[:12])}, ... ({len(texts)} in all)"
    if len(texts) < 2:
        return "".join(texts)
    return f" {joint} ".join([", ".join(texts[:-1]), texts[-1]])


# -- Environment variables, the only way in for secrets.


def with_variables(
    kind: type, table: dict[str, Any], path: str, faults: list[str]
) -> dict[str, Any]:
    """Return the table with the values of the environment variables that its keys name."""
    whole = dict(table)
    for field in dataclasses.fields(kind):
        name, target = table.get(field.name), field.metadata.get("holds")
        if target is None or not isinstance(name, str):
            continue
        unset = unset_variable(name, f"{path}{field.name}")
        faults += unset
        if not unset:
            whole[target] = from_environment(name, f"{path}{field.name}")
    return whole


def from_environment(name: str, key: str) -> str:
    """Return a secret from an environment variable, and hide it in all output from now on.

    Raises ConfigFaults if the variable is not set.

    key  path of the key that names the variable
    """
    faults = unset_variable(name, key)
    if faults:
        raise ConfigFaults(faults)
    secret = os.environ[name]
    if "://" in secret:
        remember_url(secret)
    else:
        remember(secret)
    return secret


_VARIABLE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*?)\s*")


def variables_in(text: str) -> dict[str, str]:
    """Return the variables of a file, as systemd reads them, and a shell and Compose if the values
    are in single quotes. Without these, Compose and a shell change a value with "$".

    Each line is NAME=VALUE, with or without quotes, or a comment with "#". Raises ConfigFaults with
    the numbers of all other lines.
    """
    variables = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _VARIABLE.fullmatch(line)
        if match is None:  # the line is not shown: it may contain a secret
            faults.append(f"line {number}: must be NAME=VALUE")
            continue
        name, value = match.groups()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        variables[name] = value
    if faults:
        raise ConfigFaults(faults)
    return variables


def take_variables(file: Path) -> None:
    """Put the variables of a file into the environment. Variables that are set keep their value.

    Raises ConfigFaults if the file cannot be read.
    """
    try:
        for name, value in variables_in(file.read_text(encoding="utf-8")).items():
            os.environ.setdefault(name, value)
    except OSError as error:
        raise ConfigFaults([f"--env-file {file}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigFaults([f"--env-file {file}: the file is not UTF-8"]) from error
    except ConfigFaults as wrong:
        raise ConfigFaults([f"--env-file {file}: {fault}" for fault in wrong.faults]) from None


def unreadable(file: str | Path) -> str | None:
    """Return why this user cannot read a file; None if it can."""
    if os.access(file, os.R_OK):
        return None
    try:
        os.stat(file)
    except OSError as error:
        return f"this file cannot be read: {error.strerror}"
    return "this file cannot be read: this user has no permission"


def unset_variable(name: str | None, key: str) -> list[str]:
    """Return the fault of a key that names a variable which is not set or is empty."""
    if name is None or os.environ.get(name):
        return []
    return [f"{key} = {name!r}: this environment variable is not set{_kept_here(name)}"]


def _kept_here(name: str) -> str:
    """Return a hint at the file that `framegate init` wrote if it has the variable."""
    with contextlib.suppress(OSError, UnicodeDecodeError, ConfigFaults):
        if name in variables_in(Path(SECRETS).read_text(encoding="utf-8")):
            return f"; {SECRETS} has it: add --env-file {SECRETS}"
    return ""
