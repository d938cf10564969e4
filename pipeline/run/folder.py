"""The data folder of a run: its lock, run.json, and the sources with which a resume continues.

When a run is resumed, its files must be unchanged. Its cameras follow the configuration: new ones
are added, missing ones are removed. Cameras of the command line and of `framegate add` stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from framegate.pipeline.config.sources import SourceConfig
from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.object_filters import NamedFilter
from framegate.pipeline.contracts.records import Versioned
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.system.replaced_file import sync_folder

VERSION = 3
READERS_S = 60.0  # longest wait for readers of an ended run, which lock its folder
CHILDREN_S = 2.0  # longest wait for children of a killed run, which hold the lock until they run
_ENDS_BYTES = 65536

OURS = (
    "run.json", "run.new", "lock", "control.sock", "control.sock.new", "precision.json",
    "promise.secret",
    "http.token", "store", "state", "models", "certificates", "footage",
    "changes", "recordings", "events.db", "events.db-journal", "events.db-wal", "events.db-shm",
)  # fmt: skip
"""Names of all files and folders that a run makes in its data folder."""

By = Literal["config", "command", "add"]


class Fingerprint(msgspec.Struct, frozen=True):
    """Properties that change with a file: size, time of the last change, digest of both ends."""

    nbytes: int
    mtime_ns: int
    sha256_of_ends: str

    def text(self) -> str:
        """Return it as one word."""
        return f"{self.nbytes}-{self.mtime_ns}-{self.sha256_of_ends}"


@dataclass(frozen=True, kw_only=True)
class RunSource(SourceConfig):
    """A declared source that a run has: in run.json, and in the request of `framegate add`.

    The path of a file is absolute. A URL in an environment variable is not stored.

    live       whether it is a camera
    past       last epoch before the source was added to this run
    file       fingerprint of a file; None for other sources
    by         origin: the configuration, the command line of `run`, or `framegate add`
    ending     whether it is being removed: its decoded frames are finished
    model      NAME@DIGEST of the model that was chosen during the run; "" if none was
    before     the same of the model before it; None if there was no other
    since      version of the fleet's plan that gave it to this slot; 0: the run is no slot
    identity   of a slot's file, see `file_identity`; "" for other sources
    continues  whether it is a file that continues where another slot stopped
    hands_over  whether it is being removed for another slot, which continues it
    """

    name: str
    live: bool = False
    past: int = 0
    file: Fingerprint | None = None
    by: By = "command"
    ending: bool = False
    model: str = ""
    before: str | None = None
    since: int = 0
    identity: str = ""
    continues: bool = False
    hands_over: bool = False

    def place(self) -> str:
        """Return its path or URL, without a secret."""
        if self.url_env is not None:
            return f"env:{self.url_env}"
        return shown(self.url, self.live)


class RunFile(msgspec.Struct, frozen=True):
    """The content of run.json, with which `--resume` continues.

    identity  identity of its store; "" until the run has reached the store: it owns nothing there
    stays     whether the run continues without sources until it is stopped
    begun     False: these sources are wanted; only the store knows which of them the run owns
    filters   object filters that were added during the run
    http      HOST:PORT that was chosen for its HTTP port, and is used again; "" if it is configured
    slot      name of the fleet's slot that the run is; "": it is none
    v         version of this file; it grows if an earlier release would misread a new field
    """

    run: str
    identity: str
    sources: tuple[RunSource, ...]
    stays: bool = False
    begun: bool = True
    filters: tuple[NamedFilter, ...] = ()
    http: str = ""
    slot: str = ""
    v: int = VERSION


class RunFolder:
    """The data folder of a run, locked while this object is open."""

    def __init__(self, path: Path, made_by_us: bool, *, waits: bool = True) -> None:
        """Lock the folder. DataFolderRefused.

        waits  whether to wait for readers of the run that it has, which are done in a moment
        """
        self.path = path
        self.made_by_us = made_by_us
        self._file = path / "run.json"
        foreign = _foreign_files(path)
        if foreign:
            raise DataFolderRefused(
                f"data folder {path} contains {', '.join(foreign)}, which no run made and a run "
                "would overwrite; select another folder with -d"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderRefused(
                f"data folder {path} cannot be created or written: {error.strerror}; select "
                "another folder with -d"
            ) from error
        if not _locked(self._lock, waits):
            os.close(self._lock)
            raise DataFolderRefused(
                f"data folder {path} is in use by another run; stop that run, or select another "
                "folder with -d"
            )

    @property
    def store(self) -> Path:
        """Return the folder of the embedded store."""
        return self.path / "store"

    def private_database(self, name: str) -> Path:
        """Return the path of an SQLite database in this folder that only this user may read.

        A missing database is made as an empty file: SQLite gives its other files the same mode.
        """
        database = self.path / name
        with contextlib.suppress(OSError):  # the disk is full, or another user owns the file
            database.touch(mode=0o600)
            for ending in ("", "-wal", "-shm"):  # 0.2 let other users read them
                file = self.path / f"{name}{ending}"
                if file.exists():
                    file.chmod(0o600)
        return database

    def read(self) -> RunFile | None:
        """Return the run of this folder, None for a new folder. DataFolderRefused."""
        return read_run(self.path)

    def write(self, run: RunFile) -> None:
        """Write run.json atomically, and flush it to the disk. DataFolderRefused."""
        content = msgspec.structs.asdict(msgspec.structs.replace(run, v=VERSION))
        content["framegate"] = version("framegate")
        new = self._file.with_suffix(".new")
        try:
            new.touch(mode=0o600)  # a URL may contain a password
            with new.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(content)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._file)
            sync_folder(self.path)
        except OSError as error:
            raise DataFolderRefused(f"data folder {self.path}: {error}") from error

    def forget(self) -> None:
        """Remove run.json, because the run did not begin."""
        self._file.unlink(missing_ok=True)

    def close(self, keep: bool) -> None:
        """Unlock the folder. Remove it if this object made it, `keep` is False, and it has neither
        recorded video nor certificates.

        Files of others in it, such as videos of --save, stay, and so does the folder then.
        """
        if self.made_by_us and not keep and not _has_evidence(self.path):
            for name in OURS:
                shutil.rmtree(self.path / name, ignore_errors=True)
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
            with contextlib.suppress(OSError):
                self.path.rmdir()
        os.close(self._lock)


class _Writer(Versioned, frozen=True):
    """The writer of a run.json. framegate: its version; "" for 0.1, which did not write it"""

    framegate: str = ""


def read_run(folder: Path) -> RunFile | None:
    """Return the run of a folder, None for a new folder. DataFolderRefused."""
    file = folder / "run.json"
    try:
        data = file.read_bytes()
        writer = msgspec.json.decode(data, type=_Writer)
        if writer.v > VERSION:
            newer = f"a newer Framegate {writer.framegate}".rstrip()
            raise DataFolderRefused(
                f"{file}: {newer} wrote it (version {writer.v}; this one reads up to {VERSION}); "
                "use that version, or start a new run with another -d"
            )
        run = msgspec.json.decode(data, type=RunFile)
        for source in run.sources:
            if not is_name(source.name):
                raise msgspec.ValidationError(f"{source.name!r} cannot name a source")
        return run
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataFolderRefused(f"{file}: {error}; this is not a file of Framegate") from error


def _locked(lock: int, waits: bool) -> bool:
    """Take a folder's lock for a run. Return False if another run has it.

    Readers of an ended run lock the folder while they load its store; with `waits`, we wait for
    them, and for a moment for the children of a killed run that were just being started.
    """
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not waits:
                return False
            patience_s = CHILDREN_S
            if _only_readers(lock):
                patience_s = READERS_S
            if time.monotonic() > began + patience_s:
                return False
        time.sleep(0.05)


def _only_readers(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _foreign_files(path: Path) -> list[str]:
    """Return the files in a folder that have our names although no run has used the folder.

    A run always leaves a lock, and its run.json is checked when it is read.
    """
    with contextlib.suppress(OSError):
        names = {entry.name for entry in path.iterdir()}
        if not names & {"lock", "run.json"}:
            return [name for name in OURS if name in names]
    return []


def open_folder(path: Path | None, resume: bool) -> RunFolder:
    """Open the folder at `path`, or a new one. DataFolderRefused if it is used and not resumed."""
    if path is None:
        if resume:
            raise ConfigFaults(["--resume: needs -d DATA, the folder of the run to continue"])
        name = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
        return RunFolder(runs_folder() / name, made_by_us=True)
    path = path.absolute()  # stores and workers have other working directories
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
    """Remove the data of old runs without -d, and return their number.

    The last `most` runs, active runs, runs that a command reads now, and runs with certificates or
    recorded video stay. It never waits: the next start removes what is in use now.
    """
    paths = sorted(file.parent for file in runs_folder().glob("*/run.json"))  # names are times
    dropped = 0
    for path in paths[: max(0, len(paths) - most)]:
        if _has_evidence(path):
            continue
        with contextlib.suppress(DataFolderRefused):  # in use
            RunFolder(path, made_by_us=True, waits=False).close(keep=False)
            dropped += 1
    return dropped


def _has_evidence(path: Path) -> bool:
    """Return whether a data folder has certificates or recorded video, also unfinished files."""
    return any((path / "certificates").glob("*")) or any((path / "recordings").rglob("*.mp4*"))


def runs_folder() -> Path:
    """Return the folder in which runs without -d keep their data."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "framegate"


def fingerprint(url: str) -> Fingerprint | None:
    """Return a file's fingerprint; None if it is not a readable regular file."""
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
    """Return a fault for each source whose file has changed, so that it cannot be resumed."""
    faults = []
    for source in sources:
        if source.file is not None:
            now = fingerprint(source.url)
            if now != source.file:
                faults.append(f"source {source.name}: {source.url} {_change(source, now)}")
    return faults


def _change(source: RunSource, now: Fingerprint | None) -> str:
    """Return the rest of a sentence: how a source's file differs, and how to continue."""
    before = source.file
    assert before is not None
    if now is None:
        return "is missing or cannot be read; put it back there, or start a new run"
    if replace(now, mtime_ns=before.mtime_ns) != before:
        return "has another size or content than when the run began; start a new run"
    seconds, nanoseconds = divmod(before.mtime_ns, 10**9)
    return (
        "has another time of its last change than when the run began. If it is the same file, for "
        "example from an archive, restore the time, and resume again:\n"
        f"touch -d @{seconds}.{nanoseconds:09} {shlex.quote(source.url)}"
    )


@dataclass(frozen=True)
class Resumed:
    """A run to continue.

    run  with the sources that stay, as they are configured now
    new  sources to add
    """

    run: RunFile
    new: tuple[RunSource, ...] = ()


def resumed(known: RunFile, asked: Sequence[RunSource], folder: Path) -> Resumed:
    """Return the run of a folder with its current sources. DataFolderRefused if a file changed.

    asked: the sources of the configuration and the command line
    """
    if not known.begun:
        return _begin_again(known, asked)
    current = {source.name: source for source in asked}
    stay = []
    for source in known.sources:
        if source.name in current:
            source = _updated(source, current[source.name])
        elif _follows_config(source):
            continue
        stay.append(source)
    before = {source.name: source for source in known.sources}
    faults = [
        f"source {source.name}: it is not in the run of {folder} ({', '.join(before)}); "
        "--resume continues with those, so name none, or cameras only; framegate add adds a file "
        "to the active run"
        for source in asked
        if not _fits(before.get(source.name), source)
    ]
    faults += changed(stay)
    if faults:
        raise DataFolderRefused("\n".join(faults))
    new = [source for source in asked if source.name not in before]
    return Resumed(replace(known, sources=tuple(stay)), tuple(new))


def as_slot(known: RunFile, slot: str, folder: Path) -> RunFile:
    """Return the run of a folder as a slot of a fleet, whose plan names its sources; as it is if
    `slot` is "". DataFolderRefused for a folder of the other kind, whose sources would be lost.
    """
    if not slot and known.slot:
        raise DataFolderRefused(
            f"data folder {folder} is that of slot {known.slot}, and the plan of its fleet names "
            f"its sources; use framegate run --slot {known.slot} -d {folder} --store URL"
        )
    if not slot:
        return known
    own = [source.name for source in known.sources if not source.since]
    if own:
        raise DataFolderRefused(
            f"data folder {folder} is that of a run with sources of its own ({', '.join(own)}), "
            f"which slot {slot} would forget; select another folder with -d"
        )
    return replace(known, sources=(), stays=True, slot=slot)


def _begin_again(known: RunFile, asked: Sequence[RunSource]) -> Resumed:
    """Return a run that was killed before it had all sources. It keeps its id and what it owns."""
    names = {source.name for source in asked}
    wanted = [s for s in known.sources if s.name not in names and not _follows_config(s)]
    faults = changed(wanted)
    if faults:
        raise DataFolderRefused("\n".join(faults))
    return Resumed(replace(known, sources=()), (*asked, *wanted))


def _follows_config(source: RunSource) -> bool:
    """Return whether a source ends if it is no longer configured."""
    return source.live and source.by == "config"


def _fits(known: RunSource | None, asked: RunSource) -> bool:
    """Return whether a source may continue: a camera may be new or moved, a file must be known."""
    if asked.live:
        return known is None or known.live
    return known is not None and (known.url, known.url_env) == (asked.url, asked.url_env)


def _updated(known: RunSource, asked: RunSource) -> RunSource:
    if not known.live or known.ending:
        return known
    return dataclasses.replace(asked, past=known.past, model=known.model, before=known.before)
