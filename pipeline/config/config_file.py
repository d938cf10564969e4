"""The file of a configuration: read, changed as a whole, and its earlier texts.

A change replaces the file at once or not at all, and is refused if the user saw another text. The
earlier texts are in a file beside it, .NAME.history, so that a change can be undone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.config.config import Config, read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.live_config import SavedVersion
from framegate.pipeline.system.replaced_file import locked, sync_folder, written

_VERSIONS: Final = 50  # earlier texts that are kept
_BYTES: Final = 1 << 20  # of their texts; the newest is always kept

Check = Callable[[str], Config]
"""Returns the configuration of a text. ConfigFaults with all faults."""


class FileChanged(ConfigFaults):
    """The file was changed since it was shown."""


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file.

    digest  of its text
    config  its checked content
    """

    path: Path
    text: str
    digest: str
    config: Config


def read_config_file(path: Path, check: Check | None = None) -> ConfigFile:
    """Read a configuration file. check: None: without a command line. ConfigFaults."""
    check = check or (lambda text: read_config(str(path), text))
    text = read_text(path)
    return ConfigFile(path, text, digest_of(text), check(text))


def read_text(path: Path) -> str:
    """Return the text of a configuration file. ConfigFaults if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigFaults([f"configuration {path}: not TOML: the file is not UTF-8"]) from None
    except OSError as error:
        raise ConfigFaults([f"configuration {path}: {error.strerror}"]) from error


def digest_of(text: str) -> str:
    """Return 16 hex digits that name a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def change_file(
    path: Path,
    digest: str,
    change: Callable[[ConfigFile], str],
    paths: Sequence[str],
    check: Check | None = None,
) -> ConfigFile:
    """Replace the text of a configuration file by what `change` returns, and return the file.

    digest  of the text that the user saw
    paths   paths that change, for the history; empty: the history does not get the old text
    check   as read_config_file

    FileChanged if the text is another one now. ConfigFaults with all faults that the new text would
    have, or if the file cannot be replaced with its owner, mode and attributes, or is locked. It is
    unchanged after an error. A killed process leaves the old text or the new one.
    """
    check = check or (lambda text: read_config(str(path), text))
    real = Path(os.path.realpath(path))
    with _locked(path, real):
        before = read_config_file(path, check)
        if before.digest != digest:
            raise _changed(path)
        text = change(before)
        if text == before.text:
            return before
        after = ConfigFile(path, text, digest_of(text), check(text))
        try:
            _check_writable(path, real)
            # A kill between the two leaves a version that equals the file; `versions` omits it.
            if paths:
                _keep_version(real, before.text, after.digest, paths)
            with written(real, after.text.encode()) as new:
                if real.read_bytes() != before.text.encode():  # an editor, which takes no lock
                    raise _changed(path)
                os.replace(new, real)
        except OSError as error:
            raise _unwritable(path, error.strerror) from error
    # The file has the new text now, also if this file system cannot synchronise a folder.
    with contextlib.suppress(OSError):
        sync_folder(real.parent)
    return after


# -- Earlier texts.


class _EarlierText(msgspec.Struct, frozen=True):
    """An earlier text of the file.

    at       time of the change that replaced it, UNIX seconds
    after    digest of the text that replaced it
    changes  paths of that change
    """

    text: str
    at: float
    after: str
    changes: Sequence[str]


_versions: Final = msgspec.json.Decoder(list[_EarlierText])


def versions(path: Path, now: str) -> list[SavedVersion]:
    """Return the earlier texts of a file, newest first. now: digest of its text"""
    kept = []
    for each in reversed(_kept_versions(Path(os.path.realpath(path)))):
        digest = digest_of(each.text)
        if digest != now:
            kept.append(SavedVersion(digest, each.at, each.changes))
    return kept


def earlier_text(path: Path, now: str, version: str) -> str:
    """Return an earlier text of a file. ConfigFaults if there is none.

    now      digest of the text of the file
    version  digest of the earlier text; "": the text before the last change
    """
    kept = _kept_versions(Path(os.path.realpath(path)))
    if version:
        texts = [each.text for each in kept if digest_of(each.text) == version]
        if not texts:
            raise ConfigFaults(
                [f"configuration {path}: no version {version[:32]} is kept; see its history"]
            )
        return texts[-1]
    kept = [each for each in kept if digest_of(each.text) != now]
    if not kept:
        raise ConfigFaults([f"configuration {path}: there is no change to undo"])
    if kept[-1].after != now:
        raise ConfigFaults(
            [
                f"configuration {path}: it was edited by hand, or its profile was switched, "
                "after the last change; name the version to go back to, of its history"
            ]
        )
    return kept[-1].text


def _history_of(real: Path) -> Path:
    return real.with_name(f".{real.name}.history")


def _kept_versions(real: Path) -> list[_EarlierText]:
    """Return the earlier texts, oldest first. An unreadable history is an empty one."""
    try:
        return _versions.decode(_history_of(real).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return []


def _keep_version(real: Path, text: str, after: str, paths: Sequence[str]) -> None:
    """Add a text to the history, and drop the oldest beyond its limits. OSError."""
    others = [each for each in _kept_versions(real) if each.text != text]
    kept = [*others, _EarlierText(text, time.time(), after, tuple(paths))][-_VERSIONS:]
    while len(kept) > 1 and sum(len(each.text.encode()) for each in kept) > _BYTES:
        kept.pop(0)
    history = _history_of(real)
    with written(real, msgspec.json.encode(kept), history) as new:
        os.replace(new, history)


# -- The file.


@contextmanager
def _locked(path: Path, real: Path) -> Iterator[None]:
    """Let no other Framegate change the file during the block. ConfigFaults."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(real))
        except BlockingIOError as error:
            raise _unwritable(path, error.strerror) from error
        except OSError as error:
            raise ConfigFaults([f"configuration {path}: {error.strerror}"]) from error
        yield


def _changed(path: Path) -> FileChanged:
    return FileChanged(
        [f"configuration {path}: it was changed meanwhile; look at it, and try again"]
    )


def _unwritable(path: Path, reason: str | None) -> ConfigFaults:
    return ConfigFaults(
        [f"configuration {path}: it cannot be written: {reason}; put the lines into it by hand"]
    )


def _check_writable(path: Path, real: Path) -> None:
    """Raise ConfigFaults for a file that a rename would replace, but that is not to be changed."""
    status = os.stat(real)
    is_read_only = not status.st_mode & 0o222 or not os.access(real, os.W_OK)
    if is_read_only:
        raise _unwritable(path, "it is read-only")
    if status.st_nlink > 1:
        reason = f"it has {status.st_nlink} names (hard links), and only one would be changed"
        raise _unwritable(path, reason)
