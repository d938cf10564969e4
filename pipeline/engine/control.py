"""A supervisor and its children (workers, the HTTP process) talk over a socket pair.

One JSON message a packet. A message that no packet should have the size of (some name all sources)
lies in a file whose descriptor the packet carries; so does shared memory that was asked for.

There are notices, which nobody replies to, and requests: a `Call` carries a request and a number,
the `CallReply` of that number its result. Both sides may ask: `ChildLine.ask` in the supervisor's
event loop (`engine.child_line`), `ControlLine.ask` in any thread of a child. Who asks hears of it
when the other ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from framegate.pipeline.contracts.errors import FrameStoreFull, NoReply, RequestRefused
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.system.retry import OUT_OF_MEANS, Backoff
from framegate.pipeline.telemetry.counters import StageTimes

log = logging.getLogger(__name__)

PACKET = 1 << 15  # bytes: a longer message travels in a file, of which a packet says this
IN_A_FILE = b"+"
AGAIN_S = 0.2
TRIES = 8  # for a descriptor: some three seconds
R = TypeVar("R")

# -- Requests of the supervisor to a worker


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Say how the work gets on; the reply is a Pong."""


class Pong(msgspec.Struct, frozen=True):
    """How a worker's work gets on.

    done     a number that only grows with what was done
    waiting  sources whose next frame is decoded and not yet due: nothing is to be done for these
    """

    done: int
    waiting: list[str] = []


class GetTimes(msgspec.Struct, frozen=True, tag=True):
    """Say how long the stages waited and worked since the worker began; the reply is Times."""


Times = dict[str, StageTimes]  # by stage


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Get all stages ready for a model that is to be chosen for these sources; the reply is None.

    is_new: none of the sources had it before
    """

    model: str
    sources: list[str]
    is_new: bool = True


# -- Requests of a child to the supervisor


class GetSharedMemory(msgspec.Struct, frozen=True, tag=True):
    """Give the shared memory of a source that has this name and size in bytes.

    The reply is SharedMemory, with a descriptor beside it if there is no fault.
    make: if there is none, make it
    """

    source: str
    name: str
    nbytes: int
    make: bool = True


class SharedMemory(msgspec.Struct, frozen=True):
    """Why there is no descriptor, None if there is one. again: there may be one in a moment."""

    fault: str | None = None
    again: bool = False


class GetStatus(msgspec.Struct, frozen=True, tag=True):
    """Say how the run is; the reply is a RunStatus."""


# -- Notices of a worker


class FramesKept(msgspec.Struct, frozen=True, tag=True):
    """Nobody wants other frame stores of a source than these any more."""

    source: str
    names: list[str]


class RecordInHand(msgspec.Struct, frozen=True, tag=True):
    """A record of a careful source is about to be processed; None: that is over."""

    source: str
    stage: str
    position: Position | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All stages are open."""


class EndPassed(msgspec.Struct, frozen=True, tag=True):
    """`stage` passed the last entry of a source; the store says how that source ended."""

    source: str
    stage: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker ends, and another in its place would end as well. exit: its code."""

    message: str
    exit: int


# -- Notices of the supervisor


class SetSources(msgspec.Struct, frozen=True, tag=True):
    """From now on these are all the sources."""

    sources: list[SourceSpec]


class SetModels(msgspec.Struct, frozen=True, tag=True):
    """From now on these models are chosen, by source."""

    models: dict[str, str]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Decode no further; commit what is decoded."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End after the commit in hand."""


# -- Messages


AnyRequest = Ping | GetTimes | Prepare | GetSharedMemory | GetStatus


class Call(msgspec.Struct, frozen=True, tag=True):
    """A request. number: of its reply; the side that asks counts."""

    number: int
    request: AnyRequest


class CallReply(msgspec.Struct, frozen=True, tag=True):
    """What came of the call of this number: a value in JSON, or why there is none."""

    number: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    fault: str | None = None


ToWorker = Call | CallReply | SetSources | SetModels | Drain | Stop
ToSupervisor = Call | CallReply | FramesKept | RecordInHand | Ready | EndPassed | Failed

PrepareStages = Callable[[str, list[str], bool], None]

_encode = msgspec.json.Encoder().encode
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)
LAST_WORD = (SetSources, SetModels, Drain, Stop)  # an older one of a kind is void


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's end and the child's."""
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


class MessageLost(Exception):
    """A message came whose file could not be had: this process has too many open."""


def _receive(end: socket.socket) -> tuple[bytes, int]:
    """Return the next message, empty at the end, and the descriptor beside it, -1 for none.

    MessageLost if it lies in a file that this process has no descriptor for.
    """
    data, descriptors, _, _ = socket.recv_fds(end, PACKET, 1)
    descriptor = next(iter(descriptors), -1)
    if data != IN_A_FILE:
        return data, descriptor
    if descriptor < 0:
        raise MessageLost
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read(), -1


def receive_from_child(end: socket.socket) -> ToSupervisor | None:
    """Return the next message; None at the end, and for what is no message of a child.

    BlockingIOError if there is none yet; MessageLost.
    """
    data, descriptor = _receive(end)
    if descriptor >= 0:
        os.close(descriptor)  # a child sends none
    try:
        return _to_supervisor.decode(data) if data else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.error("a worker sent a message that cannot be read: %s; it is treated as dead", error)
        return None


def reply_of(number: int, value: object) -> CallReply:
    """Return the reply to a call. value: what JSON can hold"""
    return CallReply(number, msgspec.Raw(_encode(value)))


def value_of(reply: CallReply, kind: type[R]) -> R:
    """Return a reply's value. RequestRefused with its fault; NoReply if it is of another kind."""
    if reply.fault is not None:
        raise RequestRefused(reply.fault)
    try:
        return msgspec.json.decode(reply.value, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoReply(f"its reply cannot be read: {error}") from None


@dataclass(frozen=True)
class Answers:
    """What a worker answers requests with, each called in threads of the control line.

    progress  a number that only grows with what was done
    waiting   sources whose next frame is decoded and not yet due
    times     how long the stages waited and worked
    prepare   gets all stages ready for a model, or raises; one call at a time
    """

    progress: Callable[[], int]
    waiting: Callable[[], list[str]]
    times: Callable[[], Times]
    prepare: PrepareStages


class ControlLine:
    """A child's end of the line. A thread of its own answers while the stages work.

    ordered  the last order; it stands, whoever sees it when
    sources  the last that were set, None: those of the start
    models   the last that were set, None: those of the start
    waits    grows while the worker waits for the store, which is no hanging
    wake     an eventfd that is written to when `ordered` or `sources` has changed
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.ordered: Drain | Stop | None = None
        self.sources: list[SourceSpec] | None = None
        self.models: dict[str, str] | None = None
        self.waits = 0
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._answers: Answers | None = None
        self._may_prepare = threading.Event()
        self._preparing = threading.Lock()
        self._lock = threading.Lock()  # for the calls that wait for a reply
        self._open: dict[int, queue.SimpleQueue[tuple[CallReply, int] | None]] = {}
        self._calls = 0
        self._is_gone = False
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def let_answer(self, answers: Answers) -> None:
        """Answer with these from now on; a request to prepare that came before has waited."""
        self._answers = answers
        self._may_prepare.set()

    def say(self, notice: ToSupervisor) -> None:
        """Tell the supervisor something. Any thread; waits where the system has no room for it."""
        while True:
            try:
                return send(self._end, notice)
            except OSError as error:
                if error.errno not in OUT_OF_MEANS:
                    raise
                time.sleep(AGAIN_S)

    def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Return the supervisor's reply, of this kind. patience_s: seconds to wait, None: for ever.

        Any thread but the line's own. NoReply if the supervisor is gone, goes meanwhile, or takes
        longer; RequestRefused if it says no.
        """
        reply, descriptor = self._ask(request, patience_s)
        if descriptor >= 0:
            os.close(descriptor)
        return value_of(reply, kind)

    def shared_memory(self, source: str, name: str, nbytes: int, make: bool = True) -> int:
        """Return a descriptor of that shared memory, made by the supervisor at first. Any thread.

        The caller closes it. FrameStoreFull if there is no room for it, or none and `make` is not
        set. SystemExit if the supervisor is gone: what would be said of a frame without its memory
        must not be committed in the moment before this process is ended, too.
        """
        request = GetSharedMemory(source, name, nbytes, make)
        for tries in range(1, TRIES + 1):
            try:
                reply, descriptor = self._ask(request, None)
                shared = value_of(reply, SharedMemory)
            except NoReply as error:
                raise SystemExit(f"no shared memory from the supervisor: {error}") from error
            if shared.fault is not None and (not shared.again or tries == TRIES):
                raise FrameStoreFull(shared.fault)
            if descriptor >= 0:
                return descriptor
            time.sleep(Backoff().delay_s(tries, random.random()))
        raise FrameStoreFull(f"no descriptor is left for {name} of it: raise ulimit -n")

    def _ask(self, request: AnyRequest, patience_s: float | None) -> tuple[CallReply, int]:
        replies: queue.SimpleQueue[tuple[CallReply, int] | None] = queue.SimpleQueue()
        with self._lock:
            if self._is_gone:
                raise NoReply("the supervisor has ended", gone=True)
            self._calls += 1
            number = self._calls
            self._open[number] = replies
        self.say(Call(number, request))
        try:
            reply = replies.get(timeout=patience_s)
        except queue.Empty:
            with self._lock:
                if self._open.pop(number, None) is not None:
                    raise NoReply(f"no reply from the supervisor in {patience_s:g} s") from None
            reply = replies.get()  # it came just now: its descriptor must not be left open
        if reply is None:
            raise NoReply("the supervisor has ended", gone=True)
        return reply

    def _take_reply(self, reply: CallReply, descriptor: int) -> None:
        with self._lock:
            replies = self._open.pop(reply.number, None)
        if replies is not None:
            replies.put((reply, descriptor))
        elif descriptor >= 0:  # nobody waits for it any more
            os.close(descriptor)

    def _fail_open(self) -> None:
        with self._lock:
            self._is_gone = True
            waiting, self._open = self._open, {}
        for replies in waiting.values():
            replies.put(None)

    def _answer(self, call: Call) -> None:
        answers = self._answers
        if isinstance(call.request, Ping):
            done = self.waits + (0 if answers is None else answers.progress())
            waiting = [] if answers is None else answers.waiting()
            self.say(reply_of(call.number, Pong(done, waiting)))
        elif isinstance(call.request, GetTimes):
            self.say(reply_of(call.number, {} if answers is None else answers.times()))
        elif isinstance(call.request, Prepare):
            # It may take minutes: pings go on being answered.
            words = (call.number, call.request)
            threading.Thread(target=self._prepare, args=words, daemon=True).start()
        else:
            what = f"a worker answers no {type(call.request).__name__}"
            self.say(CallReply(call.number, fault=what))

    def _prepare(self, number: int, request: Prepare) -> None:
        self._may_prepare.wait()
        assert self._answers is not None
        try:
            with self._preparing:
                self._answers.prepare(request.model, request.sources, request.is_new)
        except Exception as error:  # a model may make a network's library raise anything
            self.say(CallReply(number, fault=redacted(str(error) or repr(error))))
        else:
            self.say(reply_of(number, None))

    def _listen(self) -> None:
        while (received := self._receive()) is not None:
            message, descriptor = received
            if isinstance(message, CallReply):
                self._take_reply(message, descriptor)
            elif isinstance(message, Call):
                self._answer(message)
            elif isinstance(message, SetModels):
                self.models = message.models
            elif isinstance(message, SetSources):
                self.sources = message.sources
                os.eventfd_write(self.wake, 1)
            else:
                self._order(message)
        self._fail_open()
        self._order(Stop())

    def _receive(self) -> tuple[ToWorker, int] | None:
        """Return the next message with its descriptor; None at the end."""
        try:
            data, descriptor = _receive(self._end)
        except ConnectionResetError:
            return None
        except MessageLost:  # another worker in its place is told anew
            log.warning("this worker ends: it has too many open files to receive messages")
            return None
        return (_to_worker.decode(data), descriptor) if data else None

    def _order(self, order: Drain | Stop) -> None:
        self.ordered = order
        os.eventfd_write(self.wake, 1)
