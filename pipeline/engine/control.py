"""Supervisor and worker talk over a socket pair: one JSON message a packet, descriptors beside.

A message that no packet should have the size of (some name all sources) lies in a file beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from framegate.pipeline.errors import FrameStoreFull, SupervisorSilent
from framegate.pipeline.records import Position
from framegate.pipeline.redaction import redacted
from framegate.pipeline.retry import OUT_OF_MEANS, Backoff
from framegate.pipeline.spec import SourceSpec
from framegate.pipeline.telemetry.counters import RunStatus, StageTimes

log = logging.getLogger(__name__)

PACKET = 1 << 15  # bytes: a longer message travels in a file, of which a packet says this
IN_A_FILE = b"+"
AGAIN_S = 0.2
TRIES = 8  # for a descriptor: some three seconds


class SharedWanted(msgspec.Struct, frozen=True, tag=True):
    """Worker: give me the shared memory of a source that has this name and size.

    make: if there is none, make it
    """

    ask: int
    source: str
    name: str
    nbytes: int
    make: bool = True


class FramesKept(msgspec.Struct, frozen=True, tag=True):
    """Worker: of a source's frame stores nobody wants others than these any more."""

    source: str
    names: list[str]


class Shared(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: here is its descriptor (beside), or why not.

    again: there may be one in a moment
    """

    ask: int
    fault: str | None = None
    again: bool = False


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
    """Worker: this much was done so far; a number that only grows.

    waiting  sources whose next frame is decoded and not yet due: nothing is to be done for these
    """

    done: int
    waiting: list[str] = []


class TimesWanted(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: how long did your stages wait and work?"""


class Times(msgspec.Struct, frozen=True, tag=True):
    """Worker: this long, since I began, by stage."""

    stages: dict[str, StageTimes]


class StatusWanted(msgspec.Struct, frozen=True, tag=True):
    """The HTTP process: how is the run?"""

    ask: int


class StatusThere(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: it is like this."""

    ask: int
    status: RunStatus


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
    SharedWanted
    | FramesKept
    | StatusWanted
    | InHand
    | Ready
    | Finished
    | Failed
    | Pong
    | Times
    | Prepared
)

PrepareStages = Callable[[str, list[str], bool], None]
AnswerShared = Callable[[SharedWanted], tuple[Shared, int | None]]

_encode = msgspec.json.Encoder().encode
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)
_LAST_WORD = (Ping, TimesWanted, Sources, Models, Drain, Stop)  # an older one of a kind is void


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the worker's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(
    end: socket.socket, message: ToWorker | ToSupervisor, descriptor: int | None = None
) -> None:
    """Send one message of any size, a short one with a descriptor beside it if one is given.

    A gone peer is no error here. OSError, and nothing was sent, if the system has no room, or no
    descriptor for what is long.
    """
    data = _encode(message)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
        if len(data) > PACKET:
            with os.fdopen(os.memfd_create("framegate-message", os.MFD_CLOEXEC), "wb") as file:
                file.write(data)
                file.flush()
                socket.send_fds(end, [IN_A_FILE], [file.fileno()])
        else:
            socket.send_fds(end, [data], [] if descriptor is None else [descriptor])


def _give(end: socket.socket, message: Shared, descriptor: int | None) -> None:
    """Send a descriptor of one's own, which is closed here then."""
    try:
        send(end, message, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _receive(end: socket.socket) -> tuple[bytes, int]:
    """The next message, empty at the end, and the descriptor beside it, -1 for none.

    LostWord if it lies in a file that this process has no descriptor for.
    """
    data, descriptors, _, _ = socket.recv_fds(end, PACKET, 1)
    descriptor = next(iter(descriptors), -1)
    if data != IN_A_FILE:
        return data, descriptor
    if descriptor < 0:
        raise LostWord
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read(), -1


class LostWord(Exception):
    """A message came whose file could not be had: this process has too many open."""


def receive_from_worker(end: socket.socket) -> ToSupervisor | None:
    """The next message; None at the end. BlockingIOError if there is none yet."""
    data, descriptor = _receive(end)
    if descriptor >= 0:
        os.close(descriptor)  # a worker sends none
    try:
        return _to_supervisor.decode(data) if data else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.error("a worker says what cannot be read: %s; it is taken for gone", error)
        return None


class ChildLine:
    """The supervisor's end. Lives in the event loop and never waits there: what the other side, or
    the system, does not take now is sent as soon as it does.
    """

    def __init__(
        self,
        end: socket.socket,
        heard: Callable[[ToSupervisor], None],
        shared: AnswerShared,
    ) -> None:
        """heard: told of each message but those for shared memory, which `shared` answers, with a
        descriptor that is closed once it is sent.
        """
        self._end: socket.socket | None = end
        self._heard, self._shared = heard, shared
        self._waiting: deque[ToWorker | SharedWanted] = deque()
        self._is_blocked = False
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self.hear)

    def tell(self, message: ToWorker) -> None:
        """Send a message, if the other side is there."""
        if self._end is None:
            return
        if self._waiting and isinstance(message, _LAST_WORD):
            self._waiting = deque(m for m in self._waiting if type(m) is not type(message))
        self._add(message)

    def _add(self, message: ToWorker | SharedWanted) -> None:
        self._waiting.append(message)
        if not self._is_blocked:
            self._send()

    def _send(self) -> None:
        while self._end is not None and self._waiting:
            first = self._waiting[0]
            try:
                if isinstance(first, SharedWanted):
                    _give(self._end, *self._shared(first))
                else:
                    send(self._end, first)
            except BlockingIOError:
                if not self._is_blocked:
                    self._loop.add_writer(self._end.fileno(), self._unblock)
            except OSError as error:
                log.debug("a message waits: %s", error)
                if not self._is_blocked:
                    self._loop.call_later(AGAIN_S, self._unblock)
            else:
                self._waiting.popleft()
                continue
            self._is_blocked = True
            return

    def _unblock(self) -> None:
        if self._end is not None:
            self._loop.remove_writer(self._end.fileno())
        self._is_blocked = False
        self._send()

    def hear(self) -> None:
        """Hear all that was said."""
        while self._end is not None:
            try:
                message = receive_from_worker(self._end)
            except BlockingIOError:
                return
            except LostWord:
                log.warning("a worker's message is lost: too many files are open")
                continue
            except OSError:
                message = None
            if message is None:
                self.close()
            elif isinstance(message, SharedWanted):
                self._add(message)
            else:
                self._heard(message)

    def close(self) -> None:
        """Hang up."""
        if self._end is not None:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()
            self._end = None
            self._waiting.clear()


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
        self.waiting: Callable[[], list[str]] = list
        self.waits = 0  # grows while the worker waits for the store, which is no hanging
        self.times: Callable[[], dict[str, StageTimes]] = dict
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def let_prepare(self, prepare: PrepareStages) -> None:
        """From now on models are got ready for with this; who asked before has waited."""
        self._prepare_stages.put(prepare)

    def say(self, message: ToSupervisor) -> None:
        """Tell the supervisor something. Any thread; waits where the system has no room for it."""
        while True:
            try:
                return send(self._end, message)
            except OSError as error:
                if error.errno not in OUT_OF_MEANS:
                    raise
                time.sleep(AGAIN_S)

    def shared_memory(self, source: str, name: str, nbytes: int, make: bool = True) -> int:
        """A descriptor of that shared memory, made by the supervisor at first. Any thread.

        The caller closes it. FrameStoreFull if there is no room for it, or none and `make` is not
        set.
        """
        for tries in range(1, TRIES + 1):
            answer, descriptor = self._ask(
                lambda ask: SharedWanted(ask, source, name, nbytes, make)
            )
            assert isinstance(answer, Shared)
            if answer.fault is not None and (not answer.again or tries == TRIES):
                raise FrameStoreFull(answer.fault)
            if descriptor >= 0:
                return descriptor
            time.sleep(Backoff().delay_s(tries, random.random()))
        raise FrameStoreFull(f"no descriptor is left for {name} of it: raise ulimit -n")

    def status(self, patience_s: float) -> RunStatus:
        """How the run is. Any thread. SupervisorSilent if no answer comes in time."""
        answer, _ = self._ask(StatusWanted, patience_s)
        assert isinstance(answer, StatusThere)
        return answer.status

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
                data, descriptor = _receive(self._end)
            except ConnectionResetError:
                data, descriptor = b"", -1
            except LostWord:  # another worker in its place is told anew
                log.warning("this worker ends: it has too many files open to hear what it is told")
                data, descriptor = b"", -1
            message: Any = _to_worker.decode(data) if data else Stop()
            if isinstance(message, Shared | StatusThere):
                self._answer(message, descriptor)
            elif isinstance(message, Ping):
                self.say(Pong(self.progress() + self.waits, self.waiting()))
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
