"""Plain data from TOML into frozen dataclasses, all faults told at once with their key paths.

A field's type says what is taken: bool, int, float, str, Literal, tuple[str, ...], dict, `| None`,
or a dataclass: a table of its own. Its metadata may say `least`, `most` (numbers), `allowed` (of a
string, or of each in a tuple), `check` (value -> what is wrong with it, or None). A method `faults`
says what is wrong with several together. `holds` in a field's metadata names another field: the
first names an environment variable, the second gets what that holds. Only so do secrets come in.

Where the type says too little for a reader or an editor (settings.py): `schema`, a part of a JSON
Schema; `each`, the dataclass of the tables that a table holds by name; `said_as`, the type in a
file where the field has another.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
SECRETS: Final = "secrets.env"  # where `framegate init` keeps variables


def read_options(kind: type[T], table: dict[str, Any], path: str, faults: list[str]) -> T | None:
    """A `kind` from `table`; what is wrong is appended to `faults`, then the answer is None."""
    before = len(faults)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in table:
        if key not in fields:
            faults.append(f"{path}{key}: unknown key; {_keys_allowed(key, fields, hints)}")
    values = {}
    for name, field in fields.items():
        inner = _table_of(hints[name])
        if name in table and inner and (inner is hints[name] or isinstance(table[name], dict)):
            values[name] = _read_table(inner, table[name], f"{path}{name}", faults)
        elif name in table:
            fault = _fault(hints[name], table[name], field.metadata)
            if fault:
                faults.append(f"{path}{name} = {table[name]!r}: {fault}")
            values[name] = _converted(hints[name], table[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{path}{name}: missing; it must be {_said(hints[name], field.metadata)}")
    if len(faults) > before:
        return None
    read = kind(**values)
    together: list[str] = getattr(read, "faults", list)()
    faults += [f"{path}{fault}" for fault in together]
    return None if together else read


def read_named(
    kind: type[T], table: Mapping[str, Any], path: str, holds: str, faults: list[str]
) -> dict[str, T]:
    """A `kind` from each table of a table, by name; what is wrong is appended to `faults`, and
    what cannot be read is left out.

    path   of the table that holds them
    holds  what each of them must be
    """
    read = {}
    for name, entry in table.items():
        if not is_name(name):
            faults.append(f"{path}.{name}: a name is {NAME_RULE}")
        if not isinstance(entry, dict):
            faults.append(f"{path}.{name} = {entry!r}: must be {holds}")
        elif (one := read_options(kind, entry, f"{path}.{name}.", faults)) is not None:
            read[name] = one
    return read


def _keys_allowed(key: str, fields: Mapping[str, Any], hints: Mapping[str, Any]) -> str:
    """What stands in a table, and what a key that is none was meant to be: one much like it, or
    one of a table that the same stage owns.
    """
    own = [name for name, field in fields.items() if field.metadata.get("table")]
    keys = sorted(fields.keys() - set(own))
    for name in own:
        if key in (field.name for field in dataclasses.fields(hints[name])):
            return f"it is a key of [{name}]"
    allowed = f"allowed are {_listed(keys)}" if keys else "it has no keys"
    return f"{allowed}{did_you_mean(key, keys)}"


def with_variables(
    kind: type, table: dict[str, Any], path: str, faults: list[str]
) -> dict[str, Any]:
    """The table with the values of the environment variables that it names, to be read next."""
    found = dict(table)
    for field in dataclasses.fields(kind):
        name, holds = table.get(field.name), field.metadata.get("holds")
        if holds is None or not isinstance(name, str):
            continue
        if unset := unset_variable(name, f"{path}{field.name}"):
            faults += unset
        else:
            found[holds] = from_environment(name, f"{path}{field.name}")
    return found


def from_environment(name: str, key: str) -> str:
    """Return a secret from an environment variable, and hide it in all output from now on.

    ConfigFaults if the variable is not set; key: path of the key that names it.
    """
    if faults := unset_variable(name, key):
        raise ConfigFaults(faults)
    secret = os.environ[name]
    remember_url(secret) if "://" in secret else remember(secret)
    return secret


_VARIABLE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*?)\s*")


def variables_in(text: str) -> dict[str, str]:
    """What a file of variables says, as a shell, systemd and Docker read it: NAME=VALUE a line, the
    value in quotes or not, lines with # are comments. ConfigFaults with the numbers of other lines.
    """
    found, faults = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _VARIABLE.fullmatch(line)
        if match is None:  # it is not shown: a secret may stand there
            faults.append(f"line {number}: allowed is NAME=VALUE")
            continue
        name, value = match.groups()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    if faults:
        raise ConfigFaults(faults)
    return found


def take_variables(file: Path) -> None:
    """Put what a file of variables says into the environment; what is there already stays.

    ConfigFaults if it cannot be read.
    """
    try:
        for name, value in variables_in(file.read_text()).items():
            os.environ.setdefault(name, value)
    except OSError as error:
        raise ConfigFaults([f"--env-file {file}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigFaults([f"--env-file {file}: it is not UTF-8"]) from error
    except ConfigFaults as wrong:
        raise ConfigFaults([f"--env-file {file}: {fault}" for fault in wrong.faults]) from None


def unset_variable(name: str | None, key: str) -> list[str]:
    """The fault of a key that names an environment variable which is not set, or is empty."""
    if name is None or os.environ.get(name):
        return []
    return [f"{key} = {name!r}: the environment has no such variable{_kept_here(name)}"]


def _kept_here(name: str) -> str:
    """Say where the variable is, if the file of `framegate init` has it."""
    with contextlib.suppress(OSError, UnicodeDecodeError, ConfigFaults):
        if name in variables_in(Path(SECRETS).read_text()):
            return f"; {SECRETS} has it: --env-file {SECRETS}"
    return ""


def _table_of(hint: Any) -> Any:
    """The dataclass that a type is, or that is one of its members: a table of its own."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((part for part in parts if dataclasses.is_dataclass(part)), None)


def _read_table(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if isinstance(value, dict):
        return read_options(kind, value, f"{path}.", faults)
    faults.append(f"{path} = {value!r}: must be a table")
    return None


def _fault(hint: Any, value: Any, limits: Any) -> str | None:
    if not _fits(hint, value):
        near = did_you_mean(value, _words(hint)) if isinstance(value, str) else ""
        return f"allowed is {_said(hint, limits)}{near}"
    if "check" in limits and (fault := limits["check"](value)):
        return str(fault)
    if "allowed" in limits:
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            return f"it names none; allowed are {_listed(limits['allowed'])}"
        unknown = [item for item in items if item is not None and item not in limits["allowed"]]
        if unknown:
            allowed = _listed(limits["allowed"])
            near = did_you_mean(str(unknown[0]), limits["allowed"])
            return f"{_listed(unknown)} is not known; allowed are {allowed}{near}"
    if isinstance(value, int | float):
        within = limits.get("least", value) <= value <= limits.get("most", value)
        if not (within and math.isfinite(value)):
            return f"allowed is {_said(hint, limits)}"
    return None


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
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _items_fit(kinds: tuple[Any, ...], items: Any) -> bool:
    if kinds[-1] is Ellipsis:
        return all(_fits(kinds[0], item) for item in items)
    return len(items) == len(kinds) and all(map(_fits, kinds, items))


def _words(hint: Any) -> list[str]:
    """The texts that a type names."""
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if isinstance(value, str)]
    return [word for part in get_args(hint) for word in _words(part)]


def _converted(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_converted(None, item) for item in value)
    if hint is float and isinstance(value, int):
        return float(value)
    return value


def _said(hint: Any, limits: Any) -> str:
    if get_origin(hint) is dict:
        return "a table"
    parts = [part for part in get_args(hint) or (hint,) if part is not type(None)]
    if get_origin(hint) is Literal:
        return _listed(get_args(hint), "or")
    if len(parts) == 1 and get_origin(parts[0]) is Literal:
        return _listed(get_args(parts[0]), "or")
    if len(parts) > 1 and bool in parts:
        other = "a table" if _table_of(hint) else "a list of texts"
        return f"true, false or {other}"
    if any(get_origin(part) is tuple and str not in get_args(part) for part in (hint, *parts)):
        words = [_listed(get_args(part), "or") for part in parts if get_origin(part) is Literal]
        return ", or ".join([*words, "[x, y]" if words else "a list of points [x, y]"])
    if get_origin(hint) is tuple or any(get_origin(part) is tuple for part in parts):
        return "a list of texts"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kind = names.get(parts[0], "a table")
    least, most = limits.get("least"), limits.get("most")
    if least is not None and most is not None:
        return f"{kind} from {least} to {most}"
    return f"{kind} from {least} on" if least is not None else kind


def _listed(values: Any, joint: str = "and") -> str:
    texts = [str(value) for value in values]
    if len(texts) > 12:
        return f"{', '.join(texts[:12])}, ... ({len(texts)} in all)"
    if len(texts) < 2:
        return "".join(texts)
    return f" {joint} ".join([", ".join(texts[:-1]), texts[-1]])
