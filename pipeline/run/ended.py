"""Open the store of an ended run for a reader.

Nothing in the run's folder is written. A server of the reader's own loads the files of the store
and then closes them, so several readers may do this at once, and the run may be resumed meanwhile.
A process between reader and server (`python -m framegate.pipeline.run.ended FOLDER`) ends the
server when the reader closes its pipe, which the kernel does if the reader is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    FramegateError,
    RunRefused,
    StoreLost,
    StoreRefused,
    did_you_mean,
)
from framegate.pipeline.run.folder import runs_folder
from framegate.pipeline.run.rpc import NoRun, find_run
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.process import TRACED, leave

_FILES = "appendonlydir"  # the server's files, in the store's folder
_PATIENCE_S = 20.0  # longest wait for a run that has locked its folder and cannot be reached
_END_S = 15.0
_HINT = "start one, or name its data folder with -d, also that of a run that has ended"
_NO_RUN = "no run is active in {} on this host, and the folder has no ended run: {}"


class OpenedStore:
    """The store of an active or ended run. A context manager. Any thread.

    url     URL of the store
    folder  data folder of the run; None if only the URL is known
    ended   whether the run has ended, so that nothing is added
    stages  names of the stages of an active run that have outputs of their own; empty: unknown
    """

    def __init__(
        self,
        url: str,
        folder: Path | None = None,
        keeper: subprocess.Popen[bytes] | None = None,
        stages: Sequence[str] = (),
    ) -> None:
        """Wrap a store; use `open_store`. keeper: process that ends the server of an ended run"""
        self.url = url
        self.folder = folder
        self.ended = keeper is not None
        self.stages = frozenset(stages)
        self._end = weakref.finalize(self, _end, keeper)

    def close(self) -> None:
        """End the server if it belongs to this reader. May be called again."""
        self._end()

    def check_stage(self, stage: str) -> None:
        """Raise ConfigFaults if the run has no such stage: its outputs would never come.

        A store that other runs may use, or whose run is unknown, is not checked.
        """
        if stage in self.stages or not (self.stages or self.ended):
            return
        # A resumed run may lack a stage that it had before, whose outputs are still there.
        pattern = keys.out("*", "*")
        if self.ended:
            pattern = keys.at("*", "*")
        with store_errors(self.url), connect(self.url) as client:
            stored = {key.decode().rpartition(":")[2] for key in client.scan_iter(pattern)}
        known = sorted(self.stages | stored)
        if stage not in known:
            raise ConfigFaults(
                [
                    f"stage {stage!r}: the run in {self.folder} has no outputs of such a stage; "
                    f"it has those of {', '.join(known)}{did_you_mean(stage, known)}"
                ]
            )

    def how_it_goes_on(self) -> str:
        """Return a message for users about an ended run and its commands."""
        return (
            f"the run in {self.folder} is not active; framegate results -d {self.folder} shows its "
            f"results, framegate run -d {self.folder} --resume continues it"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(folder: Path | None, url: str | None = None) -> OpenedStore:
    """Open the store at a URL, or else that of the run in a folder, active or ended.

    Without a folder: the only active run of this user, else the last run without -d. ConfigFaults
    if there is no run or its folder has no results; StoreRefused.
    """
    if url is not None:
        return OpenedStore(url)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            run = find_run(folder)
            store = run.store_url()
            return OpenedStore(store.url, Path(run.folder), stages=store.stages)
        except NoRun as error:
            ended = folder or _last_folder()
            if ended is None:
                raise NoRun(None, _HINT) from error
            try:
                return open_ended(ended)
            except RunActive as error:  # the run is starting or ending
                if time.monotonic() > deadline:
                    raise RunRefused(str(error), Exit.SOURCE_FAILED) from None
        time.sleep(0.1)


def data_folder(folder: Path | None) -> Path:
    """Return the data folder of an active or ended run.

    That is `folder`, else that of the only active run, else that of the last run without -d. NoRun;
    ConfigFaults if several runs are active.
    """
    if folder is not None:
        return folder
    try:
        return Path(find_run(None).folder)
    except NoRun as error:
        last = _last_folder()
        if last is None:
            raise NoRun(None, _HINT) from error
        return last


def _last_folder() -> Path | None:
    """Return the newest folder of a run without -d; the names are times."""
    files = runs_folder().glob("*/run.json")
    return max((file.parent for file in files), default=None)


class RunActive(Exception):
    """A run has the folder, or an ended run's folder is being repaired."""


class _StoreOpened(msgspec.Struct, frozen=True, tag=True):
    """The keeper's message that the server answers at this URL."""

    url: str


class _NotOpened(msgspec.Struct, frozen=True, tag=True):
    """The keeper's message that it could not open the store. busy: a run has the folder"""

    message: str
    exit: int = 0
    busy: bool = False


_Opening = _StoreOpened | _NotOpened


def open_ended(folder: Path) -> OpenedStore:
    """Open the store of the ended run in a folder.

    RunActive if a run has the folder; ConfigFaults if the folder has no results; StoreRefused.
    """
    path = os.pathsep.join(place for place in sys.path if place)
    keeper = subprocess.Popen(
        [sys.executable, "-m", "framegate.pipeline.run.ended", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **TRACED, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C ends the reader, which then closes the pipe
    )
    assert keeper.stdout is not None
    try:
        with keeper.stdout as stdout:
            line = stdout.readline()
        message: _Opening = _NotOpened("it ended")
        if line:
            message = msgspec.json.decode(line, type=_Opening)
    except BaseException:
        _end(keeper)
        raise
    if isinstance(message, _StoreOpened):
        return OpenedStore(message.url, folder, keeper)
    _end(keeper)
    if message.busy:
        raise RunActive(message.message)
    if message.exit == Exit.USAGE:
        raise ConfigFaults([message.message])
    raise StoreRefused(f"the store of the run in {folder} cannot be opened: {message.message}")


def _end(keeper: subprocess.Popen[bytes] | None) -> None:
    """End a keeper with its server, and wait for it."""
    if keeper is None:
        return
    assert keeper.stdin is not None
    keeper.stdin.close()
    try:
        keeper.wait(_END_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the server dies with it
        keeper.wait()


# -- The keeper: the process between reader and server


def main() -> int:
    """Serve the store in the folder of the first argument until standard input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _served(Path(sys.argv[1])) as url:
            _send(_StoreOpened(url))
            sys.stdin.buffer.read()
    except RunActive as error:
        _send(_NotOpened(str(error), busy=True))
    except FramegateError as error:
        _send(_NotOpened(str(error), int(error.exit)))
    except OSError as error:
        _send(_NotOpened(str(error), int(Exit.STORE)))
    return 0


def _send(message: _Opening) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.buffer.flush()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the store of an ended run for the length of a block, which gets its URL."""
    with read_locked(folder):
        kept = folder / "store" / _FILES
        if not (folder / "run.json").exists():
            raise ConfigFaults([_NO_RUN.format(folder, "it has no run.json")])
        if not kept.is_dir():
            raise ConfigFaults(
                [
                    f"the run in {folder} has ended, and its results are in another store: "
                    "name it with --store"
                ]
            )
        own = Path(tempfile.mkdtemp(prefix="framegate-ended-"))
        try:
            store = _loaded(kept, own)
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
    try:
        yield store.url
    finally:
        store.stop()
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def read_locked(folder: Path) -> Iterator[int]:
    """Lock a folder against runs, not against readers, for the length of a block.

    The block gets the descriptor of the lock. RunActive if a run has the folder.
    """
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        why = error.strerror
        if isinstance(error, FileNotFoundError):
            why = "no run began in it" if folder.is_dir() else "there is no such folder"
        raise ConfigFaults([_NO_RUN.format(folder, why)]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError as error:
        raise RunActive(f"a run has {folder}, and does not answer") from error
    finally:
        os.close(lock)


def _loaded(kept: Path, own: Path) -> EmbeddedStore:
    """Start a server that has loaded the files in `kept` and writes nothing.

    It reads the run's own files, and has an empty file of its own to append to. After a power cut
    the last file may end in the middle of a command. The server would truncate it, so in that case
    it gets copies.
    """
    with contextlib.suppress(StoreRefused, StoreLost):
        return _started(kept, own, copies=False)
    return _started(kept, own, copies=True)


def _started(kept: Path, own: Path, copies: bool) -> EmbeddedStore:
    files = own / _FILES
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    for file in kept.iterdir():
        if file.suffix == ".manifest":
            manifest = file.read_text(encoding="utf-8")
            if not copies:
                manifest = _with_own(manifest, files)
            (files / file.name).write_text(manifest, encoding="utf-8")
        elif copies:
            shutil.copyfile(file, files / file.name)
        else:
            (files / file.name).symlink_to(file.absolute())
    config = ["aof-load-truncated no"]
    if copies:
        config = []
    store = EmbeddedStore(own, "everysec", config=config)
    try:
        store.start()
        with store_errors(store.url), connect(store.url) as client:
            client.config_set("appendonly", "no")
    except BaseException:
        store.stop()
        raise
    shutil.rmtree(files)
    return store


def _with_own(manifest: str, files: Path) -> str:
    """Add an empty file to the manifest, so that the server appends to no other file.

    A line of the manifest is `file NAME seq NUMBER type TYPE`; files to append to have the type i.
    """
    numbers = [0]
    for line in manifest.splitlines():
        words = line.split()
        if words[5:6] == ["i"]:
            numbers.append(int(words[3]))
    number = max(numbers) + 1
    name = f"own.{number}.incr.aof"
    (files / name).touch()
    return f"{manifest.rstrip()}\nfile {name} seq {number} type i\n"


if __name__ == "__main__":
    leave(main())
