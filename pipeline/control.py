"""Supervisor and worker talk over a socket pair: one JSON message a packet, descriptors beside."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.durations import StageTimes
from pipeline.errors import FrameStoreFull, SupervisorSilent
from pipeline.records import Position
from pipeline.redaction import redacted
from pipeline.spec import SourceSpec

PACKET = 1 << 18  # more than the kernel lets through in one packet


class SharedWanted(msgspec.Struct, frozen=True, tag=True):
    """Worker: give me the shared memory of a source that has this name and size."""

    ask: int
    source: str
    name: str
    nbytes: int


class Shared(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: here is its descriptor (beside), or why not."""

    ask: int
    fault: str | None = None


class InHand(msgspec.Struct, frozen=True, tag=True):
    """Worker: a record of a careful source is about to be processed; None: that is over."""

    source: str
    stage: str
    position: Position | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker: all stages are open."""


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Worker: `stage` passed the last entry of a source; the store says how it ended."""

    source: str
    stage: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Worker: I end, and trying again would not help."""

    message: str
    exit: int


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: are you getting on?"""


class Pong(msgspec.Struct, frozen=True, tag=True):
    """Worker: this much was done so far; a number that only grows."""

    done: int


class TimesWanted(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: how long did your stages wait and work?"""


class Times(msgspec.Struct, frozen=True, tag=True):
    """Worker: this long, since I began, by stage."""

    stages: dict[str, StageTimes]


class StatusWanted(msgspec.Struct, frozen=True, tag=True):
    """The HTTP process: how is the run?"""

    ask: int


class StatusThere(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: here is a file (beside) with a run_status.RunStatus: no packet has its size."""

    ask: int


class Sources(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: from now on these are your sources."""

    sources: list[SourceSpec]


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: get ready for a model that is to be chosen for these sources.

    is_new: none of them had it before
    """

    ask: int
    model: str
    sources: list[str]
    is_new: bool = True


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """Worker: all stages are ready for it, or why one is not."""

    ask: int
    fault: str | None = None


class Models(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: from now on these models are chosen, by source."""

    models: dict[str, str]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: decode no further; commit what is decoded."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: end after the commit in hand."""


ToWorker = Shared | StatusThere | Ping | TimesWanted | Sources | Prepare | Models | Drain | Stop
ToSupervisor = (
    SharedWanted | StatusWanted | InHand | Ready | Finished | Failed | Pong | Times | Prepared
)

PrepareStages = Callable[[str, list[str], bool], None]

_encode = msgspec.json.Encoder().encode
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(
    end: socket.socket, message: ToWorker | ToSupervisor, descriptor: int | None = None
) -> None:
    """Send one message, with a descriptor beside it; a gone peer is no error here."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
        socket.send_fds(end, [_encode(message)], [] if descriptor is None else [descriptor])


def receive_from_worker(end: socket.socket) -> ToSupervisor | None:
    """The next message; None at the end. BlockingIOError if there is none yet."""
    data = end.recv(PACKET)
    return _to_supervisor.decode(data) if data else None


class ControlLine:
    """The worker's end. A thread of its own answers pings even while the stages work."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._answers: dict[int, queue.SimpleQueue[tuple[Shared | StatusThere, int]]] = {}
        self._lock = threading.Lock()
        self._asked = 0
        self.ordered: Drain | Stop | None = None  # the last order; it stands, whoever sees it when
        self.sources: list[SourceSpec] | None = None  # the last word on them, None: as at the start
        self.models: dict[str, str] | None = None  # the last word, None: as at the start
        self._prepare_stages: queue.SimpleQueue[PrepareStages] = queue.SimpleQueue()
        self.progress: Callable[[], int] = lambda: 0
        self.times: Callable[[], dict[str, StageTimes]] = dict
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def let_prepare(self, prepare: PrepareStages) -> None:
        """From now on models are got ready for with this; who asked before has waited."""
        self._prepare_stages.put(prepare)

    def say(self, message: ToSupervisor) -> None:
        """Tell the supervisor something. Any thread."""
        send(self._end, message)

    def shared_memory(self, source: str, name: str, nbytes: int) -> int:
        """A descriptor of that shared memory, made by the supervisor at first. Any thread.

        The caller closes it. FrameStoreFull if there is no room for it.
        """
        answer, descriptor = self._ask(lambda ask: SharedWanted(ask, source, name, nbytes))
        if isinstance(answer, Shared) and answer.fault is not None:
            raise FrameStoreFull(answer.fault)
        return descriptor

    def status(self, patience_s: float) -> int:
        """A descriptor of a file with the run's status. Any thread; the caller closes it.

        SupervisorSilent if it does not answer in time.
        """
        return self._ask(StatusWanted, patience_s)[1]

    def _ask(
        self, question: Callable[[int], ToSupervisor], patience_s: float | None = None
    ) -> tuple[Shared | StatusThere, int]:
        answers: queue.SimpleQueue[tuple[Shared | StatusThere, int]] = queue.SimpleQueue()
        with self._lock:
            self._asked += 1
            ask = self._asked
            self._answers[ask] = answers
        self.say(question(ask))
        try:
            return answers.get(timeout=patience_s)
        except queue.Empty:
            self._answers.pop(ask, None)
            raise SupervisorSilent(f"no answer from the supervisor in {patience_s} s") from None

    def _answer(self, message: Shared | StatusThere, descriptor: int) -> None:
        answers = self._answers.pop(message.ask, None)
        if answers is not None:
            answers.put((message, descriptor))
        elif descriptor >= 0:  # who asked does not wait any more
            os.close(descriptor)

    def _prepare(self, asked: Prepare) -> None:
        prepare = self._prepare_stages.get()
        try:
            prepare(asked.model, asked.sources, asked.is_new)
        except Exception as error:  # a model may make a network's library raise anything
            self.say(Prepared(asked.ask, redacted(str(error) or repr(error))))
        else:
            self.say(Prepared(asked.ask))
        finally:
            self._prepare_stages.put(prepare)  # one at a time

    def _listen(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._end, PACKET, 1)
            except ConnectionResetError:
                data, descriptors = b"", []
            message: Any = _to_worker.decode(data) if data else Stop()
            if isinstance(message, Shared | StatusThere):
                self._answer(message, next(iter(descriptors), -1))
            elif isinstance(message, Ping):
                self.say(Pong(self.progress()))
            elif isinstance(message, TimesWanted):
                self.say(Times(self.times()))
            elif isinstance(message, Models):
                self.models = message.models
            elif isinstance(message, Prepare):
                threading.Thread(target=self._prepare, args=(message,), daemon=True).start()
            else:
                if isinstance(message, Sources):
                    self.sources = message.sources
                else:
                    self.ordered = message
                os.eventfd_write(self.wake, 1)
            if not data:
                return
