"""The data folder of a run: its lock, run.json, fingerprints of files, and what a resume takes up.

On a resume, files must be those of the run, unchanged. Cameras follow the configuration: new ones
begin, removed ones end. Cameras of the command line and of `framegate add` stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.records import Versioned
from framegate.pipeline.contracts.source import Frames, Transport
from framegate.pipeline.contracts.spec import PaceName

VERSION = 3
READERS_S = 60.0  # for which a run waits for those who open what an earlier one left
_ENDS_BYTES = 65536

OURS = (
    "run.json", "run.new", "lock", "control.sock", "precision.json", "promise.secret",
    "http.token", "store", "state", "models", "compiled", "certificates", "footage",
    "events.db", "events.db-wal", "events.db-shm",
)  # fmt: skip
"""Names of all that a run makes in its data folder."""

By = Literal["config", "command", "add"]


class Fingerprint(msgspec.Struct, frozen=True):
    """By what a changed file is told: size, time of change, hash of both ends."""

    nbytes: int
    mtime_ns: int
    sha256_of_ends: str


class RunSource(msgspec.Struct, frozen=True):
    """A source as run.json keeps it and `framegate add` sends it.

    url_env    the variable that holds the URL, which is then not written down
    past       last epoch before this run, or before it was added to it
    file       None for what is no file
    by         who named it: the configuration, the command line of `run`, or `framegate add`
    ending     it is being removed: what is decoded of it is finished
    model      that was chosen for it while the run went on, as NAME@DIGEST; empty: none was
    before     and the one before that; None: there was no other
    live, transport, frames   see source.Request
    """

    name: str
    url: str
    pace: PaceName
    past: int
    file: Fingerprint | None
    url_env: str | None = None
    live: bool = False
    transport: Transport = "tcp"
    frames: Frames = Frames()
    by: By = "command"
    ending: bool = False
    model: str = ""
    before: str | None = None


class RunFile(msgspec.Struct, frozen=True):
    """run.json: what `--resume` goes on with.

    identity  of its store; empty until it has seen that, and then it owns nothing there
    stays  it goes on until it is told to stop, also with no source left
    begun  False: these sources are wanted; which of them it owns, only the store knows
    http   HOST:PORT that its HTTP port took where none was asked for; it takes the same again
    v      version of this file: it grows when an earlier release would misread a new field
    """

    run: str
    identity: str
    sources: tuple[RunSource, ...]
    stays: bool = False
    begun: bool = True
    http: str = ""
    v: int = VERSION


class RunFolder:
    """One run's folder, locked while this object is open."""

    def __init__(self, path: Path, made_by_us: bool) -> None:
        self.path = path
        self.made_by_us = made_by_us
        self._file = path / "run.json"
        if theirs := _not_ours(path):
            raise DataFolderRefused(
                f"data folder {path} holds {', '.join(theirs)}, which no run made: a run would "
                "write over that; give another -d"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderRefused(f"data folder {path}: {error}") from error
        if not _locked(self._lock):
            os.close(self._lock)
            raise DataFolderRefused(
                f"data folder {path} is in use by another run; stop that one, or give another -d"
            )

    @property
    def store(self) -> Path:
        """Where the embedded store keeps its data."""
        return self.path / "store"

    def private_database(self, name: str) -> Path:
        """Return where an SQLite database of this folder is, which only this user may read.

        One that is not there is made empty: SQLite gives its other files the same mode.
        """
        database = self.path / name
        with contextlib.suppress(OSError):  # a disk that is full, or another user's file
            database.touch(mode=0o600)
            for ending in ("", "-wal", "-shm"):  # 0.2 let other users read them
                file = self.path / f"{name}{ending}"
                if file.exists():
                    file.chmod(0o600)
        return database

    def read(self) -> RunFile | None:
        """Return the run that this folder belongs to, None for a fresh one. DataFolderRefused."""
        return read_run(self.path)

    def write(self, run: RunFile) -> None:
        """Store what the run is; atomic, and on disk."""
        new = self._file.with_suffix(".new")
        try:
            new.touch(mode=0o600)  # a URL in it may carry a password
            with new.open("wb") as file:
                now = msgspec.structs.replace(run, v=VERSION)
                told = {**msgspec.structs.asdict(now), "framegate": version("framegate")}
                file.write(msgspec.json.format(msgspec.json.encode(told)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise DataFolderRefused(f"data folder {self.path}: {error}") from error

    def forget(self) -> None:
        """Remove run.json, as the run did not begin."""
        self._file.unlink(missing_ok=True)

    def close(self, keep: bool) -> None:
        """Unlock; a folder that we made and that holds nothing worth keeping goes.

        What others put into it meanwhile (videos of --save, say) stays, and the folder with it.
        """
        if self.made_by_us and not keep:
            for name in OURS:
                shutil.rmtree(self.path / name, ignore_errors=True)
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
            with contextlib.suppress(OSError):
                self.path.rmdir()
        os.close(self._lock)


class _Wrote(Versioned, frozen=True):
    """Who wrote run.json. framegate: its version, which 0.1 did not say."""

    framegate: str = ""


def written_by(folder: Path) -> str:
    """Return the version of the Framegate that wrote the run.json that read_run has read."""
    return msgspec.json.decode((folder / "run.json").read_bytes(), type=_Wrote).framegate or "0.1"


def read_run(folder: Path) -> RunFile | None:
    """Return the run that a folder belongs to, None for a fresh one. DataFolderRefused."""
    file = folder / "run.json"
    try:
        data = file.read_bytes()
        wrote = msgspec.json.decode(data, type=_Wrote)
        if wrote.v > VERSION:
            which = f" {wrote.framegate}" if wrote.framegate else ""
            raise DataFolderRefused(
                f"{file}: a newer Framegate{which} wrote it (version {wrote.v}; this one reads up "
                f"to {VERSION}); use that version, or begin a new run with another -d"
            )
        read = msgspec.json.decode(data, type=RunFile)
        if odd := [source.name for source in read.sources if not is_name(source.name)]:
            raise msgspec.ValidationError(f"{odd[0]!r} cannot name a source")
        return read
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataFolderRefused(f"{file}: {error}; this is not a file of Framegate") from error


def _locked(lock: int) -> bool:
    """Take a folder's lock for a run; False if another run has it. Readers of an ended run have it
    for as long as they load its store: these are waited for.
    """
    deadline = time.monotonic() + READERS_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline or not _only_readers(lock):
                return False
        time.sleep(0.05)


def _only_readers(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _not_ours(path: Path) -> list[str]:
    """Return what has the name of something of ours in a folder that no run has used: a run leaves
    a lock, whatever killed it. A run.json tells by itself whether it is ours.
    """
    with contextlib.suppress(OSError):
        there = {entry.name for entry in path.iterdir()}
        if not there & {"lock", "run.json"}:
            return [name for name in OURS if name in there]
    return []


def open_folder(path: Path | None, resume: bool) -> RunFolder:
    """Open the folder at `path`, or a new one. DataFolderRefused if it is used and not resumed."""
    if path is None:
        if resume:
            raise ConfigFaults(["--resume: needs -d DATA, the folder of the run to continue"])
        name = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        return RunFolder(runs_folder() / name, made_by_us=True)
    path = path.absolute()  # servers and workers have other working directories
    if os.fsencode(path).decode(errors="ignore") != str(path):
        raise DataFolderRefused(f"data folder {str(path)!r}: its name is not UTF-8")
    folder = RunFolder(path, made_by_us=not path.exists())
    try:
        known = folder.read()
    except DataFolderRefused:
        folder.close(keep=True)
        raise
    if known is not None and not resume:
        folder.close(keep=True)
        raise DataFolderRefused(
            f"data folder {path} contains a run already: add --resume to continue it, or select "
            "another folder with -d"
        )
    return folder


RUNS_KEPT = 20


def drop_old_runs(most: int = RUNS_KEPT) -> int:
    """Remove the data of runs that were given no folder, but for the last ones, those that go on,
    and those with certificates. Returns how many.
    """
    found = sorted(file.parent for file in runs_folder().glob("*/run.json"))  # named by their time
    dropped = 0
    for path in found[: max(0, len(found) - most)]:
        if any((path / "certificates").glob("*")):
            continue
        with contextlib.suppress(DataFolderRefused):  # in use
            RunFolder(path, made_by_us=True).close(keep=False)
            dropped += 1
    return dropped


def runs_folder() -> Path:
    """Return the folder in which runs without -d keep their data."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "framegate"


def fingerprint(url: str) -> Fingerprint | None:
    """Return the file's fingerprint, None for what is not a readable regular file."""
    path = Path(url)
    try:
        if not path.is_file():
            return None
        stat = path.stat()
        digest = hashlib.sha256()
        with path.open("rb") as file:
            digest.update(file.read(_ENDS_BYTES))
            file.seek(max(0, stat.st_size - _ENDS_BYTES))
            digest.update(file.read(_ENDS_BYTES))
    except OSError:
        return None
    return Fingerprint(stat.st_size, stat.st_mtime_ns, digest.hexdigest())


def changed(sources: Sequence[RunSource]) -> list[str]:
    """Return why these sources cannot be resumed, a line for each file that is not what it was."""
    return [
        f"source {source.name}: {source.url} was changed or removed since the run began (size, "
        "time or content); it cannot be resumed: start a new run"
        for source in sources
        if source.file is not None and fingerprint(source.url) != source.file
    ]


@dataclass(frozen=True)
class Resumed:
    """run: with the sources that stay, as they are said now. new: to be added."""

    run: RunFile
    new: tuple[RunSource, ...] = ()


def resumed(known: RunFile, asked: Sequence[RunSource], folder: Path) -> Resumed:
    """Return what the run goes on with. DataFolderRefused if files are not what they were.

    asked: what configuration and command line say now
    """
    if not known.begun:
        return _begin_again(known, asked)
    theirs = {source.name: source for source in known.sources}
    now = {source.name: source for source in asked}
    strange = [
        f"source {source.name}: it is not in the run of {folder} ({', '.join(theirs)}); "
        "--resume continues with those, so name none, or cameras only"
        for source in asked
        if not _fits(theirs.get(source.name), source)
    ]
    gone = [
        source.name
        for source in known.sources
        if source.live and source.by == "config" and source.name not in now
    ]
    stay = [
        _as_said(source, now.get(source.name))
        for source in known.sources
        if source.name not in gone
    ]
    if faults := strange + changed(stay):
        raise DataFolderRefused("\n".join(faults))
    new = [source for source in asked if source.name not in theirs]
    return Resumed(replace(known, sources=tuple(stay)), tuple(new))


def _begin_again(known: RunFile, asked: Sequence[RunSource]) -> Resumed:
    """Return a run that was killed before it had all sources: it keeps its id for what it owns."""
    now = {source.name for source in asked}
    wanted = [s for s in known.sources if s.name not in now and not (s.live and s.by == "config")]
    if faults := changed(wanted):
        raise DataFolderRefused("\n".join(faults))
    return Resumed(replace(known, sources=()), (*asked, *wanted))


def _fits(known: RunSource | None, asked: RunSource) -> bool:
    """Return whether a source may go on: a camera may be new, or moved; a file must be the same."""
    if asked.live:
        return known is None or known.live
    return known is not None and (known.url, known.url_env) == (asked.url, asked.url_env)


def _as_said(known: RunSource, asked: RunSource | None) -> RunSource:
    if asked is None or not known.live or known.ending:
        return known
    return replace(asked, past=known.past, model=known.model, before=known.before)
