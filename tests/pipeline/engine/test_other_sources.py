"""Workers told of other sources while they work: no other source loses or doubles a frame."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from framegate.pipeline.config.config import find_config, read_config
from framegate.pipeline.config.graph import stage_specs
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import PaceName, SourceSpec, WorkerSpec
from framegate.pipeline.engine.control_messages import SetSources, Stop, Stopped, ToSupervisor
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support import footage
from tests.support.commands import GRAPH
from tests.support.runs import DEADLINE_S, published

pytestmark = pytest.mark.whole_run

RUN = "the-run"
READERS = {"infer": ["detect"], "publish": ["escalate", "cache"]}
LONG, SHORT = 3000, 120  # LONG: two and a half minutes at its own pace


class Bench:
    """Workers started by hand: one that decodes for each source, two that read for all of them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.store = StoreAdmin(url)
        self.store.prepare()
        self.shared = SharedFiles()
        toml = folder / "pipeline.toml"
        toml.write_text(
            GRAPH.format(before_escalate="detect").replace("user_", "tests.support.user_"),
            encoding="utf-8",
        )
        self.stages = stage_specs(read_config(*find_config(toml)).stages)
        self.served: list[SourceSpec] = []
        self.readers: dict[str, WorkerHandle] = {}
        self.decoders: list[WorkerHandle] = []
        self.stopped = asyncio.Event()

    def source(self, name: str, frames: int, pace: PaceName = "fast") -> SourceSpec:
        """A source of its own footage, claimed; it goes on after what the store has of it."""
        self.store.claim(name, RUN, "the test", take_over=False)
        self.store.reset_decode(name)
        fps = 100
        if pace == "realtime":
            fps = 20  # so that it lasts longer than a test on a busy machine
        file = footage.write_scene(self.folder / f"{name}.mp4", footage.steady(frames, fps=fps))
        past = self.store.epoch(name)
        return SourceSpec(str(file), name=name, past=past, credit=32, slots=32, pace=pace)

    def at(self, source: str) -> Position:
        """Up to where a source is published."""
        return self.store.positions(source, ["cache"])["cache"]

    async def start(self, name: str, hosted: list[str], sources: list[SourceSpec]) -> WorkerHandle:
        worker = WorkerHandle(name, hosted, self._heard, self.shared.answer)
        spec = WorkerSpec(
            name=name,
            run=RUN,
            store=self.url,
            folder=str(self.folder),
            results_keep=10_000,
            stages=self.stages,
            hosted=hosted,
            sources=sources,
        )
        await worker.start(lambda: spec)
        return worker

    def _heard(self, _: WorkerHandle, notice: ToSupervisor) -> None:
        if isinstance(notice, Stopped):
            self.stopped.set()

    async def serve(self, *sources: SourceSpec) -> None:
        """Tell the readers of a new set, and start a decoder for each that comes."""
        came = [source for source in sources if source not in self.served]
        self.served = list(sources)
        for name, hosted in READERS.items():
            if name not in self.readers:
                self.readers[name] = await self.start(name, hosted, [])
            self.readers[name].tell(SetSources(self.served))
        for source in came:
            decoder = await self.start(f"ingest_{source.name}", ["decode", "window"], [source])
            self.decoders.append(decoder)

    async def replace(self, name: str) -> None:
        """Kill a reader; the next gets the set at its start."""
        killed = self.readers[name]
        os.kill(killed.pid or 0, signal.SIGKILL)
        await killed.ended()
        self.readers[name] = await self.start(name, READERS[name], self.served)

    async def until(self, source: str, position: Position) -> None:
        for _ in range(6_000):
            if self.at(source) >= position:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{source} stays at {self.at(source)}")

    async def close(self) -> None:
        for worker in (*self.readers.values(), *self.decoders):
            if worker.pid is not None:
                worker.tell(Stop())
                worker.kill()
                await worker.ended()
        self.shared.close()
        self.store.close()


def on_bench(folder: Path, test: Callable[[Bench], Coroutine[Any, Any, None]]) -> dict[str, Any]:
    """Run the test; gives positions and whether its end came, by source."""
    embedded = EmbeddedStore(folder / "store", "everysec")
    embedded.start()

    async def run() -> None:
        bench = Bench(folder, embedded.url)
        try:
            await test(bench)
        finally:
            await bench.close()

    try:
        asyncio.run(run())
        store = StoreAdmin(embedded.url)
        found = {name: published(embedded.url, name) for name in store.sources()}
        store.close()
    finally:
        embedded.stop()
    return {name: (p.positions, p.ended) for name, p in found.items()}


def whole(epoch: int, frames: int) -> list[Position]:
    return [Position(epoch, seq) for seq in range(frames)]


def test_sources_come_and_go_beside_one_that_stays(tmp_path: Path) -> None:
    async def come_and_go(bench: Bench) -> None:
        stays = bench.source("stays", LONG, "realtime")
        await bench.serve(stays)
        await bench.until("stays", Position(1, 50))
        for n, killed in enumerate(("infer", "publish", None)):
            comes = bench.source(f"comes{n}", SHORT)
            await bench.serve(stays, comes)
            if killed is not None:
                await bench.replace(killed)
            await bench.until(comes.name, Position(1, SHORT))
            await bench.serve(stays)
            at = bench.at("stays")
            await bench.until("stays", Position(1, at.seq + 20))

    found = on_bench(tmp_path, come_and_go)
    stayed, ended = found.pop("stays")
    assert stayed == whole(1, len(stayed))
    assert not ended
    assert found == {f"comes{n}": (whole(1, SHORT), True) for n in range(3)}


def test_a_source_that_comes_back_goes_on_in_a_new_epoch(tmp_path: Path) -> None:
    """With nothing else to do in between: the readers wait for a word."""

    async def come_back(bench: Bench) -> None:
        await bench.serve(bench.source("door", SHORT))
        await bench.until("door", Position(1, SHORT))
        await bench.serve()
        await bench.serve(bench.source("door", SHORT + 20))
        await bench.until("door", Position(2, SHORT + 20))

    found = on_bench(tmp_path, come_back)
    assert found == {"door": (whole(1, SHORT) + whole(2, SHORT + 20), True)}


def test_a_file_that_is_handed_over_and_back_while_its_worker_is_busy_is_decoded_again(
    tmp_path: Path,
) -> None:
    """The worker hears only of the last change: the file is there again, with its old `past`."""

    async def hand_over_and_back(bench: Bench) -> None:
        door = bench.source("door", LONG, "realtime")
        await bench.serve(door)
        await bench.until("door", Position(1, 20))
        [decoder] = bench.decoders
        decoder.tell(SetSources([replace(door, ending=True, hands_over=True)]))
        await asyncio.wait_for(bench.stopped.wait(), DEADLINE_S)
        at = bench.at("door")
        decoder.tell(SetSources([replace(door, continues=True)]))
        await bench.until("door", Position(1, at.seq + 20))

    positions, ended = on_bench(tmp_path, hand_over_and_back)["door"]
    assert positions == whole(1, len(positions))
    assert not ended


def test_a_worker_whose_sources_were_all_taken_ends_fenced(tmp_path: Path) -> None:
    async def take_over(bench: Bench) -> None:
        await bench.serve(bench.source("door", SHORT))
        await bench.until("door", Position(1, SHORT))
        bench.store.claim("door", "another", "another run", take_over=True)
        for reader in bench.readers.values():
            reader.tell(SetSources(bench.served))
            assert await reader.ended() == Exit.FENCED

    on_bench(tmp_path, take_over)
