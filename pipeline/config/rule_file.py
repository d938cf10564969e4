"""Change one rule in a configuration file, and nothing else in it: comments, order and blanks stay.

The text is changed by lines, and then read again: a change that does anything other than asked is
refused. A library that writes TOML would remove the comment after a removed table, which belongs to
the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framegate.pipeline.config.config import parsed_toml, read_config
from framegate.pipeline.config.events import EventsConfig
from framegate.pipeline.contracts.errors import ConfigFaults

_HEADER: Final = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}\s*(?:#.*)?")
_RULES: Final = "events.rules"


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


def change_rules(path: Path, digest: str, change: Callable[[str], str]) -> RuleFile:
    """Replace the text of a configuration file by `change(text)`, and return the file.

    digest  of the text that the user saw

    FileChanged if the text is another one now. ConfigFaults with all faults that the new text would
    have, or if the file cannot be written; it is then unchanged. A killed process leaves the old
    text or the new one.
    """
    real = Path(os.path.realpath(path))
    with _locked(path, real):
        before = read_rule_file(path)
        if before.digest != digest:
            raise FileChanged(
                [f"configuration {path}: it was changed meanwhile; look at it, and try again"]
            )
        after = _checked(path, change(before.text))
        try:
            _replace(real, after.text.encode())
        except OSError as error:
            raise _unwritable(path, error) from error
    return after


def with_rule(text: str, rule: str, lines: str) -> str:
    """Return the text with a rule at the end, instead of the rule of that name if it has one.

    lines  the rule as TOML, from its header [events.rules.NAME] on

    ConfigFaults if the text has a rule of that name that cannot be removed.
    """
    new, _ = _rules_of(parsed_toml("the rule", lines))
    before = without_rule(text, rule)
    newline = "\n"
    if "\r\n" in text:
        newline = "\r\n"
    if before and not before.endswith("\n"):
        before += newline
    if before:
        before += newline
    after = before + lines.replace("\n", newline)
    return _as_asked(text, after, {rule: new[rule]})


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


def _sections(text: str) -> list[_Section]:
    """Return the tables of a text in their order.

    A line in a text of several lines can look like a header. `_as_asked` refuses what follows.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines(keepends=True):
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


def _unwritable(path: Path, error: OSError) -> ConfigFaults:
    return ConfigFaults(
        [
            f"configuration {path}: it cannot be written: {error.strerror}; put the lines into it "
            "by hand"
        ]
    )


@contextmanager
def _locked(path: Path, real: Path) -> Iterator[None]:
    """Let no other Framegate change the file during the block."""
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigFaults([f"configuration {path}: {error.strerror}"]) from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(real: Path, data: bytes) -> None:
    """Replace the content of a file, which keeps its mode and, if possible, its owner."""
    status = os.stat(real)
    descriptor, new = tempfile.mkstemp(prefix=".framegate-", dir=real.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fsync(descriptor)
        os.replace(new, real)
    finally:
        Path(new).unlink(missing_ok=True)
    folder = os.open(real.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
