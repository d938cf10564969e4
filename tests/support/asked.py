"""A run that is asked for other sources while it goes on, as a service manager runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framegate.cli.control.sources import as_json, states_of
from framegate.pipeline.run.rpc import GetSources, GetStore, SourceList, StoreUrl, ask
from framegate.pipeline.store.embedded import socket_path
from framegate.pipeline.telemetry.source_view import Viewer
from tests.support.commands import Command, Reader
from tests.support.runs import DEADLINE_S, children, environment, wait_until

DONE = 0


class Asked:
    """Commands to the run in a folder, and its store as any client reads it."""

    def __init__(self, folder: Path, data: str = "data") -> None:
        self.folder, self.data = folder, data

    def says(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "framegate.cli", *words, "-d", self.data],
            cwd=self.folder,
            env={**environment(), "XDG_STATE_HOME": str(self.folder / "state")},
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
            encoding="utf-8",
        )

    def does(self, *words: str, typed: str = "") -> str:
        ended = self.says(*words, typed=typed)
        assert ended.returncode == DONE, ended.stderr
        return ended.stdout

    def sources(self) -> dict[str, dict[str, Any]]:
        """What `framegate sources --json` says, without a process and a second for each look."""
        answer = ask(self.folder / self.data, GetSources())
        assert isinstance(answer, SourceList)
        store = ask(self.folder / self.data, GetStore())
        assert isinstance(store, StoreUrl)
        viewer = Viewer(store.url)
        views = viewer.look([source.name for source in answer.sources])
        viewer.close()
        rows = zip(answer.sources, views, states_of(answer, views), strict=True)
        return {source.name: as_json(source, *seen) for source, *seen in rows}

    @property
    def store(self) -> Reader:
        return Reader(f"unix://{socket_path(self.folder / self.data / 'store')}")

    def seqs(self, source: str) -> list[tuple[int, int]]:
        return [(r["epoch"], r["seq"]) for r in self.store.results(source)]

    def until(self, source: str, frames: int) -> None:
        wait_until(f"{frames} of {source}", lambda: len(self.seqs(source)) >= frames)

    def written(self) -> dict[str, dict[str, Any]]:
        run = json.loads((self.folder / self.data / "run.json").read_text(encoding="utf-8"))
        return {source["name"]: source for source in run["sources"]}


@contextmanager
def service(folder: Path, *words: str) -> Iterator[Command]:
    """A run as a service manager starts it, its folder there beforehand."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "control.sock").unlink(missing_ok=True)
    with Command(folder, "run", "-d", "data", "--resume", *words) as run:
        wait_until("it can be asked", (folder / "data" / "control.sock").exists)
        yield run


def workers(pid: int) -> dict[str, int]:
    """Process ids of a run's workers by name."""
    found = children(pid).items()
    return {
        words[3]: child for child, words in found if "framegate.pipeline.run.worker_main" in words
    }


def frames(epoch: int, count: int) -> list[tuple[int, int]]:
    return [(epoch, seq) for seq in range(count)]


def kill(run: Command, worker: str) -> None:
    os.kill(wait_until(worker, lambda: workers(run.process.pid).get(worker)), signal.SIGKILL)
