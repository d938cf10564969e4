"""Files that a command writes where its user says: never what is read, nor over what is there.

They are written beside under another name, and take their own when they are whole. So whoever is
killed leaves the old file or the new one, and no half one under its name.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.redaction import shown

_PROBE = 8192
_NEW = ".framegate-"


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader (head, say) has seen enough."""
    polled = select.poll()
    polled.register(sys.stdout, 0)
    return bool(polled.poll(0))


def add_overwrite(command: Any) -> None:
    """Give a command --overwrite."""
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files, but never a source",
    )


class Inputs:
    """The files that a command reads, by what they are called; what is no file is left out."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """places: paths and URLs, by a word for people ("source gate")."""
        self._places = places
        self._files: dict[tuple[int, int], str] = {}
        self._paths: dict[str, str] = {}
        for name, place in places.items():
            path = place.removeprefix("file://").removeprefix("file:")
            with contextlib.suppress(OSError, ValueError):
                self._paths[os.path.realpath(path)] = name
                found = os.stat(path)
                self._files[found.st_dev, found.st_ino] = name

    def fault(self, option: str, path: Path) -> str | None:
        """Why `path` must not be written: one of them is that file, whatever links lead there."""
        name = self._paths.get(os.path.realpath(path))
        with contextlib.suppress(OSError):
            found = os.stat(path)
            name = self._files.get((found.st_dev, found.st_ino), name)
        if name is None:
            return None
        return (
            f"{option}: {path} would be written, but it is what {name} reads "
            f"({shown(self._places[name])}); what is read is never written; allowed: another folder"
            " or name"
        )


def output_faults(option: str, path: Path, inputs: Inputs, overwrite: bool) -> list[str]:
    """All that forbids to write the file `path`; option: what the user said it with."""
    if fault := inputs.fault(option, path):
        return [fault]
    return _taken(option, path, overwrite) or folder_faults(option, path.absolute().parent)


def _taken(option: str, path: Path, overwrite: bool) -> list[str]:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return []
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)) or path.is_dir():
        return [f"{option}: {path} is there and is no regular file; allowed: a file's name"]
    if not overwrite:
        return [f"{option}: {path} is there already; allowed: another place, or --overwrite"]
    return []


def folder_faults(option: str, folder: Path) -> list[str]:
    """Why nothing can be written in a folder: there is none, no permission, no room."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return [f"{option} {folder}: {why}; allowed: a folder with room that may be written"]
    return []


def write_whole(option: str, path: Path, data: bytes, overwrite: bool) -> None:
    """Write a small file. ConfigFaults if it cannot be, or if something is there meanwhile."""
    with written_whole(option, path, overwrite) as new:
        new.write_bytes(data)


@contextmanager
def written_whole(option: str, path: Path, overwrite: bool) -> Iterator[Path]:
    """Give the file to write in a block; it has its name once the block ends, else it is gone.

    ConfigFaults if it cannot be written, or if something is there meanwhile.
    """
    try:
        descriptor, new = tempfile.mkstemp(prefix=_NEW, dir=path.absolute().parent)
        os.close(descriptor)
        try:
            yield Path(new)
            os.chmod(new, 0o666 & ~_umask())
            give_name(Path(new), path, overwrite)
        finally:
            Path(new).unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigFaults(_taken(option, path, overwrite=False)) from None
    except OSError as error:
        raise ConfigFaults(
            [f"{option} {path}: {error.strerror}; allowed: a file in a folder with room"]
        ) from error


def give_name(new: Path, path: Path, overwrite: bool) -> None:
    """Rename what is whole. FileExistsError if something is there that must not be replaced."""
    if overwrite:
        new.replace(path)
        return
    try:
        os.link(new, path)  # unlike a rename, it fails where something is
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        new.rename(path)
        return
    new.unlink()


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def saved_video(folder: Path, source: str, part: int = 1) -> Path:
    """Where `run --save` writes the annotated video of a source."""
    number = "" if part == 1 else f"-{part}"
    return folder / f"{source}.framegate{number}.mp4"


_SAVED = re.compile(r"([a-z0-9_]+)\.framegate(-\d+)?\.mp4")


def save_faults(
    folder: Path, sources: Mapping[str, str], overwrite: bool, known: Collection[str] = ()
) -> list[str]:
    """All that forbids `run --save` in a folder that need not be there yet.

    sources  path or URL by name
    known    those whose videos of this run may be there already: they go on in further ones
    """
    option = "--save"
    inputs = Inputs({f"source {name}": place for name, place in sources.items()})
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if faults := folder_faults(option, there):
        return faults
    faults = [
        fault
        for name in sources
        if (fault := inputs.fault(option, saved_video(folder, name))) is not None
    ]
    if there == folder.absolute():
        faults += [
            fault
            for entry in sorted(folder.iterdir())
            if (match := _SAVED.fullmatch(entry.name)) and match[2] and match[1] in sources
            if (fault := inputs.fault(option, entry)) is not None
        ]
    for name in sources:
        if name not in known and not faults:
            faults += _taken(option, saved_video(folder, name), overwrite)
    return faults
