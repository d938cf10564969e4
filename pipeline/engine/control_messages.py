"""Messages between a supervisor and its children (workers, the HTTP process), and a child's end.

The two share a socket pair. A packet is one JSON message. A message that is longer than PACKET
(some list all sources) is in a file, and the packet carries the file's descriptor. Descriptors of
shared memory travel in the same way.

A notice has no reply. A request travels in a `Call` with a number, its result in the `CallReply`
with that number. Both sides send requests: the supervisor by `ChildLine.ask` in its event loop
(`engine.child_line`), a child by `ControlLine.ask` in any thread. A request fails with NoReply when
the other side ends.
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
from framegate.pipeline.contracts.object_filters import FilterRequest, ObjectFilter
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.system.retry import OUT_OF_MEANS, Backoff
from framegate.pipeline.telemetry.run_status import StageTimes

log = logging.getLogger(__name__)

PACKET = 1 << 15  # bytes; a longer message travels in a file
IN_A_FILE = b"+"  # the packet of such a message
AGAIN_S = 0.2  # until a message that the system had no room for is sent again
TRIES = 8  # for a descriptor, in about three seconds
R = TypeVar("R")

# -- Requests of the supervisor to a worker


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Ask for the worker's progress; the reply is a Pong."""


class Pong(msgspec.Struct, frozen=True):
    """The progress of a worker.

    done     a count that grows with any work
    waiting  sources whose next frame is decoded and not due yet: they need no work now
    """

    done: int
    waiting: list[str] = []


class GetTimes(msgspec.Struct, frozen=True, tag=True):
    """Ask for the time that frames waited for stages and the stages worked; the reply is Times."""


Times = dict[str, StageTimes]  # by stage


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Prepare all stages for a model before the sources switch to it; the reply is None.

    is_new  none of the sources had it before
    """

    model: str
    sources: list[str]
    is_new: bool = True


# -- Requests of a child to the supervisor


class GetSharedMemory(msgspec.Struct, frozen=True, tag=True):
    """Ask for the shared memory of a source with this name and size in bytes.

    The reply is SharedMemory, and the packet carries a descriptor if there is no fault.

    make  create the memory if it does not exist
    """

    source: str
    name: str
    nbytes: int
    make: bool = True


class SharedMemory(msgspec.Struct, frozen=True):
    """The reply to GetSharedMemory.

    fault  why there is no descriptor; None: there is one
    again  a retry may succeed soon
    """

    fault: str | None = None
    again: bool = False


class GetStatus(msgspec.Struct, frozen=True, tag=True):
    """Ask for the state of the run; the reply is a RunStatus."""


# -- Notices of a worker


class FramesKept(msgspec.Struct, frozen=True, tag=True):
    """A source uses these frame stores; its others may go."""

    source: str
    names: list[str]


class RecordInHand(msgspec.Struct, frozen=True, tag=True):
    """A stage is about to process a record of a careful source; position None: it is done."""

    source: str
    stage: str
    position: Position | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker has opened all its stages."""


class EndPassed(msgspec.Struct, frozen=True, tag=True):
    """A stage passed the last end of a source; the store has the reason of the end."""

    source: str
    stage: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker ends with an error that a restart would not cure. exit: its exit code."""

    message: str
    exit: int


# -- Notices of the supervisor


class SetSources(msgspec.Struct, frozen=True, tag=True):
    """Serve exactly these sources from now on."""

    sources: list[SourceSpec]


class SetModels(msgspec.Struct, frozen=True, tag=True):
    """Use these models from now on, by source."""

    models: dict[str, str]


class SetFilters(msgspec.Struct, frozen=True, tag=True):
    """Apply these object filters from now on, by name."""

    filters: dict[str, ObjectFilter]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop decoding; commit the frames that are decoded."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End after the current commit."""


# -- Messages


AnyRequest = Ping | GetTimes | Prepare | GetSharedMemory | GetStatus | FilterRequest


class Call(msgspec.Struct, frozen=True, tag=True):
    """A request. number: that of its reply; each side counts its own requests."""

    number: int
    request: AnyRequest


class CallReply(msgspec.Struct, frozen=True, tag=True):
    """The reply to the call of this number: a JSON value, or the reason why there is none."""

    number: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    fault: str | None = None


ToWorker = Call | CallReply | SetSources | SetModels | SetFilters | Drain | Stop
ToSupervisor = Call | CallReply | FramesKept | RecordInHand | Ready | EndPassed | Failed

PrepareStages = Callable[[str, list[str], bool], None]

_encode = msgspec.json.Encoder().encode
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)
SUPERSEDES = (
    SetSources,
    SetModels,
    SetFilters,
    Drain,
    Stop,
)  # replaces an unsent notice of its type


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's end and the child's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(
    end: socket.socket, message: ToWorker | ToSupervisor, descriptor: int | None = None
) -> None:
    """Send one message of any size; a short one may carry a descriptor.

    Does nothing if the peer has ended. Raises OSError, with nothing sent, if the system has no room
    for the message or no descriptor for its file.
    """
    data = _encode(message)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
        if len(data) > PACKET:
            with os.fdopen(os.memfd_create("framegate-message", os.MFD_CLOEXEC), "wb") as file:
                file.write(data)
                file.flush()
                socket.send_fds(end, [IN_A_FILE], [file.fileno()])
        else:
            descriptors = []
            if descriptor is not None:
                descriptors = [descriptor]
            socket.send_fds(end, [data], descriptors)


class MessageLost(Exception):
    """The file of a received message could not be opened: this process has too many open files."""


def _receive(end: socket.socket) -> tuple[bytes, int]:
    """Return the next message and the descriptor that it carries (-1: none).

    The message is empty when the peer has ended. Raises MessageLost if the message is in a file and
    this process has no descriptor left for it.
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
    """Return the next message; None if the child has ended or sent something unreadable.

    Raises BlockingIOError if there is no message now, and MessageLost.
    """
    data, descriptor = _receive(end)
    if descriptor >= 0:
        os.close(descriptor)  # children send no descriptors
    if not data:
        return None
    try:
        message: ToSupervisor = _to_supervisor.decode(data)
        return message
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.error("a worker sent a message that cannot be read: %s; it is treated as dead", error)
        return None


def reply_of(number: int, value: object) -> CallReply:
    """Return the reply to a call, with a value that JSON can express."""
    return CallReply(number, msgspec.Raw(_encode(value)))


def value_of(reply: CallReply, kind: type[R]) -> R:
    """Return a reply's value, of type `kind`.

    Raises RequestRefused if the reply is a fault, NoReply if the value is of another type.
    """
    if reply.fault is not None:
        raise RequestRefused(reply.fault)
    try:
        return msgspec.json.decode(reply.value, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoReply(f"its reply cannot be read: {error}") from None


@dataclass(frozen=True)
class Answers:
    """The functions that answer a worker's requests, called in threads of the control line.

    progress  returns Pong.done
    waiting   returns Pong.waiting
    times     returns the reply to GetTimes
    prepare   prepares all stages for a model, or raises; one call at a time
    """

    progress: Callable[[], int]
    waiting: Callable[[], list[str]]
    times: Callable[[], Times]
    prepare: PrepareStages


class ControlLine:
    """A child's end of the line. A thread of its own answers requests while the stages work.

    That thread alone writes the first four attributes; other threads only read them.

    ordered  the last order
    sources  the last sources that were set; None: those of the start
    models   the last models that were set; None: those of the start
    filters  the last object filters that were set; None: those of the start
    waits    grows while the worker waits for the store, so that it is not taken for hung
    wake     an eventfd that is readable after `ordered` or `sources` has changed
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.ordered: Drain | Stop | None = None
        self.sources: list[SourceSpec] | None = None
        self.models: dict[str, str] | None = None
        self.filters: dict[str, ObjectFilter] | None = None
        self.waits = 0
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._answers: Answers | None = None
        self._may_prepare = threading.Event()
        self._preparing = threading.Lock()
        self._lock = threading.Lock()  # guards the next three
        self._open: dict[int, queue.SimpleQueue[tuple[CallReply, int] | None]] = {}
        self._calls = 0
        self._is_gone = False
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def let_answer(self, answers: Answers) -> None:
        """Answer requests with these functions. A request to prepare waits until this call."""
        self._answers = answers
        self._may_prepare.set()

    def tell(self, notice: ToSupervisor) -> None:
        """Send a message to the supervisor. Any thread; waits while the system has no room."""
        while True:
            try:
                return send(self._end, notice)
            except OSError as error:
                if error.errno not in OUT_OF_MEANS:
                    raise
                time.sleep(AGAIN_S)

    def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Return the supervisor's reply, of type `kind`. Any thread but the line's own.

        Raises RequestRefused if the supervisor refuses, and NoReply if it has ended, ends
        meanwhile, or takes longer than `patience_s` seconds (None: no limit).
        """
        reply, descriptor = self._ask(request, patience_s)
        if descriptor >= 0:
            os.close(descriptor)
        return value_of(reply, kind)

    def shared_memory(self, source: str, name: str, nbytes: int, make: bool = True) -> int:
        """Return a descriptor of shared memory; the caller closes it. Any thread.

        Raises FrameStoreFull if there is no room for it, or if it does not exist and `make` is not
        set. Raises SystemExit if the supervisor has ended: this process is about to end too, and
        must not commit a failure for a frame only because its memory is missing.
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
        raise FrameStoreFull(
            f"no file descriptor is left for the shared memory {name!r} of source {source}: "
            "raise ulimit -n"
        )

    def _ask(self, request: AnyRequest, patience_s: float | None) -> tuple[CallReply, int]:
        replies: queue.SimpleQueue[tuple[CallReply, int] | None] = queue.SimpleQueue()
        with self._lock:
            if self._is_gone:
                raise NoReply("the supervisor has ended", gone=True)
            self._calls += 1
            number = self._calls
            self._open[number] = replies
        self.tell(Call(number, request))
        try:
            reply = replies.get(timeout=patience_s)
        except queue.Empty:
            with self._lock:
                if self._open.pop(number, None) is not None:
                    raise NoReply(f"no reply from the supervisor in {patience_s:g} s") from None
            # The reply arrived in this moment; its descriptor must not stay open.
            reply = replies.get()
        if reply is None:
            raise NoReply("the supervisor has ended", gone=True)
        return reply

    def _take_reply(self, reply: CallReply, descriptor: int) -> None:
        with self._lock:
            replies = self._open.pop(reply.number, None)
        if replies is not None:
            replies.put((reply, descriptor))
        elif descriptor >= 0:  # the caller has given up
            os.close(descriptor)

    def _fail_open(self) -> None:
        with self._lock:
            self._is_gone = True
            waiting = self._open
            self._open = {}
        for replies in waiting.values():
            replies.put(None)

    def _answer(self, call: Call) -> None:
        answers = self._answers
        number = call.number
        if isinstance(call.request, Ping):
            pong = Pong(self.waits)
            if answers is not None:
                pong = Pong(self.waits + answers.progress(), answers.waiting())
            self.tell(reply_of(number, pong))
        elif isinstance(call.request, GetTimes):
            times: Times = {}
            if answers is not None:
                times = answers.times()
            self.tell(reply_of(number, times))
        elif isinstance(call.request, Prepare):
            # A thread of its own: it may take minutes, and pings must be answered meanwhile.
            args = (number, call.request)
            threading.Thread(target=self._prepare, args=args, daemon=True).start()
        else:
            fault = f"a worker does not answer {type(call.request).__name__}"
            self.tell(CallReply(number, fault=fault))

    def _prepare(self, number: int, request: Prepare) -> None:
        self._may_prepare.wait()
        assert self._answers is not None
        try:
            with self._preparing:
                self._answers.prepare(request.model, request.sources, request.is_new)
        except Exception as error:  # a library that loads a model may raise anything
            self.tell(CallReply(number, fault=redacted(str(error) or repr(error))))
        else:
            self.tell(reply_of(number, None))

    def _listen(self) -> None:
        while True:
            received = self._receive()
            if received is None:
                break
            message, descriptor = received
            if isinstance(message, CallReply):
                self._take_reply(message, descriptor)
            elif isinstance(message, Call):
                self._answer(message)
            elif isinstance(message, SetModels):
                self.models = message.models
            elif isinstance(message, SetFilters):
                self.filters = message.filters
            elif isinstance(message, SetSources):
                self.sources = message.sources
                os.eventfd_write(self.wake, 1)
            else:
                self._order(message)
        self._fail_open()
        self._order(Stop())

    def _receive(self) -> tuple[ToWorker, int] | None:
        """Return the next message with its descriptor; None if the supervisor has ended."""
        try:
            data, descriptor = _receive(self._end)
        except ConnectionResetError:
            return None
        except MessageLost:  # the worker that replaces this one gets the settings again
            log.warning("this worker ends: it has too many open files to receive messages")
            return None
        if not data:
            return None
        return _to_worker.decode(data), descriptor

    def _order(self, order: Drain | Stop) -> None:
        self.ordered = order
        os.eventfd_write(self.wake, 1)
