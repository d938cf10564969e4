"""Law 3: a worker that was stopped, replaced and continued is refused, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.graph import stage_specs
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine.control_messages import Stop
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.footage import bikes
from tests.support.runs import published, said, stop_process

pytestmark = pytest.mark.whole_run

RUN = "the-run"
FRAMES = 250


class Bench:
    """Workers started by hand on a store of the test's own: a supervisor without its rules."""

    def __init__(self, folder: Path, store: EmbeddedStore) -> None:
        self.folder, self.url = folder, store.url
        self.store = StoreAdmin(store.url)
        self.store.prepare()
        self.store.claim("bikes", RUN, "the test", take_over=False)
        source = SourceSpec(str(bikes()), name="bikes", past=0, credit=32, slots=32, pace="fast")
        self.sources = {"bikes": source}
        self.frames = SharedFiles()
        config = read_config("defaults", "")
        self.stages = stage_specs(config.stages)
        self.workers: list[WorkerHandle] = []

    async def start(self, name: str, *hosted: str) -> WorkerHandle:
        worker = WorkerHandle(name, list(hosted), lambda *_: None, self.frames.answer)
        self.workers.append(worker)
        spec = WorkerSpec(
            name=name,
            run=RUN,
            store=self.url,
            folder=str(self.folder),
            results_keep=10_000,
            stages=self.stages,
            hosted=list(hosted),
            sources=list(self.sources.values()),
        )
        await worker.start(lambda: spec)
        return worker

    def at(self, stage: str) -> Position:
        return self.store.positions("bikes", [stage])[stage]

    async def until(self, stage: str, position: Position) -> None:
        for _ in range(12_000):
            if self.at(stage) >= position:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{stage} stays at {self.at(stage)}")

    async def stop_with_work(self, worker: WorkerHandle, stage: str) -> None:
        """Stop it when there is something that it has not committed."""
        head = worker.hosted[0]
        before = next(s.input for s in self.stages if s.name == head)
        for _ in range(1_000):
            assert worker.pid is not None
            stop_process(worker.pid)
            if stage == "decode" or self.at(stage) < self.at(before or ""):
                return
            os.kill(worker.pid, signal.SIGCONT)
            await asyncio.sleep(0.001)
        raise AssertionError(f"{stage} never had work")

    async def close(self) -> None:
        for worker in self.workers:
            if worker.pid is not None:
                worker.tell(Stop())
                worker.kill()
                await worker.ended()
        self.frames.close()
        self.store.close()


@pytest.mark.parametrize(
    ("hosted", "at"),
    [
        (("decode",), "decode"),
        pytest.param(("detect",), "detect", marks=pytest.mark.long),
        pytest.param(("escalate", "windows", "cache"), "cache", marks=pytest.mark.long),
    ],
)
def test_a_continued_zombie_is_refused(tmp_path: Path, hosted: tuple[str, ...], at: str) -> None:
    embedded = EmbeddedStore(tmp_path / "store", "everysec")
    embedded.start()
    try:
        asyncio.run(replace_a_stopped_worker(Bench(tmp_path, embedded), hosted, at))
        found = published(embedded.url, "bikes")
    finally:
        embedded.stop()
    assert found.positions == [Position(1, seq) for seq in range(FRAMES)]
    assert len(said(found.results)) == FRAMES


async def replace_a_stopped_worker(bench: Bench, hosted: tuple[str, ...], at: str) -> None:
    groups = {
        "ingest": ("decode",),
        "infer": ("detect",),
        "publish": ("escalate", "windows", "cache"),
    }
    try:
        for name, stages in groups.items():
            if stages != hosted:
                await bench.start(name, *stages)
        zombie = await bench.start("zombie", *hosted)
        await bench.until(at, Position(1, 20))
        await bench.stop_with_work(zombie, at)
        stood = bench.at(at)
        await bench.start("replacement", *hosted)
        await bench.until(at, Position(1, min(stood.seq + 60, FRAMES)))
        os.kill(zombie.pid, signal.SIGCONT)
        assert await zombie.ended() == Exit.FENCED
        await bench.until("cache", Position(1, FRAMES))
    finally:
        await bench.close()
