"""The supervisor's handle on a worker: start its process, exchange messages with it, kill it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping

from framegate.pipeline.contracts.errors import NoReply, RequestRefused
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import WorkerSpec
from framegate.pipeline.engine.child_line import AnswerShared, ChildLine, give_spec, start_child
from framegate.pipeline.engine.control_messages import (
    AnyRequest,
    GetTimes,
    Ping,
    Pong,
    R,
    Ready,
    RecordInHand,
    Times,
    ToSupervisor,
    ToWorker,
)
from framegate.pipeline.run.restarts import Deaths, SourceStage
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.run_status import TimesOverLives

log = logging.getLogger(__name__)

QUICK_S = 10.0
OnMessage = Callable[["WorkerHandle", ToSupervisor], None]


class WorkerHandle:
    """A worker: its current process, and counts over all its processes. In the event loop.

    is_ready         whether the current process is ready
    was_ready        whether any of its processes was ready
    in_hand          records that the process has announced and not finished, the latest last
    vain_deaths      deaths in a row before or soon after the process was ready, or after a hang
    progress_mono    monotonic time of the last progress
    unanswered_mono  monotonic time of the oldest ping without an answer
    waiting          sources whose decoder waits for their own pace
    """

    def __init__(
        self,
        name: str,
        hosted: list[str],
        heard: OnMessage,
        answer_shared: AnswerShared,
    ) -> None:
        """Prepare a worker; `start` starts its process.

        hosted         names of its stages
        heard          called with each of its messages except RecordInHand
        answer_shared  makes or finds the shared memory that it requests
        """
        self.name = name
        self.hosted = hosted
        self.is_ready = False
        self.was_ready = False
        self.deaths = Deaths()
        self.in_hand: dict[SourceStage, Position] = {}
        self.vain_deaths = 0
        self.restarts = 0
        self.progress = -1
        self.waiting: list[str] = []
        self.progress_mono = time.monotonic()
        self.unanswered_mono: float | None = None
        self._heard = heard
        self._answer_shared = answer_shared
        self._process: asyncio.subprocess.Process | None = None
        self._line: ChildLine | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._timing: asyncio.Task[None] | None = None
        self._times = TimesOverLives()
        self._ready_mono: float | None = None  # when the process became ready
        self._is_hung = False

    @property
    def pid(self) -> int | None:
        """Return the process id, or None if no process runs."""
        process = self._process
        if process is None or process.returncode is not None:
            return None
        return process.pid

    async def start(self, spec: Callable[[], WorkerSpec]) -> None:
        """Start the process and send it the current spec, before any later message.

        Try again for ever if the system has no process, descriptor or memory left.
        """
        if self._process is not None:
            self.restarts += 1
        self.in_hand.clear()
        failures = 0
        while True:
            try:
                await self._start()
                break
            except OSError as error:
                failures += 1
                level = logging.DEBUG
                if failures in (1, 5) or failures % 20 == 0:
                    level = logging.WARNING
                log.log(level, "worker %s cannot be started: %s; trying again", self.name, error)
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))
        assert self._process is not None
        await give_spec(self._process, spec())

    async def _start(self) -> None:
        ours, self._process = await start_child("framegate.pipeline.run.worker_main", self.name)
        self._is_hung = False
        self._line = ChildLine(ours, self._hear, self._answer_shared)
        self._ready_mono = None
        self.progress_mono = time.monotonic()
        self.unanswered_mono = None
        self.waiting = []

    async def ended(self) -> int:
        """Wait for the end of the process, read its last messages, and return its exit code."""
        assert self._process is not None
        code = await self._process.wait()
        if self._line is not None:
            self._line.hear()
        self.hang_up()
        self.is_ready = False
        # Pending requests end, with a reply or without, before the next process starts.
        requests = [task for task in (self._pinging, self._timing) if task is not None]
        if requests:
            await asyncio.wait(requests)
        self._times.restart()
        ready_mono = self._ready_mono
        is_early = ready_mono is None or time.monotonic() - ready_mono < QUICK_S
        if is_early or self._is_hung:
            self.vain_deaths += 1
        else:
            self.vain_deaths = 0
        return code

    def _hear(self, message: ToSupervisor) -> None:
        if isinstance(message, RecordInHand):
            self._note_in_hand(message)
            return
        if isinstance(message, Ready):
            self.is_ready = True
            self.was_ready = True
            self._ready_mono = time.monotonic()
        self._heard(self, message)

    async def gone(self) -> None:
        """Wait until no process runs."""
        if self._process is not None:
            await self._process.wait()

    def hang_up(self) -> None:
        """Close the connection to the process; later messages are lost."""
        if self._line is not None:
            self._line.close()

    def _note_in_hand(self, message: RecordInHand) -> None:
        place = (message.source, message.stage)
        self.in_hand.pop(place, None)
        if message.position is not None:
            self.in_hand[place] = message.position

    def tell(self, message: ToWorker) -> None:
        """Send a message, in order, without blocking. It is lost if no process runs."""
        if self._line is not None:
            self._line.tell(message)

    async def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Send a request and return the reply. NoReply without a process; see ChildLine.ask."""
        if self._line is None:
            raise NoReply(f"worker {self.name} has not begun", gone=True)
        return await self._line.ask(request, kind, patience_s)

    def has_work(self, pending: Mapping[str, set[str]]) -> bool:
        """Return whether one of its stages has work.

        Decode has none while it waits for the source's own pace.

        pending: stages with work, by source
        """
        for source, stages in pending.items():
            busy = stages.intersection(self.hosted)
            if source in self.waiting:
                busy.discard("decode")
            if busy:
                return True
        return False

    def ping(self) -> None:
        """Request a sign of progress, unless the last request has no reply."""
        if self._pinging is None or self._pinging.done():
            self.unanswered_mono = self.unanswered_mono or time.monotonic()
            self._pinging = asyncio.create_task(self._ping())

    async def _ping(self) -> None:
        with contextlib.suppress(NoReply, RequestRefused):
            pong = await self.ask(Ping(), Pong)
            self.unanswered_mono = None
            self.waiting = pong.waiting
            if pong.done != self.progress:
                self.progress = pong.done
                self.progress_mono = time.monotonic()

    async def times(self, patience_s: float) -> Times:
        """Return the waiting and working times of its stages over all its processes.

        Without a reply in time, these are the times of its last reply.
        """
        if self.pid is not None:
            if self._timing is None or self._timing.done():
                self._timing = asyncio.create_task(self._ask_times())
            await asyncio.wait([self._timing], timeout=patience_s)
        return self._times.total()

    async def _ask_times(self) -> None:
        with contextlib.suppress(NoReply, RequestRefused):
            self._times.update(await self.ask(GetTimes(), Times))

    def kill(self, hung: bool = False) -> None:
        """Kill the process. hung: whether the reason is that it made no progress"""
        self._is_hung = hung
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, signal.SIGKILL)
