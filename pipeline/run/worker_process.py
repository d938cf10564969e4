"""The supervisor's side of one worker process: start, listen, order, kill."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from framegate.pipeline.engine import control
from framegate.pipeline.engine.control import (
    AnswerShared,
    AnyRequest,
    ChildLine,
    Failed,
    GetTimes,
    Ping,
    Pong,
    R,
    Ready,
    RecordInHand,
    SetSources,
    Stop,
    Times,
    ToSupervisor,
    ToWorker,
)
from framegate.pipeline.errors import ModelNotTaken, NoReply, RequestRefused
from framegate.pipeline.process import start_module
from framegate.pipeline.records import Position
from framegate.pipeline.retry import Backoff
from framegate.pipeline.run.deaths import Deaths, Place
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.shared_files import SharedFiles
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.spec import SourceSpec, StageSpec, WorkerSpec
from framegate.pipeline.telemetry.counters import TimesOverLives

log = logging.getLogger(__name__)

QUICK_S = 10.0
Heard = Callable[["WorkerProcess", ToSupervisor], None]


class WorkerProcess:
    """A worker and, after its death, the ones that take its place. Lives in the event loop."""

    def __init__(
        self, name: str, hosted: list[str], heard: Heard, answer_shared: AnswerShared
    ) -> None:
        """answer_shared: makes or finds the shared memory that it asks for."""
        self.name = name
        self.hosted = hosted
        self.deaths = Deaths()
        self.in_hand: dict[Place, Position] = {}
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
                "framegate.pipeline.worker", *words, descriptors=[theirs.fileno()]
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
            self._line.close()
        # What waited for a reply takes it, or that there is none, before the next life begins.
        if asking := [task for task in (self._pinging, self._timing) if task is not None]:
            await asyncio.wait(asking)
        self._times.died()
        quick = time.monotonic() - self._started_mono < QUICK_S
        self.vain_deaths = self.vain_deaths + 1 if quick or self._is_hung else 0
        return code

    def _hear(self, message: ToSupervisor) -> None:
        if isinstance(message, RecordInHand):
            self._note_in_hand(message)
        else:
            self._heard(self, message)

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
        """Whether a stage of its own is pending for a source, by what is pending of each; decode
        is not while it waits for the source's own pace.
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
        """How long its stages waited and worked over all its lives; where it does not answer so
        soon, as far as it has said.
        """
        if self.pid is not None:
            if self._timing is None or self._timing.done():
                self._timing = asyncio.create_task(self._ask_times())
            await asyncio.wait([self._timing], timeout=patience_s)
        return self._times.total()

    async def _ask_times(self) -> None:
        with contextlib.suppress(NoReply, RequestRefused):
            self._times.told(await self.ask(GetTimes(), Times))

    def kill(self, hung: bool = False) -> None:
        """End it at once, even if it is stopped. hung: as it had work, and did not get on."""
        self._is_hung = hung
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, signal.SIGKILL)


def exit_in_words(code: int) -> str:
    """What a process's exit code says."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


# -- A worker beside those of a run: it comes and goes while the run goes on, and nobody waits for
# it. It steps back behind the others for the CPU, reads what they write, and holds nothing up.


NICE = 19
READY_S = 120.0
STOP_S = 5.0
MOST_DEATHS = 3


class Beside:
    """One such worker, or none. Lives in the event loop."""

    def __init__(self, plan: Plan, url: str, sources: RunSources, shared: SharedFiles) -> None:
        self._plan, self._url, self._sources, self._shared = plan, url, sources, shared
        self._worker: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[str | None] | None = None

    async def start(self, stage: StageSpec) -> None:
        """Host this stage from now on, in place of what was there.

        Returns once it is ready. ModelNotTaken with the reason if it cannot be.
        """
        await self.stop()
        plan = dataclasses.replace(self._plan, stages=(*self._plan.stages, stage))
        self._worker = WorkerProcess(stage.name, [stage.name], self._heard, self._shared.answer)
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_alive(self._worker, plan))
        try:
            fault = await asyncio.wait_for(asyncio.shield(self._ready), READY_S)
        except TimeoutError:
            fault = f"not ready in {READY_S:.0f} s"
        if fault is not None:
            await self.stop()
            raise ModelNotTaken(f"{stage.name}: {fault}")

    async def stop(self) -> None:
        """End it, if there is one."""
        worker, task, self._worker, self._task = self._worker, self._task, None, None
        if worker is None or task is None:
            return
        worker.tell(Stop())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), STOP_S)
        worker.kill()
        if worker.pid is None:  # none could be started so far
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """These are the run's sources now."""
        if self._worker is not None:
            self._worker.tell(SetSources(list(sources)))

    async def _keep_alive(self, worker: WorkerProcess, plan: Plan) -> None:
        deaths = 0
        while worker is self._worker and deaths < MOST_DEATHS:
            await worker.start(lambda: self._spec(worker, plan))
            code = await worker.ended()
            deaths = deaths + 1 if worker.vain_deaths else 1
            self._note_ready(f"its worker ended ({exit_in_words(code)})")
            if worker is self._worker:
                log.warning("worker %s ended (%s)", worker.name, exit_in_words(code))
        if worker is self._worker:
            log.error("worker %s died %d times: the run goes on without it", worker.name, deaths)

    def _spec(self, worker: WorkerProcess, plan: Plan) -> WorkerSpec:
        sources = self._sources.specs()
        spec = plan.spec(worker.name, worker.hosted, self._url, sources, Deaths())
        return msgspec.structs.replace(spec, nice=NICE)

    def _heard(self, worker: WorkerProcess, message: ToSupervisor) -> None:
        if isinstance(message, Ready):
            self._note_ready(None)
        elif isinstance(message, Failed):
            log.error("worker %s: %s", worker.name, message.message)
            self._note_ready(message.message)

    def _note_ready(self, fault: str | None) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(fault)
