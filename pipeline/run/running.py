"""Which runs go on on this host, so that `watch` finds them without being told."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.run.asking import SOCKET, TheStore, WhatStore, ask
from framegate.pipeline.run.run_folder import runs_folder

ANSWER_S = 10.0


class Running(msgspec.Struct, frozen=True):
    """A run that goes on: its supervisor (0: not known), data folder, HTTP port (HOST:PORT)."""

    pid: int
    folder: str
    http: str | None = None

    @property
    def store(self) -> str:
        """The store's URL, asked of the run: it may hold a password, and is written nowhere."""
        answer = ask(Path(self.folder), WhatStore(), ANSWER_S)
        assert isinstance(answer, TheStore)
        return answer.url


@contextmanager
def announced(folder: Path, http: str | None = None) -> Iterator[None]:
    """Let others find this run while the block lasts. A host that forbids it is no error."""
    place = runs_folder() / "running"
    file = place / f"{os.getpid()}.json"
    descriptor = None
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run = Running(os.getpid(), str(folder.absolute()), http)
        os.write(descriptor, msgspec.json.encode(run))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def runs_going_on() -> list[Running]:
    """Runs of this user whose supervisor lives; what dead ones left is removed."""
    found = []
    for file in sorted((runs_folder() / "running").glob("*.json")):
        try:
            if _is_locked(file):
                found.append(msgspec.json.decode(file.read_bytes(), type=Running))
            else:
                file.unlink()
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def _is_locked(file: Path) -> bool:
    """Whether its supervisor lives: the lock goes with it, while its process id may come again."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def find_run(folder: Path | None) -> Running:
    """The run in `folder`, or the only one there is. ConfigFaults if that does not name one."""
    runs = runs_going_on()
    if folder is not None:
        runs = [run for run in runs if Path(run.folder) == folder.absolute()]
    if len(runs) == 1:
        return runs[0]
    if folder is not None and (folder / SOCKET).exists():  # of a service with another home
        return Running(0, str(folder.absolute()))
    if not runs:
        where = f"in {folder} " if folder else ""
        raise ConfigFaults(
            [f"no run goes on {where}on this host; start one, or give its store with --store"]
        )
    listed = "\n".join(f"  -d {run.folder}" for run in runs)
    raise ConfigFaults([f"several runs go on; choose one:\n{listed}"])
