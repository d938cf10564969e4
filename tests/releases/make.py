"""Make the kept data folder of a version: a run that was killed in the middle of a video.

    PYTHONPATH=CHECKOUT python tests/releases/make.py VERSION

writes VERSION.tar.xz beside this file, with a folder VERSION that contains:

clip.mp4       the video, the beginning of the demonstration's
pipeline.toml  rules for events, and that the video is recorded
data           the data folder of the killed run
expected.json  what the commands of that version say of it
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from framegate.cli import demo
from tests.support.footage import opening

FRAMES = 100
KILLED_AT = 50
DEADLINE_S = 120.0
CONFIG = """
[record]
sources = ["door"]
[events.areas.everywhere]
points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
[events.rules.visitor]
when = "inside"
area = "everywhere"
labels = ["person", "car", "bicycle"]
[events.rules.empty]
when = "count"
area = "everywhere"
labels = ["bus"]
at_most = 0
"""


def framegate(folder: Path, *words: str) -> list[str]:
    command = [sys.executable, "-m", "framegate", *words]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return ended.stdout.splitlines()


def results_in(url: str) -> int:
    try:
        with redis.Redis.from_url(url) as client:
            return int(client.xlen("fg:{door}:results"))
    except redis.ConnectionError:
        return 0


def run_and_kill(folder: Path) -> None:
    """Run until KILLED_AT results are stored, then kill the supervisor, and all ends with it."""
    words = ("run", "door=clip.mp4", "-d", "data", "--http", "off", "--pace", "realtime")
    run = subprocess.Popen([sys.executable, "-m", "framegate", *words], cwd=folder)
    url = f"unix://{folder}/data/store/valkey.sock"
    deadline = time.monotonic() + DEADLINE_S
    while results_in(url) < KILLED_AT:
        assert run.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "the run has not come so far"
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()


def expected(folder: Path) -> dict[str, Any]:
    """Return what this version's commands say of the killed run, and how many frames there are."""
    results = [json.loads(line) for line in framegate(folder, "results", "-d", "data", "--json")]
    episodes = framegate(folder, "events", "-d", "data", "--json")
    recordings = framegate(folder, "recordings", "-d", "data", "--json")
    return {
        "frames": FRAMES,
        "results": [[r["epoch"], r["seq"], len(r["objects"])] for r in results],
        "episodes": [json.loads(line)["id"] for line in episodes],
        "recordings": [json.loads(line) for line in recordings],
    }


def make(version: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, version)
        folder.mkdir()
        opening(demo.shipped_clip(), folder / "clip.mp4", FRAMES)
        (folder / "pipeline.toml").write_text(CONFIG, encoding="utf-8")
        run_and_kill(folder)
        (folder / "expected.json").write_text(
            json.dumps(expected(folder), indent=1), encoding="utf-8"
        )
        with tarfile.open(target, "w:xz") as tar:
            tar.add(folder, version, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what is no file, and who made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry if entry.isreg() or entry.isdir() else None


if __name__ == "__main__":
    make(sys.argv[1], Path(__file__).with_name(f"{sys.argv[1]}.tar.xz"))
