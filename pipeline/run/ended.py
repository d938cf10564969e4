"""The results of a run that has ended: its store, opened for one reader, and gone with that.

What the run left is only read. A server of the reader's own loads the store's files and then lets
go of them, so that readers, also several at once, write nothing into the folder, and a run may go
on there meanwhile. A process between reader and server ends it when the reader closes its side,
which the kernel does for a reader that is killed: `python -m framegate.pipeline.run.ended FOLDER`.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    FramegateError,
    RunRefused,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.run.folder import runs_folder
from framegate.pipeline.run.rpc import NoRun, find_run
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.embedded import EmbeddedStore

_FILES = "appendonlydir"  # of the server, in the store's folder
_PATIENCE_S = 20.0  # for a run that has locked its folder and is not found yet
_END_S = 15.0
_NONE = "start one, or name its data folder with -d, also that of a run that has ended"
_NEVER = "no run is active in {} on this host, and the folder has no ended run: {}"


class OpenedStore:
    """The store of a run that goes on or has ended. A context manager; close it. Any thread.

    url     of the store
    folder  the run's data folder, None where only the URL is known
    ended   whether the run has ended: what is there is all that there is
    """

    def __init__(
        self,
        url: str,
        folder: Path | None = None,
        keeper: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """What `open_store` makes. keeper: the process that ends the server of an ended run."""
        self.url, self.folder, self.ended = url, folder, keeper is not None
        self._let_go = weakref.finalize(self, _end, keeper)

    def close(self) -> None:
        """End the server, if it is this reader's own; again is harmless."""
        self._let_go()

    def how_it_goes_on(self) -> str:
        """Return what to tell a user of a run that has ended."""
        return (
            f"the run in {self.folder} has ended; framegate results -d {self.folder} shows its "
            f"results, framegate run -d {self.folder} --resume continues it"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(folder: Path | None) -> OpenedStore:
    """Open the store of the run in a folder, be it that it goes on or has ended.

    Without a folder that is the only run of this user that goes on, else the last that was started
    without -d. ConfigFaults if there is none, or no results are in its folder; StoreRefused.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            run = find_run(folder)
            return OpenedStore(run.store, Path(run.folder))
        except NoRun as none:
            where = folder if folder is not None else _last_folder()
            if where is None:
                raise NoRun(None, _NONE) from none
            try:
                return open_ended(where)
            except RunActive as error:  # it starts or ends at this moment
                if time.monotonic() > deadline:
                    raise RunRefused(str(error), Exit.SOURCE_FAILED) from None
        time.sleep(0.1)


def data_folder(folder: Path | None) -> Path:
    """Return a run's data folder, be it that it goes on or has ended: `folder`, else the only one
    that goes on, else that of the last run without -d. NoRun; ConfigFaults for several.
    """
    if folder is not None:
        return folder
    try:
        return Path(find_run(None).folder)
    except NoRun as none:
        if (last := _last_folder()) is None:
            raise NoRun(None, _NONE) from none
        return last


def _last_folder() -> Path | None:
    """Return the newest folder of a run without -d: their names are times."""
    found = sorted(path.parent for path in runs_folder().glob("*/run.json"))
    return found[-1] if found else None


class RunActive(Exception):
    """A run has the folder, or an ended run's folder is being repaired."""


class _StoreOpened(msgspec.Struct, frozen=True, tag=True):
    """The server answers at this URL."""

    url: str


class _NotOpened(msgspec.Struct, frozen=True, tag=True):
    """It is not opened; `busy`: a run has the folder."""

    message: str
    exit: int = 0
    busy: bool = False


_Opening = _StoreOpened | _NotOpened


def open_ended(folder: Path) -> OpenedStore:
    """Open the store that the run in a folder left. RunActive if a run has the folder; ConfigFaults
    if its results are not there; StoreRefused.
    """
    path = os.pathsep.join(place for place in sys.path if place)
    keeper = subprocess.Popen(
        [sys.executable, "-m", "framegate.pipeline.run.ended", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is the reader's, who then lets go of it
    )
    assert keeper.stdout is not None
    try:
        with keeper.stdout as said:
            line = said.readline()
        told: _Opening = (
            msgspec.json.decode(line, type=_Opening) if line else _NotOpened("it ended")
        )
    except BaseException:
        _end(keeper)
        raise
    if isinstance(told, _StoreOpened):
        return OpenedStore(told.url, folder, keeper)
    _end(keeper)
    if told.busy:
        raise RunActive(told.message)
    if told.exit == Exit.USAGE:
        raise ConfigFaults([told.message])
    raise StoreRefused(f"what the run in {folder} left cannot be opened: {told.message}")


def _end(keeper: subprocess.Popen[bytes] | None) -> None:
    """Have it end its server, and see it gone."""
    if keeper is None:
        return
    assert keeper.stdin is not None
    keeper.stdin.close()
    try:
        keeper.wait(_END_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the server dies with it
        keeper.wait()


# -- The process between reader and server.


def main() -> int:
    """Open the store in the folder that is named; end it once standard input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with _served(Path(sys.argv[1])) as url:
            _say(_StoreOpened(url))
            sys.stdin.buffer.read()
    except RunActive as error:
        _say(_NotOpened(str(error), busy=True))
    except FramegateError as error:
        _say(_NotOpened(str(error), int(error.exit)))
    except OSError as error:
        _say(_NotOpened(str(error), int(Exit.STORE)))
    return 0


def _say(told: _Opening) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the store that a run left in a folder while the block lasts; give its URL."""
    with read_locked(folder):
        kept = folder / "store" / _FILES
        if not (folder / "run.json").exists():
            raise ConfigFaults([_NEVER.format(folder, "it has no run.json")])
        if not kept.is_dir():
            raise ConfigFaults(
                [
                    f"the run in {folder} has ended, and had its results in a store elsewhere: "
                    "give that with --store"
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
    """Keep runs out of a folder for the length of a block, but no readers; gives the descriptor of
    its lock. RunActive.
    """
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigFaults([_NEVER.format(folder, error.strerror)]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError as error:
        raise RunActive(f"a run has {folder}, and does not answer") from error
    finally:
        os.close(lock)


def _loaded(kept: Path, own: Path) -> EmbeddedStore:
    """Start a server that has loaded what is kept, and writes nothing any more.

    It reads the run's own files, and has an empty one of its own to append to. Where the last of
    them ends in the middle of a command, as a power cut leaves it, the server would cut it: then
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
            manifest = file.read_text()
            if not copies:
                manifest = _with_own(manifest, files)
            (files / file.name).write_text(manifest)
        elif copies:
            shutil.copyfile(file, files / file.name)
        else:
            (files / file.name).symlink_to(file.absolute())
    store = EmbeddedStore(own, "everysec", config=[] if copies else ["aof-load-truncated no"])
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
    """Return the list of the server's files with one more, empty, to which alone it appends."""
    last = max(
        (int(words[3]) for words in map(str.split, manifest.splitlines()) if words[5:6] == ["i"]),
        default=0,
    )
    name = f"own.{last + 1}.incr.aof"
    (files / name).touch()
    return f"{manifest.rstrip()}\nfile {name} seq {last + 1} type i\n"


if __name__ == "__main__":
    sys.exit(main())
