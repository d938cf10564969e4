"""Messages between a supervisor and its children (workers, the HTTP process), and their transport.

The two share a socket pair. A packet is one JSON message. A message that is longer than PACKET
(some list all sources) is in a file, and the packet carries the file's descriptor. Descriptors of
shared memory travel in the same way.

A notice has no reply. A request travels in a `Call` with a number, its result in the `CallReply`
with that number. Both sides send requests: the supervisor by `ChildLine.ask` in its event loop
(`child_line`), a child by `ControlLine.ask` in any thread (`control_line`). A request fails with
NoReply when the other side ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Any, TypeVar

import msgspec

from framegate.pipeline.contracts.errors import NoReply, RequestRefused
from framegate.pipeline.contracts.live_config import ConfigRequest
from framegate.pipeline.contracts.object_filters import FilterRequest, ObjectFilter
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.telemetry.run_status import StageTimes

log = logging.getLogger(__name__)

PACKET = 1 << 15  # bytes; a longer message travels in a file
IN_A_FILE = b"+"  # the packet of such a message
SEND_AGAIN_S = 0.2  # until a message that the system had no room for is sent again
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


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """Decode has stopped for a source that is handed over, and all its frames are committed."""

    source: str


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


class SetOptions(msgspec.Struct, frozen=True, tag=True):
    """Run the stage of this name with these options from now on."""

    stage: str
    options: dict[str, Any]


class CloseCameras(msgspec.Struct, frozen=True, tag=True):
    """Close the connections of these cameras until a later message does not name them.

    A slot of a fleet that cannot reach the store does so, because another host may need them.
    """

    sources: list[str]


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop decoding; commit the frames that are decoded."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End after the current commit."""


# -- Messages


AnyRequest = Ping | GetTimes | Prepare | GetSharedMemory | GetStatus | FilterRequest | ConfigRequest


class Call(msgspec.Struct, frozen=True, tag=True):
    """A request. number: that of its reply; each side counts its own requests."""

    number: int
    request: AnyRequest


class CallReply(msgspec.Struct, frozen=True, tag=True):
    """The reply to the call of this number: a JSON value, or the reason why there is none."""

    number: int
    value: msgspec.Raw = msgspec.Raw(b"null")
    fault: str | None = None


ToWorker = (
    Call
    | CallReply
    | SetSources
    | SetModels
    | SetFilters
    | SetOptions
    | CloseCameras
    | Drain
    | Stop
)
ToSupervisor = Call | CallReply | FramesKept | RecordInHand | Ready | EndPassed | Stopped | Failed

_encode = msgspec.json.Encoder().encode
_to_worker = msgspec.json.Decoder(ToWorker)
_to_supervisor = msgspec.json.Decoder(ToSupervisor)
_WHOLE = (SetSources, SetModels, SetFilters, CloseCameras, Drain, Stop)  # each replaces the last


def supersedes(new: ToWorker, unsent: ToWorker) -> bool:
    """Return whether an earlier notice that is not sent so far is needed no more."""
    if isinstance(new, SetOptions) and isinstance(unsent, SetOptions):
        return new.stage == unsent.stage
    return isinstance(new, _WHOLE) and type(new) is type(unsent)


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


def receive_from_supervisor(end: socket.socket) -> tuple[ToWorker, int] | None:
    """Return the next message with its descriptor (-1: none); None if the supervisor has ended.

    Raises MessageLost.
    """
    try:
        data, descriptor = _receive(end)
    except ConnectionResetError:
        return None
    if not data:
        return None
    return _to_worker.decode(data), descriptor


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
