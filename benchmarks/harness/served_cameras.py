"""Cameras that are served while models change: the setting of `swaps` and `beside_training`.

Latency is from the camera's own clock, this machine's, to publication: exact, frame by frame.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.engine_run import REPOSITORY, EngineRun
from benchmarks.harness.live_cameras import FPS, ClipCameras, make_cameras
from benchmarks.live.point import config_text, source
from framegate.pipeline.run.rpc import RunCommand, ask
from tests.support.own_models import own_model

HEIGHT = 360
SETTLE_FRAMES, SETTLE_S = 20, 4.0
COMMAND_S = 120.0


@dataclass(frozen=True)
class ServedCameras:
    """A run with cameras, and a registry of models `own@1` to `own@N` beside it."""

    run: EngineRun
    names: tuple[str, ...]
    registry: Path

    def command(self, *words: str) -> None:
        """`framegate models ...` as a user types it, on this run."""
        where = ("-d", str(self.run.data))
        subprocess.run(
            (sys.executable, "-m", "framegate.cli", "models", *words, *where),
            cwd=REPOSITORY,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=COMMAND_S,
        )

    def ask(self, question: RunCommand) -> None:
        """What a command asks, without its process."""
        ask(self.run.data, question)

    def latencies_s(self, since: float, until: float) -> list[float]:
        """Of all cameras' frames that arrived in a span of UNIX seconds."""
        most = int(2 * FPS * (time.time() - since)) + 100
        return [
            result.published - result.captured
            for name in self.names
            for result in self.run.results(name, most)
            if result.captured_from == "rtcp" and since <= result.captured < until
        ]

    def models(self) -> set[str]:
        """What made the newest result of each camera."""
        newest = [self.run.results(name, 1)[-1] for name in self.names]
        return {result.models[0] for result in newest}

    def until_served_by(self, words: str) -> None:
        """Wait until every camera's newest result is by such a model."""
        deadline = time.monotonic() + COMMAND_S
        while not all(model.startswith(words) for model in self.models()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{words} does not serve: {self.models()}")
            time.sleep(0.05)


@contextmanager
def served(clip: Path, cameras: int, models: int, more: str = "") -> Iterator[ServedCameras]:
    """Such a run, settled; all of it is gone after the block. more: further configuration."""
    names = tuple(source(number) for number in range(cameras))
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made)
        (folder / "clips").mkdir()
        make_cameras(clip, folder / "clips", cameras)
        for n in range(models):
            own_model(folder / "registry", "own", str(n + 1), min_score=0.3 + n / 1000)
        with (
            ClipCameras(folder / "clips") as server,
            EngineRun(config_text(server.urls(cameras, HEIGHT)) + more, names) as run,
        ):
            run.wait_for_each(SETTLE_FRAMES)
            time.sleep(SETTLE_S)
            yield ServedCameras(run, names, folder / "registry")
