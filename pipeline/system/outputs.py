"""Write the output files of a command, without replacing an input or an existing file.

A file is written under a temporary name in the same folder, and renamed when it is complete. So a
killed command leaves the old file or the new one, and never an incomplete file under that name.
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


def is_stdout_closed() -> bool:
    """Return whether stdout is a pipe whose reader, such as `head`, has closed it."""
    polled = select.poll()
    polled.register(sys.stdout, 0)
    return bool(polled.poll(0))


def add_overwrite(command: Any) -> None:
    """Add the option --overwrite to the parser of a command."""
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files, but never a source",
    )


class Inputs:
    """The files that a command reads, found by path and by inode, so that links do not matter."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Look up the files. places: paths and URLs, by a name for messages ("source gate")"""
        self._places = places
        self._files: dict[tuple[int, int], str] = {}
        self._paths: dict[str, str] = {}
        for name, place in places.items():
            path = place.removeprefix("file://").removeprefix("file:")
            with contextlib.suppress(OSError, ValueError):  # a URL, or a missing file
                self._paths[os.path.realpath(path)] = name
                status = os.stat(path)
                self._files[status.st_dev, status.st_ino] = name

    def fault(self, option: str, path: Path) -> str | None:
        """Return the fault of writing to `path` if that is an input; None if it is not."""
        name = self._paths.get(os.path.realpath(path))
        with contextlib.suppress(OSError):
            status = os.stat(path)
            name = self._files.get((status.st_dev, status.st_ino), name)
        if name is None:
            return None
        return (
            f"{option}: {path} would be written, but {name} reads this file "
            f"({shown(self._places[name])}); select another folder or name"
        )


def output_faults(option: str, path: Path, inputs: Inputs, overwrite: bool) -> list[str]:
    """Return the faults of an output file. option: option of the command that names the file"""
    fault = inputs.fault(option, path)
    if fault is not None:
        return [fault]
    return _existing_faults(option, path, overwrite) or folder_faults(
        option, path.absolute().parent
    )


def _existing_faults(option: str, path: Path, overwrite: bool) -> list[str]:
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return []
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)) or path.is_dir():
        return [f"{option}: {path} exists and is no regular file; give the name of a file"]
    if not overwrite:
        return [f"{option}: {path} already exists; select another name, or add --overwrite"]
    return []


def folder_faults(option: str, folder: Path) -> list[str]:
    """Return the fault of a folder that is missing, full, or without permission to write."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return [f"{option} {folder}: {reason}; select a folder with room that you may write to"]
    return []


def write_whole(option: str, path: Path, data: bytes, overwrite: bool) -> None:
    """Write a small file. ConfigFaults if that fails, or if the file exists meanwhile."""
    with written_whole(option, path, overwrite) as new:
        new.write_bytes(data)


@contextmanager
def written_whole(option: str, path: Path, overwrite: bool) -> Iterator[Path]:
    """Return a temporary file for a block, and rename it to `path` after the block.

    After an error in the block the file is removed. ConfigFaults if it cannot be written, or if
    `path` exists meanwhile.
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
        raise ConfigFaults(_existing_faults(option, path, overwrite=False)) from None
    except OSError as error:
        raise ConfigFaults(
            [f"{option} {path}: {error.strerror}; select a folder with room that you may write to"]
        ) from error


def give_name(new: Path, path: Path, overwrite: bool) -> None:
    """Rename a complete file. FileExistsError if `path` exists and must not be replaced."""
    if overwrite:
        new.replace(path)
        return
    try:
        os.link(new, path)  # unlike a rename, it fails if the path exists
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
    """Return the path of the annotated video that `run --save` writes. part: from 1"""
    if part == 1:
        return folder / f"{source}.framegate.mp4"
    return folder / f"{source}.framegate-{part}.mp4"


_SAVED = re.compile(r"([a-z0-9_]+)\.framegate(-\d+)?\.mp4")


def save_faults(
    folder: Path, sources: Mapping[str, str], overwrite: bool, known: Collection[str] = ()
) -> list[str]:
    """Return the faults of `run --save` in a folder, which may be missing.

    sources  path or URL by name
    known    sources whose videos of this run may exist; they continue with another part
    """
    option = "--save"
    inputs = Inputs({f"source {name}": place for name, place in sources.items()})
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    faults = folder_faults(option, existing)
    if faults:
        return faults
    videos = [saved_video(folder, name) for name in sources]
    if existing == folder.absolute():
        for path in sorted(folder.iterdir()):
            match = _SAVED.fullmatch(path.name)
            if match and match[2] and match[1] in sources:
                videos.append(path)
    for video in videos:
        fault = inputs.fault(option, video)
        if fault is not None:
            faults.append(fault)
    for name in sources:
        if name not in known and not faults:
            faults += _existing_faults(option, saved_video(folder, name), overwrite)
    return faults
