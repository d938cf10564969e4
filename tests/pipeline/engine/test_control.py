"""Supervisor and worker understand each other whatever there is to say, and whoever is slow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import FrameStoreFull, NoReply, RequestRefused
from framegate.pipeline.contracts.spec import SourceSpec, WorkerSpec
from framegate.pipeline.engine import control_line, control_messages
from framegate.pipeline.engine.child_line import AnswerRequest, ChildLine
from framegate.pipeline.engine.control_line import Answers, ControlLine
from framegate.pipeline.engine.control_messages import (
    AnyRequest,
    Call,
    CloseCameras,
    GetSharedMemory,
    GetStatus,
    GetTimes,
    Ping,
    Pong,
    Prepare,
    Ready,
    SetOptions,
    SetSources,
    SharedMemory,
    Stop,
    Times,
)
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.worker_handle import WorkerHandle
from framegate.pipeline.telemetry.run_status import RunStatus
from tests.support.runs import DEADLINE_S

URL = "rtsp://viewer:PASSWORD@camera.example.com:554/Streaming/Channels/101?transportmode=unicast"


def many(count: int) -> list[SourceSpec]:
    return [
        SourceSpec(URL, True, name=f"s{n}", past=0, credit=4, slots=5, pace="fast")
        for n in range(count)
    ]


def no_memory(wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:  # noqa: ARG001
    return SharedMemory("there is none"), None


def answers(prepare: Callable[[str, list[str], bool], None]) -> Answers:
    return Answers(lambda: 1, lambda: ["s"], dict, prepare)


@asynccontextmanager
async def a_pair(
    answer: AnswerRequest | None = None,
) -> AsyncIterator[tuple[ChildLine, ControlLine]]:
    """Both ends of one line, open while the block lasts."""
    ours, theirs = control_messages.make_pair()
    line, worker = ChildLine(ours, lambda _: None, no_memory, answer), ControlLine(theirs)
    yield line, worker
    line.close()
    await until(lambda: isinstance(worker.ordered, Stop))


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_worker_is_told_of_thousands_of_sources() -> None:
    async def tell() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        worker = ControlLine(theirs)
        told = many(3000)
        line.tell(SetSources(told))
        await until(lambda: worker.sources is not None)
        assert worker.sources == told
        heard: list[list[str]] = []
        worker.let_answer(answers(lambda _, sources, __: heard.append(sources)))
        await line.ask(Prepare("m", [source.name for source in told]), type(None))
        assert heard == [[source.name for source in told]]
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_what_a_busy_worker_does_not_take_yet_reaches_it_later_the_last_word_only() -> None:
    async def tell() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        asked = [asyncio.create_task(line.ask(GetTimes(), Times)) for _ in range(2000)]
        await asyncio.sleep(0)  # more than the sockets hold
        for n in range(100):
            line.tell(SetSources(many(n)))
        worker = ControlLine(theirs)
        assert await asyncio.gather(*asked) == [{}] * 2000
        await until(lambda: worker.sources is not None and len(worker.sources) == 99)
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_options_of_one_stage_do_not_replace_those_of_another_that_wait() -> None:
    async def tell() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        asked = [asyncio.create_task(line.ask(GetTimes(), Times)) for _ in range(2000)]
        await asyncio.sleep(0)  # more than the sockets hold
        for n in range(3):
            for stage in ("detect", "events"):
                line.tell(SetOptions(stage, {"n": n}))
        worker = ControlLine(theirs)
        assert await asyncio.gather(*asked) == [{}] * 2000
        await until(lambda: worker.options == {"detect": {"n": 2}, "events": {"n": 2}})
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_all_questions_of_a_worker_that_does_not_listen_are_answered_in_the_end() -> None:
    async def answer() -> None:
        ours, theirs = control_messages.make_pair()
        file = os.memfd_create("shared")
        line = ChildLine(ours, lambda _: None, lambda _: (SharedMemory(), os.dup(file)))
        theirs.setblocking(False)
        asked, answered = 0, 0
        while answered < 1000:
            await asyncio.sleep(0)
            try:
                if asked < 1000:
                    control_messages.send(theirs, Call(asked, GetSharedMemory("s", "n", 1)))
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


def test_a_request_fails_when_the_worker_ends_is_silent_or_says_no() -> None:
    async def ask() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        with pytest.raises(NoReply, match="no reply in") as silent:
            await line.ask(Ping(), Pong, 0.01)  # nobody listens yet
        assert not silent.value.gone
        waiting = asyncio.create_task(line.ask(GetTimes(), Times))
        await asyncio.sleep(0)
        theirs.close()
        for asked in (waiting, line.ask(Ping(), Pong)):
            with pytest.raises(NoReply) as gone:
                await asked
            assert gone.value.gone

    async def be_refused() -> None:
        async with a_pair() as (line, worker):
            worker.let_answer(answers(refuse))
            with pytest.raises(RequestRefused, match="bad is no model"):
                await line.ask(Prepare("bad", []), type(None))
            with pytest.raises(RequestRefused, match="does not answer GetStatus"):
                await line.ask(GetStatus(), RunStatus)
            assert await line.ask(Ping(), Pong) == Pong(1, ["s"])

    def refuse(model: str, *_: Any) -> None:
        raise ValueError(f"{model} is no model")

    asyncio.run(ask())
    asyncio.run(be_refused())


def test_what_nobody_waits_for_any_more_does_not_wait_to_be_sent() -> None:
    async def ask() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        with contextlib.suppress(BlockingIOError):
            while True:  # the sockets are full
                control_messages.send(ours, Stop())
        for _ in range(10):
            with pytest.raises(NoReply):
                await line.ask(Ping(), Pong, 0.001)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                assert b"Ping" not in theirs.recv(1 << 15)
        last = asyncio.create_task(line.ask(GetTimes(), Times))
        await until(lambda: b"GetTimes" in _next(theirs))
        line.close()
        theirs.close()
        with pytest.raises(NoReply):
            await last

    asyncio.run(ask())


def _next(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 15)
    except BlockingIOError:
        return b""


def test_a_child_asks_its_supervisor_and_hears_when_that_is_gone() -> None:
    status = RunStatus("r", False, [], [], [], {})

    async def answer(request: AnyRequest) -> RunStatus:
        if request != GetStatus():
            raise RequestRefused("only that")
        return status

    async def ask() -> None:
        async with a_pair(answer) as (_, child):
            assert await asyncio.to_thread(child.ask, GetStatus(), RunStatus, 60) == status
            with pytest.raises(RequestRefused, match="only that"):
                await asyncio.to_thread(child.ask, Ping(), Pong, 120)
            shared = asyncio.to_thread(child.shared_memory, "s", "frames", 4096)
            with pytest.raises(FrameStoreFull, match="there is none"):
                await shared
        with pytest.raises(NoReply, match="ended"):
            child.ask(GetStatus(), RunStatus)

    async def ask_one_that_ends() -> None:
        began = asyncio.Event()

        async def never(_: AnyRequest) -> None:
            began.set()
            await asyncio.Event().wait()

        async with a_pair(never) as (line, child):
            waiting = asyncio.create_task(asyncio.to_thread(child.ask, GetStatus(), RunStatus))
            await began.wait()
            line.close()
            with pytest.raises(NoReply, match="ended"):
                await waiting

    asyncio.run(ask())
    asyncio.run(ask_one_that_ends())


def test_a_request_that_nobody_answers_or_whose_answer_fails_is_refused() -> None:
    async def fails(_: AnyRequest) -> None:
        raise ValueError("odd")

    async def ask() -> None:
        async with a_pair() as (line, child):
            with pytest.raises(RequestRefused, match="a worker does not answer GetStatus"):
                await line.ask(GetStatus(), RunStatus)
            with pytest.raises(RequestRefused, match="supervisor does not answer GetStatus"):
                await asyncio.to_thread(child.ask, GetStatus(), RunStatus)
        async with a_pair(fails) as (_, child):
            with pytest.raises(RequestRefused, match="ValueError: odd"):
                await asyncio.to_thread(child.ask, GetStatus(), RunStatus)

    asyncio.run(ask())


def test_a_reply_that_comes_after_its_caller_gave_up_harms_no_later_request() -> None:
    status = RunStatus("r", False, [], [], [], {})

    async def ask() -> None:
        may_answer = asyncio.Event()

        async def late(_: AnyRequest) -> RunStatus:
            await may_answer.wait()
            return status

        async with a_pair(late) as (_, child):
            with pytest.raises(NoReply, match=r"no reply from the supervisor in 0\.01 s"):
                await asyncio.to_thread(child.ask, GetStatus(), RunStatus, 0.01)
            may_answer.set()
            assert await asyncio.to_thread(child.ask, GetStatus(), RunStatus) == status

    asyncio.run(ask())


def test_shared_memory_that_never_gets_a_descriptor_is_refused_and_ends_with_the_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:  # noqa: ARG001
        return SharedMemory("too many open files", again=True), None

    async def ask() -> None:
        ours, theirs = control_messages.make_pair()
        line, worker = ChildLine(ours, lambda _: None, none), ControlLine(theirs)
        monkeypatch.setattr(control_line, "_TRIES", 2)
        with pytest.raises(FrameStoreFull, match="too many open files"):
            await asyncio.to_thread(worker.shared_memory, "s", "frames", 4096)
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))
        with pytest.raises(SystemExit, match="no shared memory from the supervisor"):
            worker.shared_memory("s", "frames", 4096)

    asyncio.run(ask())


def test_a_message_that_the_system_has_no_file_for_is_sent_once_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, failures = os.memfd_create, [errno.EMFILE, errno.ENOMEM]

    def memfd_create(*words: Any) -> int:
        if failures:
            raise OSError(failures.pop(), "injected")
        return made(*words)

    async def tell() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        worker = ControlLine(theirs)
        monkeypatch.setattr(os, "memfd_create", memfd_create)
        line.tell(SetSources(many(1000)))
        assert await line.ask(GetTimes(), Times) == {}  # after it, in order
        assert worker.sources is not None
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
        ours, theirs = control_messages.make_pair()
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
        worker = WorkerHandle("infer", [], lambda *_: None, no_memory)
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


def test_a_message_that_cannot_be_read_ends_the_worker_that_sent_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The supervisor restarts it; its other workers are not concerned."""

    async def send(data: bytes) -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        waiting = asyncio.create_task(line.ask(Ping(), Pong))
        await asyncio.sleep(0)
        theirs.send(data)
        with pytest.raises(NoReply, match="it has ended"):
            await waiting
        theirs.close()

    for data in (b"no JSON", b'{"type":"Unknown"}', b"[" * 10_000):
        caplog.clear()
        asyncio.run(send(data))
        assert "a worker sent a message that cannot be read" in caplog.text


def test_a_reply_of_another_type_is_no_reply() -> None:
    async def ask() -> None:
        async with a_pair() as (line, _):
            with pytest.raises(NoReply, match="its reply cannot be read"):
                await line.ask(Ping(), RunStatus)

    asyncio.run(ask())


def test_a_descriptor_that_a_child_sends_is_closed() -> None:
    """Only the supervisor passes descriptors on; it must not run out of them."""

    async def send() -> None:
        heard: list[Any] = []
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, heard.append, no_memory)
        file = os.memfd_create("sent")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            control_messages.send(theirs, Ready(), file)
        await until(lambda: len(heard) == 20)
        assert len(os.listdir("/proc/self/fd")) == before
        line.close()
        theirs.close()
        os.close(file)

    asyncio.run(send())


def test_a_notice_for_which_the_system_has_no_room_waits_and_another_error_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = socket.send_fds, [errno.ENOBUFS, errno.ENOMEM]

    def send_fds(*words: Any) -> int:
        if failures:
            raise OSError(failures.pop(), "injected")
        return real(*words)

    async def tell() -> None:
        heard: list[Any] = []
        ours, theirs = control_messages.make_pair()
        line, worker = ChildLine(ours, heard.append, no_memory), ControlLine(theirs)
        monkeypatch.setattr(socket, "send_fds", send_fds)
        await asyncio.to_thread(worker.tell, Ready())
        await until(lambda: heard == [Ready()])
        failures.append(errno.EBADF)
        with pytest.raises(OSError, match="injected"):
            await asyncio.to_thread(worker.tell, Ready())
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(tell())


def test_cameras_are_closed_once_a_worker_can_and_a_reply_before_that_names_no_times() -> None:
    async def close() -> None:
        async with a_pair() as (line, worker):
            line.tell(CloseCameras(["yard"]))  # it has no cameras so far
            assert await line.ask(GetTimes(), Times) == {}
            assert await line.ask(Ping(), Pong) == Pong(0)
            closed: list[list[str]] = []
            worker.let_answer(
                Answers(lambda: 1, lambda: ["s"], dict, lambda *_: None, closed.append)
            )
            line.tell(CloseCameras(["door"]))
            await until(lambda: closed == [["door"]])

    asyncio.run(close())


def test_a_worker_that_has_no_descriptor_left_for_a_message_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker that replaces it gets the settings again; the lost ones would leave this one with
    other sources than the supervisor believes.
    """
    real = socket.recv_fds

    def without_descriptors(*words: Any) -> Any:
        data, _, flags, address = real(*words)
        return data, [], flags, address

    async def tell() -> None:
        ours, theirs = control_messages.make_pair()
        line = ChildLine(ours, lambda _: None, no_memory)
        monkeypatch.setattr(socket, "recv_fds", without_descriptors)
        worker = ControlLine(theirs)
        line.tell(SetSources(many(1000)))  # so long that it is sent as a file
        await until(lambda: isinstance(worker.ordered, Stop))
        assert worker.sources is None
        with pytest.raises(NoReply):
            worker.ask(GetStatus(), RunStatus)
        line.close()

    asyncio.run(tell())
    assert "this worker ends: it has too many open files to receive messages" in caplog.text


def test_a_reply_that_the_supervisor_has_no_descriptor_for_fails_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker stays: its later replies are read."""
    long = {"stage": {"times": ["x" * control_messages.PACKET]}}

    async def ask() -> None:
        ours, theirs = control_messages.make_pair()
        line, worker = ChildLine(ours, lambda _: None, no_memory), ControlLine(theirs)
        real = socket.recv_fds

        def without_descriptors(end: socket.socket, *words: Any) -> Any:
            data, descriptors, flags, address = real(end, *words)
            if end is ours:
                for descriptor in descriptors:
                    os.close(descriptor)
                descriptors = []
            return data, descriptors, flags, address

        worker.let_answer(Answers(lambda: 1, lambda: ["s"], lambda: long, lambda *_: None))  # type: ignore[arg-type, return-value]
        with monkeypatch.context() as patch:
            patch.setattr(socket, "recv_fds", without_descriptors)
            with pytest.raises(NoReply, match="its reply is lost: too many files are open"):
                await line.ask(GetTimes(), dict)
        assert await line.ask(Ping(), Pong) == Pong(1, ["s"])
        assert await line.ask(GetTimes(), dict) == long
        line.close()
        await until(lambda: isinstance(worker.ordered, Stop))

    asyncio.run(ask())
