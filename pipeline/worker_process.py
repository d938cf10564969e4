"""The supervisor's side of one worker: start, listen, order, kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from pipeline import control
from pipeline.control import InHand, Ping, Pong, ToSupervisor, ToWorker
from pipeline.deaths import Deaths, Place
from pipeline.orphans import die_with_parent
from pipeline.records import Position
from pipeline.spec import WorkerSpec

Heard = Callable[["WorkerProcess", ToSupervisor], None]


class WorkerProcess:
    """A worker and, after its death, the ones that take its place. Lives in the event loop."""

    def __init__(self, name: str, hosted: list[str], heard: Heard) -> None:
        self.name = name
        self.hosted = hosted
        self.deaths = Deaths()
        self.in_hand: dict[Place, Position] = {}
        self.quick_deaths = self.restarts = 0
        self.progress = -1
        self.progress_mono = time.monotonic()
        self.unanswered_mono: float | None = None  # since when a ping waits for its answer
        self._heard = heard
        self._process: asyncio.subprocess.Process | None = None
        self._end: socket.socket | None = None
        self._started_mono = 0.0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self, spec: WorkerSpec) -> None:
        """Start the process and give it its spec."""
        self.restarts += self._process is not None
        ours, theirs = control.make_pair()
        ours.setblocking(False)
        self.in_hand.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pipeline.worker", self.name),
            *(str(theirs.fileno()), str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        theirs.close()
        self._end = ours
        self._started_mono = self.progress_mono = time.monotonic()
        self.unanswered_mono = None
        asyncio.get_running_loop().add_reader(ours.fileno(), self._listen)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(msgspec.json.encode(spec))
            await self._process.stdin.drain()
            self._process.stdin.close()

    async def ended(self) -> int:
        """Wait for the process's end; all that it said is heard first. Its exit code."""
        assert self._process is not None
        assert self._end is not None
        code = await self._process.wait()
        self._listen()
        self._hang_up()
        lived = time.monotonic() - self._started_mono
        self.quick_deaths = self.quick_deaths + 1 if lived < 10 else 0
        return code

    def _listen(self) -> None:
        while self._end is not None:
            try:
                message = control.receive_from_worker(self._end)
            except BlockingIOError:
                return
            except OSError:
                message = None
            if message is None:
                self._hang_up()
            elif isinstance(message, InHand):
                self._note_in_hand(message)
            elif isinstance(message, Pong):
                self.unanswered_mono = None
                if message.done != self.progress:
                    self.progress, self.progress_mono = message.done, time.monotonic()
            else:
                self._heard(self, message)

    def _note_in_hand(self, message: InHand) -> None:
        place = (message.source, message.stage)
        if message.position is None:
            self.in_hand.pop(place, None)
        else:
            self.in_hand[place] = message.position

    def _hang_up(self) -> None:
        if self._end is not None:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._end.close()
            self._end = None

    def tell(self, message: ToWorker, descriptor: int | None = None) -> bool:
        """Send a message; False if this worker does not take it, True as well if there is none."""
        if self._end is not None:
            try:
                control.send(self._end, message, descriptor)
            except OSError:
                return False
        return True

    def ping(self) -> None:
        """Ask how it gets on."""
        self.unanswered_mono = self.unanswered_mono or time.monotonic()
        self.tell(Ping())

    def kill(self) -> None:
        """End it at once, even if it is stopped."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, signal.SIGKILL)


def exit_in_words(code: int) -> str:
    """What a process's exit code says."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"
