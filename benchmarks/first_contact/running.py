"""A program as a newcomer writes it: how long it is, and when it says what."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from framegate.pipeline.system.process import die_with_parent

PROGRAMS: Final = Path(__file__).resolve().parent / "programs"
RUN: Final = "run.sh"
_END_S = 30.0


def lines(folder: Path) -> int:
    """Of code, configuration and shell in it, without those that are blank or a comment."""
    written = [
        line.strip()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".sh", ".toml")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sum(1 for line in written if line and not line.startswith("#"))


@dataclass(frozen=True)
class Side:
    """Whose programs are run, and how.

    python       what `python` is to them, and where their commands lie
    folder       of the programs, one a task
    results      by task: what a line with a result looks like; its group names the source
    environment  beside this one's
    beside       a folder whose files lie beside each program, too
    """

    python: str
    folder: Path
    results: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: Path | None = None


class Program:
    """One that runs; every line of it is kept with the second at which it came."""

    def __init__(self, process: subprocess.Popen[str], result: str, errors: Path) -> None:
        self._process, self._result, self._errors = process, re.compile(result), errors
        self._changed = threading.Condition()
        self._came: list[tuple[float, str]] = []
        self._is_over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := self._result.match(line):
                with self._changed:
                    self._came.append((time.monotonic(), found[1]))
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def first(self, source: str | None, since: float, seconds: float) -> float | None:
        """After how many seconds the first result came (of a source); None: none did in time, or
        the program ended.
        """
        deadline = since + seconds
        with self._changed:
            while True:
                for came, of in self._came:
                    if came >= since and source in (None, of):
                        return came - since
                if self._is_over or not self._changed.wait(deadline - time.monotonic()):
                    return None

    def ended(self, since: float, seconds: float) -> float | None:
        """After how many seconds it ended well; None: it did not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(seconds) == 0:
                return time.monotonic() - since
        return None

    def said(self) -> str:
        """The last of what it said on standard error."""
        return self._errors.read_text(errors="replace", encoding="utf-8")[-2000:]

    def end(self) -> None:
        """Ask all of it to end, and see to it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._reader.join(_END_S)  # as long as anyone holds its output
            if not self._reader.is_alive():
                break
        self._process.wait()


@contextlib.contextmanager
def running(
    side: Side, task: str, clip: Path | None = None, urls: Mapping[str, str] | None = None
) -> Iterator[tuple[Program, float, Path]]:
    """The program of a task, since when it runs, and its folder; all are gone after the block.

    It finds `clip` as clip.mp4. urls: what stands for the addresses in its files. What it keeps for
    other runs it keeps in that folder: each is its first.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made, "work")
        shutil.copytree(side.folder / task, folder)
        for path in folder.iterdir():
            text = path.read_text(encoding="utf-8")
            for address, url in (urls or {}).items():
                text = text.replace(address, url)
            path.write_text(text, encoding="utf-8")
        if side.beside is not None:
            shutil.copytree(side.beside, folder, dirs_exist_ok=True)
        if clip is not None:
            (folder / "clip.mp4").symlink_to(clip)
        home = {f"XDG_{name}_HOME": f"{made}/{name}" for name in ("STATE", "CACHE", "CONFIG")}
        errors = Path(made, "stderr")
        with errors.open("w", encoding="utf-8") as to:
            began = time.monotonic()
            process = subprocess.Popen(
                ("bash", "-e", RUN),
                cwd=folder,
                env={
                    **os.environ,
                    **home,
                    "PATH": f"{Path(side.python).parent}:{os.environ['PATH']}",
                    "PYTHONUNBUFFERED": "1",
                    **side.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=to,
                text=True,
                start_new_session=True,
                preexec_fn=die_with_parent,
                encoding="utf-8",
            )
        program = Program(process, side.results.get(task, "(?!)"), errors)
        try:
            yield program, began, folder
        finally:
            program.end()
