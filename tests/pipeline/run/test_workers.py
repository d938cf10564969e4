"""Workers that get ready for models: questions side by side, and workers that die or hang of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.contracts.spec import StageSpec, WorkerSpec
from framegate.pipeline.engine.control_messages import Prepare, Ready, SharedMemory, ToSupervisor
from framegate.pipeline.run import worker_handle
from framegate.pipeline.run.keep_workers import Workers, prepare
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.restarts import Deaths
from framegate.pipeline.run.run_ending import RunEnding
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.store.retention import RetentionLimits
from tests.support.runs import DEADLINE_S, stop_process

STAGE = "tests.support.user_stages:PreparesSlowly"


class OneWorker:
    """One worker by hand that hosts a stage which gets ready for a model once a file is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_ready = asyncio.Event()
        self.worker = WorkerHandle("w", ["slow"], self._heard, lambda _: (SharedMemory(), None))

    async def start(self) -> None:
        stages = [
            StageSpec("decode", "", None, True, True, False),
            StageSpec("slow", STAGE, "decode", True, True, True),
        ]
        none = "unix:///none"
        spec = WorkerSpec("w", "run", none, str(self.folder), 0, stages, ["slow"], [])
        self.is_ready.clear()
        await self.worker.start(lambda: spec)
        await asyncio.wait_for(self.is_ready.wait(), DEADLINE_S)

    def _heard(self, _: WorkerHandle, message: ToSupervisor) -> None:
        if isinstance(message, Ready):
            self.is_ready.set()

    def ask(self, model: str) -> asyncio.Task[None]:
        return asyncio.create_task(prepare([self.worker], Prepare(model, [])))

    async def end(self) -> int:
        self.worker.kill()
        return await self.worker.ended()


def with_a_worker(folder: Path, test: Callable[[OneWorker], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        one = OneWorker(folder)
        await one.start()
        try:
            await asyncio.wait_for(test(one), DEADLINE_S)
        finally:
            if one.worker.pid is not None:
                await one.end()

    asyncio.run(run())


def test_a_worker_that_dies_before_it_is_ready_died_in_vain_however_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_handle, "QUICK_S", 0.0)  # none dies soon after its start
    spec = plan_of(tmp_path, 30.0, "tests.support.user_stages:Crashes").spec(
        "w", ["slow"], [], Deaths()
    )

    async def die() -> int:
        worker = WorkerHandle("w", ["slow"], lambda *_: None, lambda _: (SharedMemory(), None))
        for _ in range(2):
            await worker.start(lambda: spec)
            await worker.ended()
        return worker.vain_deaths

    assert asyncio.run(die()) == 2


def test_two_models_are_got_ready_side_by_side_and_both_are_answered(tmp_path: Path) -> None:
    async def ask(one: OneWorker) -> None:
        first, second = one.ask("first"), one.ask("second")
        await asyncio.sleep(0)
        (tmp_path / "first").touch()
        (tmp_path / "second").touch()
        await asyncio.gather(first, second)
        with pytest.raises(ModelNotTaken, match="bad is no model"):
            await one.ask("bad")

    with_a_worker(tmp_path, ask)


def test_a_worker_that_dies_of_a_model_answers_all_that_was_asked(tmp_path: Path) -> None:
    async def ask(one: OneWorker) -> None:
        asked = [one.ask("first"), one.ask("second")]
        await asyncio.sleep(0)
        await one.end()
        for each in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(each, ModelNotTaken)
            assert "died while it prepared the model" in str(each)

    with_a_worker(tmp_path, ask)


def test_a_worker_killed_as_hung_died_in_vain_however_long_it_lived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_handle, "QUICK_S", 0.0)  # none dies soon after its start

    async def hang(one: OneWorker) -> None:
        for n in range(1, 4):
            one.worker.kill(hung=True)
            await one.worker.ended()
            assert one.worker.vain_deaths == n
            await one.start()
        await one.end()
        assert one.worker.vain_deaths == 0

    with_a_worker(tmp_path, hang)


def plan_of(folder: Path, hung_s: float, use: str = STAGE) -> Plan:
    stages = (
        StageSpec("decode", "", None, True, True, False),
        StageSpec("slow", use, "decode", True, True, True),
    )
    return Plan(
        run="run",
        store="unix:///none",
        identity="",
        folder=str(folder),
        results_keep=0,
        results=RetentionLimits(),
        certificates_age_s=0.0,
        log_level="INFO",
        log_format="text",
        hung_s=hung_s,
        stages=stages,
        workers={"w": ["slow"]},
        episodes=(0, 0.0),
    )


def test_a_break_longer_than_a_worker_may_hang_is_not_the_workers_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the store is away, no worker is asked. One that hangs after that is killed."""
    hung_s = 0.5
    pending = {"a": {"slow"}}

    async def look(one: OneWorker) -> None:
        sources: Any = None  # neither is used by `kill_hung`
        probe: Any = None
        workers = Workers(plan_of(tmp_path, hung_s), sources, probe, RunEnding(), lambda: None)
        workers._planned = [one.worker]
        workers.kill_hung({})  # without work: its start took a while
        await asyncio.sleep(2 * hung_s)  # the break
        workers.kill_hung(pending)
        assert "no progress" not in caplog.text
        assert one.worker.pid is not None
        stop_process(one.worker.pid)
        while one.worker.pid is not None:
            workers.kill_hung(pending)
            await asyncio.sleep(hung_s / 50)
        assert "no progress" in caplog.text

    with_a_worker(tmp_path, look)
