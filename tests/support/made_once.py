"""Folders that are costly to make, shared by test processes that may want them at the same time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

_COMPLETE = "complete"  # in a folder, once it is


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder` with everything that `make` writes into it.

    The first process that asks makes it, under a lock; the others wait. A folder that its maker
    left incomplete, because it failed or was killed, is removed and made again. Nobody may change
    the folder later.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not (folder / _COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / _COMPLETE).touch()
    return folder
