"""Epochs, placements and hung workers, with a null detector so that kills are many and quick."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import av
import pytest

from framegate.pipeline.contracts.records import Position
from tests.support.footage import steady, write_scene, write_sizes
from tests.support.runs import DEADLINE_S, Run, published_in, wait_until

pytestmark = pytest.mark.whole_run

SIZES = [(160, 120), (96, 96), (160, 120)]
EACH = 40

CONFIG = """
[workers]
hung_s = {hung_s}
[stages.decode]
use = "framegate.stages.decode:Decode"
[stages.window]
use = "stages_of_mine:Quiet"
input = "decode"
[stages.detect]
use = "stages_of_mine:{detect}"
input = "window"
[stages.escalate]
use = "framegate.stages.escalate:Escalate"
input = "detect"
[stages.cache]
use = "framegate.stages.publish:Publish"
input = "escalate"
[placement]
{placement}
"""

STAGES = '''
import pathlib
import time

from framegate.pipeline.contracts.stage import Item, NoState, Stage
from framegate.stages.detections import Detections


class Quiet(Stage[NoState]):
    """Says nothing."""

    followed = False

    def each(self, item, state):
        return None, state


class Null(Stage[NoState]):
    """Reads the pixels, says how bright they are, finds nothing."""

    pixels = 1

    def process(self, batch, states):
        said = []
        for item in batch:
            with self.context.pixels(item) as pixels:
                mean = sum(bytes(pixels[:1000])) / 1000
            said.append(Detections("detected", "whole", "every_frame", (), (f"null@{mean:.2f}",)))
        return said, states


class Slow(Null):
    """Takes a hundredth of a second a frame, as a network would."""

    def process(self, batch, states):
        time.sleep(0.01 * len(batch))
        return super().process(batch, states)


class Waits(Slow):
    """Waits at a frame, which a file of this folder names, until the file is gone."""

    batch = 1

    def process(self, batch, states):
        file = pathlib.Path(__file__).with_name("waits")
        while file.exists() and batch[0].record.number >= int(file.read_text()):
            time.sleep(0.01)
        return super().process(batch, states)


class Hangs(Null):
    """Never comes back from frame 30."""

    def process(self, batch, states):
        while any(item.record.number == 30 for item in batch):
            time.sleep(1)
        return super().process(batch, states)
'''

FUSED = 'all = ["decode", "window", "detect", "escalate", "cache"]'
APART = "\n".join(
    f'{name}_alone = ["{name}"]' for name in ("decode", "window", "detect", "escalate", "cache")
)
USUAL = 'ingest = ["decode", "window"]\ninfer = ["detect"]\npublish = ["escalate", "cache"]'
MIXED = 'ingest = ["decode"]\nodd = ["window", "escalate"]\neven = ["detect", "cache"]'


def start(
    folder: Path, source: Path, placement: str, detect: str = "Null", hung_s: int = 30
) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "stages_of_mine.py").write_text(STAGES, encoding="utf-8")
    config = folder / "pipeline.toml"
    config.write_text(
        CONFIG.format(placement=placement, detect=detect, hung_s=hung_s), encoding="utf-8"
    )
    return Run(folder / "data", f"clip={source}", "-c", str(config), cwd=folder)


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    return write_sizes(tmp_path / "sizes.mkv", SIZES, EACH, codec="mjpeg")


def killed_after(folder: Path, source: Path, at: Position) -> Run:
    """A run that was killed when it had the result at `at`, and few later ones."""
    folder.mkdir()
    waits = folder / "waits"
    waits.write_text(str(EACH * (at.epoch - 1) + at.seq + 2), encoding="utf-8")
    run = start(folder, source, USUAL, detect="Waits", hung_s=3600)
    wait_until("some results", lambda: run.positions("clip", ["cache"])["cache"] >= at)
    if at.epoch == len(SIZES):
        end = Position(at.epoch, EACH - 1)
        wait_until("all is decoded", lambda: run.positions("clip", ["window"])["window"] >= end)
    run.kill()
    waits.unlink()
    return run


def bare_loop(source: Path) -> list[tuple[int, int]]:
    with av.open(str(source)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def check_epochs(folder: Path, source: Path) -> None:
    """Each change of size begins an epoch; nothing is lost, doubled or out of order."""
    found = published_in(folder, ["clip"])["clip"]
    expected: list[tuple[tuple[int, int], Position]] = []
    for size in bare_loop(source):
        epoch, seq = expected[-1][1] if expected else (0, -1)
        fresh = not expected or expected[-1][0] != size
        expected.append((size, Position(epoch + 1, 0) if fresh else Position(epoch, seq + 1)))
    got = [((r.width, r.height), p) for r, p in zip(found.results, found.positions, strict=True)]
    assert [size for size, _ in got] == [size for size, _ in expected]
    epochs = sorted({at.epoch for at in found.positions})
    order = {epoch: n + 1 for n, epoch in enumerate(epochs)}  # a kill may leave an epoch unused
    assert [Position(order[at.epoch], at.seq) for _, at in got] == [at for _, at in expected]
    assert found.ended
    assert all(result.outcome == "detected" for result in found.results)


@pytest.mark.parametrize(
    "placement", [FUSED, APART, *(pytest.param(p, marks=pytest.mark.long) for p in (USUAL, MIXED))]
)
def test_every_placement_gives_the_same(tmp_path: Path, sizes: Path, placement: str) -> None:
    run = start(tmp_path / "run", sizes, placement)
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    check_epochs(run.folder, sizes)


@pytest.mark.parametrize(
    "placement",
    [USUAL, *(pytest.param(other, marks=pytest.mark.long) for other in (FUSED, MIXED))],
)
def test_kills_around_changes_of_size(tmp_path: Path, sizes: Path, placement: str) -> None:
    run = start(tmp_path / "run", sizes, placement, detect="Slow")
    workers = [line.split(" =")[0] for line in placement.splitlines()]
    seen = Position(0, 0)
    for n in range(6):

        def moved(seen: Position = seen) -> Position | bool:
            at = run.positions("clip", ["cache"])["cache"]
            return run.process.poll() is not None or (at if at > seen else False)

        at = wait_until("results move on", moved)
        if at is True:
            break
        seen = at
        pid = wait_until("a worker", lambda n=n: run.worker(workers[n % len(workers)]))
        os.kill(pid, signal.SIGKILL)
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    check_epochs(run.folder, sizes)


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(Position(1, 20), marks=pytest.mark.long),
        pytest.param(Position(2, 8), marks=pytest.mark.long),
        Position(3, 20),
    ],
    ids=str,
)
def test_a_resumed_run_keeps_its_epochs(tmp_path: Path, sizes: Path, at: Position) -> None:
    """Shared memory went with the supervisor: pixels that are still needed are decoded again,
    also when all was decoded and committed (the last case).
    """
    run = killed_after(tmp_path / "run", sizes, at)
    config = str(tmp_path / "run" / "pipeline.toml")
    resumed = Run(run.folder, "--resume", "-c", config, cwd=tmp_path / "run")
    assert resumed.wait() == 0, resumed.log.read_text(encoding="utf-8")
    check_epochs(run.folder, sizes)


@pytest.mark.long
def test_ctrl_c_during_a_resume_loses_nothing(tmp_path: Path, sizes: Path) -> None:
    """Pixels of what was committed are decoded again before the resumed run may end."""
    run = killed_after(tmp_path / "run", sizes, Position(2, 8))
    config = str(tmp_path / "run" / "pipeline.toml")
    for n in range(2):
        run = Run(run.folder, "--resume", "-c", config, cwd=tmp_path / "run")
        wait_until(f"ingest {n}", lambda run=run: run.worker("ingest"))
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    run = Run(run.folder, "--resume", "-c", config, cwd=tmp_path / "run")
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    check_epochs(run.folder, sizes)


@pytest.mark.long
def test_a_hung_worker_is_replaced_and_its_record_set_aside(tmp_path: Path) -> None:
    source = write_scene(tmp_path / "scene.mkv", steady(80))
    run = start(tmp_path / "run", source, USUAL, detect="Hangs", hung_s=2)
    assert run.wait(DEADLINE_S) == 0, run.log.read_text(encoding="utf-8")
    assert "no progress for 2 s: killed" in run.log.read_text(encoding="utf-8")
    found = published_in(run.folder, ["clip"])["clip"]
    failed = [r.seq for r in found.results if r.outcome == "failed"]
    assert failed == [30]
    assert found.results[30].reason == "worker_died"
    assert [at.seq for at in found.positions] == list(range(len(bare_loop(source))))
    shutil.rmtree(tmp_path / "run")
