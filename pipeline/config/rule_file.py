"""Change one rule in a configuration file, and nothing else in it: comments, order and blanks stay.

The text is changed by lines, and then read again: a change that does anything other than asked is
refused. A library that writes TOML would remove the comment after a removed table, which belongs to
the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framegate.pipeline.config.config import parsed_toml, read_config
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts.errors import ConfigFaults

_HEADER: Final = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?")
_VALUE: Final = re.compile(r"""\s*(?P<key>\w+)\s*=\s*(?P<value>"[^"\\]*"|'[^']*')""")
_NUMBER: Final = re.compile(r"\d+")
_RULES: Final = "events.rules"
_LOCK_S: Final = 2.0  # a click waits so long for another program that has locked the file
_RETRY_S: Final = 0.02


class FileChanged(ConfigFaults):
    """The file was changed since it was shown."""


@dataclass(frozen=True)
class RuleFile:
    """A configuration file with its rules.

    digest  of its text
    events  its checked table [events]
    """

    path: Path
    text: str
    digest: str
    events: EventsConfig


def read_rule_file(path: Path) -> RuleFile:
    """Read a configuration file. ConfigFaults with all faults."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigFaults([f"configuration {path}: not TOML: the file is not UTF-8"]) from None
    except OSError as error:
        raise ConfigFaults([f"configuration {path}: {error.strerror}"]) from error
    return _checked(path, text)


def change_rules(path: Path, digest: str, change: Callable[[RuleFile], str]) -> RuleFile:
    """Replace the text of a configuration file by what `change` returns, and return the file.

    digest  of the text that the user saw

    FileChanged if the text is another one now. ConfigFaults with all faults that the new text would
    have, or if the file cannot be replaced with its owner, mode and attributes, or is locked. It is
    unchanged after an error. A killed process leaves the old text or the new one.
    """
    real = Path(os.path.realpath(path))
    with _locked(path, real):
        before = read_rule_file(path)
        if before.digest != digest:
            raise _changed(path)
        after = _checked(path, change(before))
        try:
            _check_writable(path, real)
            with _written(real, after.text.encode()) as new:
                if real.read_bytes() != before.text.encode():  # an editor, which takes no lock
                    raise _changed(path)
                os.replace(new, real)
        except OSError as error:
            raise _unwritable(path, error.strerror) from error
    # The file has the new text now, also if this file system cannot synchronise a folder.
    with contextlib.suppress(OSError):
        _sync_folder(real.parent)
    return after


def with_rule(text: str, rule: str, lines: str) -> str:
    """Return the text with a rule: at its end, or in the rule of that name, which keeps all else.

    lines  the rule as TOML, from its header [events.rules.NAME] on. A rule of that name gets its
           values, which are strings, and its comments that differ only by numbers

    ConfigFaults if the text has a rule of that name without lines for these keys.
    """
    new = _rules_of(parsed_toml("the rule", lines))[0][rule]
    old = _rules_of(parsed_toml("the file", text))[0].get(rule)
    if old is None:
        return _as_asked(text, _appended(text, lines), {rule: new})
    after = ""
    for section in _sections(text):
        own = section.own
        if section.table == f"{_RULES}.{rule}":
            own = [_with_values(line, new, _lines_of(lines)) for line in own]
        after += "".join(own + section.rest)
    return _as_asked(text, after, {rule: {**old, **new}})


def _with_values(line: str, values: dict[str, str], comments: list[str]) -> str:
    """Return a line of a table with the value that its key has in `values`.

    comments  lines of which a comment replaces the line if it differs only by numbers
    """
    value = _VALUE.match(line)
    if value is not None and value["key"] in values:
        return f'{line[: value.start("value")]}"{values[value["key"]]}"{line[value.end() :]}'
    bare = line.rstrip("\r\n")
    for comment in map(str.rstrip, comments):
        is_same = comment.startswith("#") and _NUMBER.sub("", comment) == _NUMBER.sub("", bare)
        if is_same:
            return comment + line[len(bare) :]
    return line


def _appended(before: str, lines: str) -> str:
    newline = "\n"
    if "\r\n" in before:
        newline = "\r\n"
    if before and not before.endswith("\n"):
        before += newline
    if before:
        before += newline
    return before + lines.replace("\n", newline)


def without_rule(text: str, rule: str) -> str:
    """Return the text without a rule. ConfigFaults if its lines cannot be separated from others."""
    kept: list[str] = []
    for section in _sections(text):
        if not section.is_of(rule):
            kept += section.lines
            continue
        ends_apart = not section.rest or not section.rest[0].strip()
        if ends_apart and kept and not kept[-1].strip():
            kept.pop()  # the blank line that separated it
        kept += section.rest
    return _as_asked(text, "".join(kept), {rule: None})


# -- The text.


@dataclass(frozen=True)
class _Section:
    """The lines of a table, from its header on.

    own   without `rest`
    rest  comments and blank lines at the end, which belong to the next table
    """

    table: str
    own: list[str]
    rest: list[str]

    @property
    def lines(self) -> list[str]:
        return self.own + self.rest

    def is_of(self, rule: str) -> bool:
        """Return whether it is the table of a rule, or one in it."""
        return f"{self.table}.".startswith(f"{_RULES}.{rule}.")


def _lines_of(text: str) -> list[str]:
    """Return the lines with their ends. Unlike `splitlines`, TOML has no other ends of lines."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _sections(text: str) -> list[_Section]:
    """Return the tables of a text in their order.

    A line in a text of several lines can look like a header. `_as_asked` refuses what follows.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in _lines_of(text):
        header = _HEADER.fullmatch(line.rstrip("\r\n"))
        if header is not None:
            keys = [key.strip().strip("\"'") for key in header[1].split(".")]
            found.append((".".join(keys), []))
        found[-1][1].append(line)
    sections = []
    for table, lines in found:
        end = len(lines)
        while end and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1
        sections.append(_Section(table, lines[:end], lines[end:]))
    return sections


def _as_asked(before: str, after: str, changes: dict[str, Any]) -> str:
    """Return `after` if it differs from `before` only by the rules in `changes`. ConfigFaults."""
    rules, rest = _rules_of(parsed_toml("the file", before))
    wanted = {name: table for name, table in {**rules, **changes}.items() if table is not None}
    names = ", ".join(changes)
    fault = f"events.rules.{names}: its lines cannot be changed here; change them in the file"
    try:
        is_as_asked = _rules_of(parsed_toml("the file", after)) == (wanted, rest)
    except ConfigFaults as error:
        raise ConfigFaults([fault]) from error
    if not is_as_asked:
        raise ConfigFaults([fault])
    return after


def _rules_of(tables: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rules in the tables of a file, and the tables without them."""
    events = dict(tables.get("events", {}))
    rules = events.pop("rules", {})
    rest = {**tables, "events": events}
    if not events:
        del rest["events"]
    return rules, rest


# -- The file.


def _checked(path: Path, text: str) -> RuleFile:
    events = read_config(str(path), text).events
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return RuleFile(path, text, digest, events)


def _changed(path: Path) -> FileChanged:
    return FileChanged(
        [f"configuration {path}: it was changed meanwhile; look at it, and try again"]
    )


def _unwritable(path: Path, reason: str | None) -> ConfigFaults:
    return ConfigFaults(
        [f"configuration {path}: it cannot be written: {reason}; put the lines into it by hand"]
    )


@contextmanager
def _locked(path: Path, real: Path) -> Iterator[None]:
    """Let no other Framegate change the file during the block. ConfigFaults after _LOCK_S."""
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigFaults([f"configuration {path}: {error.strerror}"]) from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            until = time.monotonic() + _LOCK_S
            while not _is_locked_now(descriptor):
                if time.monotonic() > until:
                    raise _unwritable(path, f"another program has locked it for {_LOCK_S:.0f} s")
                time.sleep(_RETRY_S)
        yield
    finally:
        os.close(descriptor)


def _is_locked_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_writable(path: Path, real: Path) -> None:
    """Raise ConfigFaults for a file that a rename would replace, but that is not to be changed."""
    status = os.stat(real)
    is_read_only = not status.st_mode & 0o222 or not os.access(real, os.W_OK)
    if is_read_only:
        raise _unwritable(path, "it is read-only")
    if status.st_nlink > 1:
        reason = f"it has {status.st_nlink} names (hard links), and only one would be changed"
        raise _unwritable(path, reason)


@contextmanager
def _written(real: Path, data: bytes) -> Iterator[Path]:
    """Return a durable file with this content, and the owner, mode and attributes of another one.

    It has a fixed name beside that file, so that killed processes leave one at most. OSError.
    """
    new = real.with_name(f".{real.name}.framegate")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            _copy_metadata(real, file.fileno())
            os.fsync(file.fileno())
        yield new
    finally:
        new.unlink(missing_ok=True)


def _copy_metadata(real: Path, new: int) -> None:
    """Give an open file the owner, the mode and the attributes (such as ACLs) of another one."""
    status, own = os.stat(real), os.fstat(new)
    if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    wanted, present = _attributes(real), _attributes(new)
    for name in present.keys() - wanted.keys():
        os.removexattr(new, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(new, name, value)


def _attributes(file: Path | int) -> dict[str, bytes]:
    """Return the extended attributes of a file; none if the file system has none."""
    try:
        return {name: os.getxattr(file, name) for name in os.listxattr(file)}
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
