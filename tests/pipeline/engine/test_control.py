"""Supervisor and worker understand each other whatever there is to say, and whoever is slow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.engine import control
from framegate.pipeline.engine.control import (
    ChildLine,
    ControlLine,
    Prepare,
    Shared,
    SharedWanted,
    Sources,
    Stop,
    TimesWanted,
)
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.worker_process import WorkerProcess
from framegate.pipeline.source import Request
from framegate.pipeline.spec import SourceSpec, WorkerSpec

URL = "rtsp://viewer:PASSWORD@camera.example.com:554/Streaming/Channels/101?transportmode=unicast"


def many(count: int) -> list[SourceSpec]:
    return [SourceSpec(f"s{n}", Request(URL, True), 0, 4, 5, "fast") for n in range(count)]


def no_memory(wanted: SharedWanted) -> tuple[Shared, int | None]:
    return Shared(wanted.ask, "there is none"), None


async def until(holds: Callable[[], Any]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not in 20 s")


def test_a_worker_is_told_of_thousands_of_sources() -> None:
    async def tell() -> None:
        ours, theirs = control.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        worker = ControlLine(theirs)
        told = many(3000)
        line.tell(Sources(told))
        line.tell(Prepare(1, "m", [source.name for source in told]))
        await until(lambda: worker.sources is not None)
        assert worker.sources == told
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_what_a_busy_worker_does_not_take_yet_reaches_it_later_the_last_word_only() -> None:
    async def tell() -> None:
        ours, theirs = control.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        for n in range(2000):  # more than the sockets hold
            line.tell(Prepare(n, "m", []))
        for n in range(100):
            line.tell(Sources(many(n)))
        worker = ControlLine(theirs)
        await until(lambda: worker.sources is not None and len(worker.sources) == 99)
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_all_questions_of_a_worker_that_does_not_listen_are_answered_in_the_end() -> None:
    async def answer() -> None:
        ours, theirs = control.make_pair()
        file = os.memfd_create("shared")
        line = ChildLine(ours, lambda _: None, lambda wanted: (Shared(wanted.ask), os.dup(file)))
        theirs.setblocking(False)
        asked, answered = 0, 0
        while answered < 1000:
            await asyncio.sleep(0)
            try:
                if asked < 1000:
                    control.send(theirs, SharedWanted(asked, "s", "n", 1))
                    asked += 1
                    continue
            except BlockingIOError:
                pass  # both ways are full: only now it hears
            with contextlib.suppress(BlockingIOError):
                _, descriptors, _, _ = socket.recv_fds(theirs, 1 << 15, 1)
                os.close(descriptors[0])
                answered += 1
        line.close()
        theirs.close()
        os.close(file)

    asyncio.run(answer())


def test_a_message_that_the_system_has_no_file_for_is_sent_once_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, failures = os.memfd_create, [errno.EMFILE, errno.ENOMEM]

    def memfd_create(*words: Any) -> int:
        if failures:
            raise OSError(failures.pop(), "injected")
        return made(*words)

    async def tell() -> None:
        ours, theirs = control.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        worker = ControlLine(theirs)
        monkeypatch.setattr(os, "memfd_create", memfd_create)
        line.tell(Sources(many(1000)))
        line.tell(TimesWanted())
        await until(lambda: worker.sources is not None)
        assert failures == []
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_shared_memory_that_there_is_no_descriptor_for_now_comes_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = os.dup, [errno.EMFILE, errno.ENFILE, errno.EMFILE]

    def dup(descriptor: int) -> int:
        if failures:
            raise OSError(failures.pop(), "injected")
        return real(descriptor)

    async def ask() -> None:
        ours, theirs = control.make_pair()
        shared = SharedFiles()
        line = ChildLine(ours, lambda _: None, shared.answer)
        worker = ControlLine(theirs)
        monkeypatch.setattr(os, "dup", dup)
        descriptor = await asyncio.to_thread(worker.shared_memory, "s", "frames 4x4", 4096)
        assert os.fstat(descriptor).st_size == 4096
        assert failures == []
        os.close(descriptor)
        line.close()
        shared.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(ask())


def test_a_worker_that_cannot_be_forked_now_is_started_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, failures = asyncio.create_subprocess_exec, [errno.EAGAIN, errno.ENOMEM, errno.EMFILE]

    async def fork(*words: Any, **more: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "injected")
        return await real(*words, **more)

    async def start() -> None:
        worker = WorkerProcess("infer", [], lambda *_: None, no_memory)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", fork)
        before = len(os.listdir("/proc/self/fd"))
        spec = WorkerSpec("infer", "run", "unix:///none", str(tmp_path), 0, [], [], [])
        await worker.start(lambda: spec)
        assert failures == []
        assert worker.pid is not None
        worker.tell(Stop())
        await worker.ended()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    asyncio.run(start())
