"""The supervisor's side of one worker process: start, hear, tell, ask, kill."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping

import msgspec

from framegate.pipeline.contracts.errors import NoReply, RequestRefused
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import WorkerSpec
from framegate.pipeline.engine import control
from framegate.pipeline.engine.child_line import AnswerShared, ChildLine
from framegate.pipeline.engine.control import (
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
from framegate.pipeline.run.deaths import Deaths, SourceStage
from framegate.pipeline.system.process import start_module
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.counters import TimesOverLives

log = logging.getLogger(__name__)

QUICK_S = 10.0
OnMessage = Callable[["WorkerProcess", ToSupervisor], None]


class WorkerProcess:
    """A worker and, after its death, those that take its place. Lives in the event loop."""

    def __init__(
        self,
        name: str,
        hosted: list[str],
        heard: OnMessage,
        answer_shared: AnswerShared,
    ) -> None:
        """hosted         names of its stages
        heard          is told of its notices, but for RecordInHand
        answer_shared  makes or finds the shared memory that it asks for
        """
        self.name, self.hosted = name, hosted
        self.is_ready = self.was_ready = False  # this process; any so far
        self.deaths = Deaths()
        self.in_hand: dict[SourceStage, Position] = {}
        self.vain_deaths = self.restarts = 0  # vain: in a row, soon after the start or hung
        self.progress = -1
        self.waiting: list[str] = []
        self.progress_mono = time.monotonic()
        self.unanswered_mono: float | None = None  # since when a ping waits for its answer
        self._heard, self._answer_shared = heard, answer_shared
        self._process: asyncio.subprocess.Process | None = None
        self._line: ChildLine | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._timing: asyncio.Task[None] | None = None
        self._times = TimesOverLives()
        self._started_mono = 0.0
        self._is_hung = False

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, spec: Callable[[], WorkerSpec]) -> None:
        """Start the process, and give it the spec of that moment: what it is told from then on
        comes after that. Where the system has no process, descriptor or memory for it now, this
        is tried again and again.
        """
        self.restarts += self._process is not None
        self.in_hand.clear()
        failures = 0
        while True:
            try:
                await self._start()
                break
            except OSError as error:
                failures += 1
                level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else 10
                log.log(level, "worker %s cannot be started: %s; trying again", self.name, error)
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(msgspec.json.encode(spec()))
            await self._process.stdin.drain()
            self._process.stdin.close()

    async def _start(self) -> None:
        ours, theirs = control.make_pair()
        try:
            words = (self.name, str(theirs.fileno()), str(os.getpid()))
            process = await start_module(
                "framegate.pipeline.run.worker", *words, descriptors=[theirs.fileno()]
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._process, self._is_hung = process, False
        self._line = ChildLine(ours, self._hear, self._answer_shared)
        self._started_mono = self.progress_mono = time.monotonic()
        self.unanswered_mono, self.waiting = None, []

    async def ended(self) -> int:
        """Wait for the process's end; all that it said is heard first. Its exit code."""
        assert self._process is not None
        code = await self._process.wait()
        if self._line is not None:
            self._line.hear()
        self.hang_up()
        self.is_ready = False
        # What waited for a reply takes it, or that there is none, before the next life begins.
        if asking := [task for task in (self._pinging, self._timing) if task is not None]:
            await asyncio.wait(asking)
        self._times.restart()
        quick = time.monotonic() - self._started_mono < QUICK_S
        self.vain_deaths = self.vain_deaths + 1 if quick or self._is_hung else 0
        return code

    def _hear(self, message: ToSupervisor) -> None:
        if isinstance(message, RecordInHand):
            self._note_in_hand(message)
            return
        if isinstance(message, Ready):
            self.is_ready = self.was_ready = True
        self._heard(self, message)

    async def gone(self) -> None:
        """Wait until there is no process, or none any more."""
        if self._process is not None:
            await self._process.wait()

    def hang_up(self) -> None:
        """Close the line: nothing that it says is heard any more."""
        if self._line is not None:
            self._line.close()

    def _note_in_hand(self, message: RecordInHand) -> None:
        place = (message.source, message.stage)
        if message.position is None:
            self.in_hand.pop(place, None)
        else:
            self.in_hand[place] = message.position

    def tell(self, message: ToWorker) -> None:
        """Send a message, in order, as soon as it takes it; nobody hears it if there is none."""
        if self._line is not None:
            self._line.tell(message)

    async def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Return its reply; see ChildLine.ask. NoReply too where there is none to be asked."""
        if self._line is None:
            raise NoReply(f"worker {self.name} has not begun", gone=True)
        return await self._line.ask(request, kind, patience_s)

    def has_work(self, pending: Mapping[str, set[str]]) -> bool:
        """Return whether a stage of its own is pending for a source; decode is not while it waits
        for the source's own pace.

        pending: stages with something to do, by source
        """
        hosted = set(self.hosted)
        return any(
            stages & (hosted - {"decode"} if source in self.waiting else hosted)
            for source, stages in pending.items()
        )

    def ping(self) -> None:
        """Ask how it gets on, if it has answered the last time."""
        if self._pinging is None or self._pinging.done():
            self.unanswered_mono = self.unanswered_mono or time.monotonic()
            self._pinging = asyncio.create_task(self._ping())

    async def _ping(self) -> None:
        with contextlib.suppress(NoReply, RequestRefused):
            pong = await self.ask(Ping(), Pong)
            self.unanswered_mono, self.waiting = None, pong.waiting
            if pong.done != self.progress:
                self.progress, self.progress_mono = pong.done, time.monotonic()

    async def times(self, patience_s: float) -> Times:
        """Return how long its stages waited and worked over all its lives; where no reply comes in
        time, as far as it has replied before.
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
        """End it at once, even if it is stopped. hung: as it had work, and did not get on."""
        self._is_hung = hung
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, signal.SIGKILL)


def exit_in_words(code: int) -> str:
    """Return a process's exit code in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
