"""Runs in which one call fails, and what must be true after the next run of the same folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from tests.support.episodes import WALK
from tests.support.recorded import payload, write_both
from tests.support.runs import DEADLINE_S, environment, published_in, said
from tests.support.webhooks import SINK, WebhookReceiver

KINDS: Final = ("write", "fsync", "rename", "sqlite", "store")
ERRORS: Final[Mapping[str, Sequence[str]]] = {
    "write": ("ENOSPC", "EIO", "EDQUOT", "short"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("ENOSPC", "EIO"),
    "sqlite": ("IOERR",),
    "store": ("before", "after"),
}
_LINE: Final = 160  # bytes, as tests/support/faulty_disk writes them
_SHIM: Final = Path(__file__).with_name("faulty_disk")
SOURCE: Final = "gate"
CONFIG: Final = """
[record]
sources = ["gate"]
[events.areas.middle]
points = [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]
[events.rules.visitor]
when = "inside"
area = "middle"
severity = "alert"
clip = { before_s = 1.0, after_s = 1.0 }
[http]
listen = "off"
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.cache]
input = "walk"
"""


class Fault(NamedTuple):
    """The n-th call of a kind fails with an error."""

    kind: str
    n: int
    error: str


class Outcome(NamedTuple):
    """All that a run acknowledged."""

    results: list[object]
    told: list[str]
    packets: list[bytes]
    reasons: list[str]


class FaultyRuns:
    """Runs of one video, each in a folder of its own. One thread."""

    def __init__(self, folder: Path, receiver: WebhookReceiver) -> None:
        self.folder, self._receiver = folder, receiver
        folder.mkdir(parents=True, exist_ok=True)
        self._file = write_both(folder / "gate.mp4", 9.0, sound=None, size=(48, 32))
        (folder / "walk.py").write_text(WALK, encoding="utf-8")
        (folder / "pipeline.toml").write_text(CONFIG + SINK, encoding="utf-8")

    def run(
        self, name: str, faults: Sequence[Fault], *words: str
    ) -> subprocess.CompletedProcess[str]:
        """Run with these faults, to its end."""
        calls = self.folder / f"{name}.calls"
        calls.mkdir(exist_ok=True)
        plan = {
            "data": str(self.folder / name),
            "calls": str(calls),
            "faults": {fault.kind: (fault.n, fault.error) for fault in faults},
        }
        env = environment()
        env["PYTHONPATH"] = f"{_SHIM}{os.pathsep}{env['PYTHONPATH']}"
        env["FRAMEGATE_FAULTS"] = json.dumps(plan)
        return self._framegate(env, "run", "-d", name, *words)

    def resume(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run on without faults; anew where the first run left nothing to go on with."""
        has_begun = (self.folder / name / "run.json").exists()
        words = ("--resume",) if has_begun else ("gate.mp4",)
        return self._framegate(environment(), "run", "-d", name, *words)

    def _framegate(self, env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "framegate.cli", *words],
            cwd=self.folder,
            env={**env, "XDG_STATE_HOME": str(self.folder / "state")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            encoding="utf-8",
        )

    def check(self, name: str, faults: Sequence[Fault], undisturbed: Outcome) -> None:
        """Check that a run with faults, and the next one, acknowledge what an undisturbed one does.

        Only a recording may lack packets. Then the index tells the gap, with its reason.
        """
        self._receiver.taken.clear()
        disturbed = self.run(name, faults, "gate.mp4")
        resumed = self.resume(name)
        where = [f"{fault}: {self.call(name, fault)}" for fault in faults]
        assert not faults or any(self.reached(name, fault) for fault in faults), where
        assert resumed.returncode == 0, (where, disturbed.stderr, resumed.stderr)
        found = self.outcome(name)
        assert found.results == undisturbed.results, where
        assert found.told == undisturbed.told, where
        if found.packets != undisturbed.packets:
            assert found.reasons, (where, "packets are missing, and no gap is told")
            missing = set(undisturbed.packets) - set(found.packets)
            assert len(found.packets) == len(undisturbed.packets) - len(missing), where
            assert set(found.packets) <= set(undisturbed.packets), where
            assert set(found.reasons) <= {"disk_full", "disk_error", "index_error"}, where

    def calls(self, name: str) -> dict[str, int]:
        """Return how many calls of each kind a run made."""
        folder = self.folder / f"{name}.calls"
        sizes = {kind: folder / kind for kind in KINDS}
        return {k: f.stat().st_size // _LINE if f.exists() else 0 for k, f in sizes.items()}

    def reached(self, name: str, fault: Fault) -> bool:
        """Return whether the call that was to fail was made."""
        return self.calls(name)[fault.kind] >= fault.n

    def call(self, name: str, fault: Fault) -> str:
        """Return which call failed."""
        file = self.folder / f"{name}.calls" / fault.kind
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return lines[fault.n - 1].rstrip() if len(lines) >= fault.n else "none: it was not reached"

    def outcome(self, name: str) -> Outcome:
        """Return what a folder has, after a check that all of it agrees."""
        data = self.folder / name
        results = published_in(data, [SOURCE])[SOURCE].results
        with closing(Index(data)) as index:
            rebuild(index)  # as whoever lists recordings does
            held = index.between(SOURCE, 0.0, 1e12)
            gaps = index.recorders.gaps(SOURCE, 0.0, 1e12)
        packets = [packet for one in held for packet in payload(data / FOLDER / one.path)]
        told = list(dict.fromkeys(self._receiver.ids()))
        return Outcome(said(results), told, packets, [gap.why for gap in gaps])
