"""Checks of single keys of a manifest; each raises ManifestRefused with key, value and range."""

import math
import re
from collections.abc import Sequence
from typing import Any

from framegate.models.errors import ManifestRefused

NAME = r"[a-z][a-z0-9_-]{0,31}"
VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}"
FORMAT = r"[a-z][a-z0-9_]{0,31}"
FILE = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_SHA256 = r"[0-9a-f]{64}"
_MOST_TEXT = 2000
_MOST_INT = 2**53  # what a double holds
_DEEPEST = 4

Triple = tuple[float, float, float]


def keys(prefix: str, table: Any, wanted: Sequence[str]) -> None:
    """`table` is a table with exactly the keys `wanted`."""
    if not isinstance(table, dict):
        raise ManifestRefused(prefix.rstrip(".") or "the file", type(table).__name__, "a table")
    if unknown := [key for key in table if key not in wanted]:
        raise ManifestRefused(f"{prefix}{unknown[0]}", "unknown key", ", ".join(wanted))
    if missing := [key for key in wanted if key not in table]:
        raise ManifestRefused(f"{prefix}{missing[0]}", "missing", "a value")


def named(key: str, value: Any, pattern: str) -> None:
    """A string that matches `pattern` whole."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ManifestRefused(key, repr(value), pattern)


def one_of(key: str, value: Any, allowed: Sequence[str]) -> None:
    """One of some words."""
    if value not in allowed:
        raise ManifestRefused(key, repr(value), " or ".join(allowed))


def whole(key: str, value: Any, least: int, most: int) -> None:
    """A whole number in a range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestRefused(key, repr(value), f"a whole number from {least} to {most}")


def number(key: str, value: Any, least: float, most: float) -> float:
    """A finite number in a range, as a float: 1 and 1.0 give one digest."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        raise ManifestRefused(key, repr(value), f"a number from {least:g} to {most:g}")
    return float(value)


def triple(key: str, value: Any, least: float) -> Triple:
    """Three finite numbers, one a channel."""
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ManifestRefused(key, repr(value), "three numbers, one a channel")
    first, second, third = (number(key, one, least, 1e9) for one in value)
    return first, second, third


def labels(key: str, value: Any, most: int) -> None:
    """1 to `most` unique names without control characters, each of at most 64 characters."""
    if not isinstance(value, tuple) or not 1 <= len(value) <= most:
        found = f"{len(value)} names" if isinstance(value, tuple) else repr(value)
        raise ManifestRefused(key, found, f"a list of 1 to {most} names")
    for label in value:
        if not isinstance(label, str) or not 0 < len(label) <= 64 or not label.isprintable():
            raise ManifestRefused(key, repr(label), "names of 1 to 64 printable characters")
    if twice := [label for i, label in enumerate(value) if label in value[:i]]:
        raise ManifestRefused(key, f"{twice[0]!r} twice", "each name once")


def text(key: str, value: Any) -> None:
    """Some words, or none."""
    if not _is_text(value) or len(value) > _MOST_TEXT:
        raise ManifestRefused(key, repr(value)[:80], f"text of at most {_MOST_TEXT} characters")


def plain(key: str, value: Any) -> dict[str, Any]:
    """A table of numbers, strings and lists of them, as JSON gives it back."""
    if not isinstance(value, dict) or not all(map(_is_text, value)):
        raise ManifestRefused(key, repr(value)[:80], "a table")
    for name, one in value.items():
        if not _is_plain(one, _DEEPEST):
            allowed = "a finite number, a string or a list of them"
            raise ManifestRefused(f"{key}.{name}", repr(one)[:80], allowed)
    return {name: _listed(one) for name, one in value.items()}


def file_sums(key: str, value: Any, needed: Sequence[str], own: str) -> None:
    """A table of file names to sha256; no name may leave the folder or be `own`."""
    if not isinstance(value, dict):
        raise ManifestRefused(key, repr(value)[:80], "a table of file names and their sha256")
    for name, digest in value.items():
        if not isinstance(name, str) or not re.fullmatch(FILE, name) or name == own:
            allowed = f"a plain file name inside the folder ({FILE}), not {own}"
            raise ManifestRefused(key, repr(name), allowed)
        named(f"{key}.{name}", digest, _SHA256)
    if missing := [name for name in needed if name not in value]:
        raise ManifestRefused(f"{key}.{missing[0]}", "missing", "its sha256")


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any, depth: int) -> bool:
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= _MOST_INT
    return _is_text(value)


def _is_text(value: Any) -> bool:
    """Whether it can be written: half of a surrogate pair, as JSON may have, cannot."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)
