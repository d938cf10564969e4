"""Sources as they are named on the command line: paths, globs, URLs, `name=PATH`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from pipeline.errors import ConfigFaults
from pipeline.keys import NAME_RULE, is_name

_NAMED = re.compile(r"([A-Za-z0-9_-]+)=(.+)", re.DOTALL)


def named_sources(words: Sequence[str]) -> dict[str, str]:
    """URL or path by name. ConfigFaults with all faults: bad or repeated names, empty globs."""
    sources: dict[str, str] = {}
    given: set[str] = set()
    faults: list[str] = []
    for word in words:
        match = None if os.path.exists(word) else _NAMED.fullmatch(word)
        name, place = (match[1], match[2]) if match else (None, word)
        if name is not None and not is_name(name):
            faults.append(f"{word}: {name!r} cannot name a source; a name is {NAME_RULE}")
            continue
        if name is not None and name in given:
            faults.append(f"{word}: two sources are named {name!r}; give each its own name")
            continue
        places = _expanded(place)
        if not places:
            faults.append(f"{word}: no file matches")
        for each in places:
            if not _is_text(each):
                faults.append(f"{each!r}: its name is not UTF-8; rename it")
                continue
            chosen = _free(name, sources) if name else _free(derived_name(each), sources)
            given.add(chosen)
            sources[chosen] = each
    if faults:
        raise ConfigFaults(faults)
    return sources


def _expanded(place: str) -> list[str]:
    if "://" in place or not glob.has_magic(place):
        return [place]
    if Path(place).exists():
        return [place]
    return sorted(glob.glob(place, recursive=True))


def _is_text(place: str) -> bool:
    """Whether it can be written down: a file's name on disk may be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in place)


def derived_name(place: str) -> str:
    """A source name made of a file's or URL's last part."""
    stem = PurePath(place.split("?", 1)[0].rstrip("/")).stem
    name = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")
    return (name if name[:1].isalpha() else f"s_{name}".rstrip("_"))[:28]


def _free(name: str, taken: dict[str, str]) -> str:
    number = 2
    chosen = name
    while chosen in taken:
        chosen, number = f"{name[:28]}_{number}", number + 1
    return chosen
