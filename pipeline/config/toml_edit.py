"""Change one table or key in a TOML text, and nothing else: comments, order and blanks stay.

The text is changed by lines, and then read again: a change that does anything other than asked is
refused. A library that writes TOML would remove the comment after a removed table, which belongs to
the next one.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from framegate.pipeline.contracts.errors import ConfigFaults

Path = tuple[str, ...]

_HEADER: Final = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?")
_WORD: Final = r"""(?:"[^"\\]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY: Final = re.compile(rf"\s*{_WORD}(?P<dotted>\s*\.\s*{_WORD})*\s*=")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"\d+")


def toml(value: Any) -> str:
    """Return a value as TOML, in one line."""
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        entries = [f"{_written_key(key)} = {toml(inner)}" for key, inner in value.items()]
        return f"{{ {', '.join(entries)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def value_at(tables: Mapping[str, Any], path: Path) -> Any:
    """Return the value at a path; None if there is none."""
    value: Any = tables
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def with_value(text: str, path: Path, value: Any) -> str:
    """Return the text with another table or value at a path, or without it.

    value  a table with all its keys, or the value of a key; None: remove it. Unchanged keys keep
           their lines

    ConfigFaults if the lines cannot be separated from others, or the text is not TOML.
    """
    before = _parsed(text)
    old = value_at(before, path)
    if old == value:
        return text
    if value is None and isinstance(old, Mapping):
        after = _without_table(text, path)
    elif isinstance(value, Mapping):
        after = _with_table(text, path, value)
    else:
        parent = {**(value_at(before, path[:-1]) or {}), path[-1]: value}
        if value is None:
            del parent[path[-1]]
        after = _with_table(text, path[:-1], parent)
    return _as_asked(before, after, path, value)


def with_lines(text: str, path: Path, lines: str) -> str:
    """Return the text with a table: at its end, or in the table of that path, which keeps all else.

    lines  the table as TOML, from its header on. A table that exists gets its values, and its
           comments that differ only by numbers

    ConfigFaults if the lines cannot be separated from others.
    """
    before = _parsed(text)
    new = value_at(_parsed(lines), path)
    old = value_at(before, path)
    if old is None:
        return _as_asked(before, _appended(text, lines), path, new)
    value = {**old, **new}
    after = ""
    for section in _sections(_with_table(text, path, value)):
        own = section.own
        if section.table == path:
            own = [_with_comment(line, _lines_of(lines)) for line in own]
        after += "".join(own + section.rest)
    return _as_asked(before, after, path, value)


def _with_comment(line: str, comments: Sequence[str]) -> str:
    """Return the comment that replaces a line because it differs only by numbers, or the line."""
    bare = line.rstrip("\r\n")
    for comment in map(str.rstrip, comments):
        is_same = comment.startswith("#") and _NUMBER.sub("", comment) == _NUMBER.sub("", bare)
        if is_same:
            return comment + line[len(bare) :]
    return line


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigFaults([f"the file is not TOML: {error}"]) from None


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


# -- Tables.


def _without_table(text: str, path: Path) -> str:
    kept: list[str] = []
    for section in _sections(text):
        if section.table[: len(path)] != path:
            kept += section.lines
            continue
        ends_apart = not section.rest or not section.rest[0].strip()
        if ends_apart and kept and not kept[-1].strip():
            kept.pop()  # the blank line that separated it
        kept += section.rest
    return "".join(kept)


def _with_table(text: str, path: Path, value: Mapping[str, Any]) -> str:
    """Return the text with all keys of a table; tables of their own in it stay if unchanged."""
    old = value_at(_parsed(text), path) or {}
    sections = _sections(text)
    own = [section for section in sections if section.table == path and section.own]
    if not own:
        inner = {key for key, each in old.items() if value.get(key) == each}
        lines = [f"{_written_key(key)} = {toml(value[key])}" for key in value if key not in inner]
        header = ".".join(map(_written_key, path))
        return _appended(text, "\n".join([f"[{header}]", *lines]) + "\n")
    apart = {
        section.table[len(path)]
        for section in sections
        if len(section.table) > len(path) and section.table[: len(path)] == path
    }
    unchanged = {key for key in apart if key in value and value[key] == old.get(key)}
    inline = {key: each for key, each in value.items() if key not in unchanged}
    after = ""
    for section in sections:
        if section is own[0]:
            after += "".join(_with_keys(section.own, inline, _newline_of(text)) + section.rest)
        elif section.table[: len(path)] == path and section.table[len(path)] not in unchanged:
            after += "".join(section.rest)
        else:
            after += "".join(section.lines)
    return after


def _with_keys(lines: list[str], value: Mapping[str, Any], newline: str) -> list[str]:
    """Return the lines of a table with these values. Lines of an unchanged value stay."""
    after: list[str] = []
    old = _parsed("".join(lines[1:]))  # without the header
    missing = dict(value)
    position = 0
    while position < len(lines):
        key, count = _entry_at(lines[position:])
        entry = lines[position : position + count]
        position += count
        is_unchanged = key is None or (key in value and value[key] == old[key])
        if is_unchanged:
            after += entry
        elif key in missing:
            after += _with_new_value(entry, missing[key], newline)
        missing.pop(key or "", None)
    if after and not after[-1].endswith("\n"):
        after[-1] += newline
    after += [f"{_written_key(key)} = {toml(each)}{newline}" for key, each in missing.items()]
    return after


def _entry_at(lines: Sequence[str]) -> tuple[str | None, int]:
    """Return the key that the first line defines, and the number of its lines; None: it has none.

    A value of several lines ends where the text up to there is TOML.
    """
    match = _KEY.match(lines[0])
    if match is None:
        return None, 1
    for count in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        return next(iter(table)), count
    return None, 1


def _with_new_value(entry: Sequence[str], value: Any, newline: str) -> list[str]:
    """Return the lines of a key with another value, and the comment after the old one."""
    text = "".join(entry)
    match = _KEY.match(text)
    assert match is not None
    if match["dotted"]:
        key = next(iter(tomllib.loads(text)))
        return [f"{_written_key(key)} = {toml(value)}{newline}"]
    first = len(text)
    for position in (found.start() for found in re.finditer("#", text)):
        try:
            is_comment = tomllib.loads(text[:position]) == tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        if is_comment:
            first = position
            break
    start = text[: match.end()]
    gap = re.match(r"\s*", text[match.end() :])
    assert gap is not None
    comment = text[first:].rstrip("\r\n")
    if comment:
        comment = f"  {comment}"
    return [f"{start}{gap[0].rstrip(chr(10)) or ' '}{toml(value)}{comment}{newline}"]


def _appended(before: str, lines: str) -> str:
    newline = _newline_of(before)
    if before and not before.endswith("\n"):
        before += newline
    if before:
        before += newline
    return before + lines.replace("\n", newline)


def _newline_of(text: str) -> str:
    if "\r\n" in text:
        return "\r\n"
    return "\n"


def _written_key(key: str) -> str:
    if _BARE.fullmatch(key):
        return key
    return json.dumps(key, ensure_ascii=False)


# -- The lines.


@dataclass(frozen=True)
class _Section:
    """The lines of a table, from its header on.

    own   without `rest`
    rest  comments and blank lines at the end, which belong to the next table
    """

    table: Path
    own: list[str]
    rest: list[str]

    @property
    def lines(self) -> list[str]:
        return self.own + self.rest


def _lines_of(text: str) -> list[str]:
    """Return the lines with their ends. Unlike `splitlines`, TOML has no other ends of lines."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _sections(text: str) -> list[_Section]:
    """Return the tables of a TOML text in their order.

    A line in a value of several lines can look like a header: the lines before it are not TOML.
    """
    found: list[tuple[Path, list[str]]] = [((), [])]
    for line in _lines_of(text):
        header = _HEADER.fullmatch(line.rstrip("\r\n"))
        if header is not None and _is_toml("".join(found[-1][1])):
            keys = [key.strip().strip("\"'") for key in header[1].split(".")]
            found.append((tuple(keys), []))
        found[-1][1].append(line)
    sections = []
    for table, lines in found:
        end = len(lines)
        while end and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1
        sections.append(_Section(table, lines[:end], lines[end:]))
    return sections


def _as_asked(before: Mapping[str, Any], after: str, path: Path, value: Any) -> str:
    """Return `after` if it differs from `before` only by the value at a path. ConfigFaults."""
    wanted = _replaced(before, path, value)
    fault = f"{'.'.join(path)}: its lines cannot be changed here; change them in the file"
    try:
        is_as_asked = _pruned(_parsed(after)) == _pruned(wanted)
    except ConfigFaults as error:
        raise ConfigFaults([fault]) from error
    if not is_as_asked:
        raise ConfigFaults([fault])
    return after


def _replaced(tables: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    after = dict(tables)
    if len(path) > 1:
        inner = after.get(path[0], {})
        if not isinstance(inner, Mapping):
            raise ConfigFaults([f"{path[0]} = {inner!r}: must be a table"])
        after[path[0]] = _replaced(inner, path[1:], value)
    elif value is None:
        after.pop(path[0], None)
    else:
        after[path[0]] = value
    return after


def _pruned(value: Any) -> Any:
    """Return tables without empty tables, and tuples as lists."""
    if isinstance(value, Mapping):
        inner = {key: _pruned(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each != {}}
    if isinstance(value, list | tuple):
        return [_pruned(each) for each in value]
    return value
