"""A child's end of the line to its supervisor; `control_messages` has the messages."""

from __future__ import annotations

import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from framegate.pipeline.contracts.errors import FrameStoreFull, NoReply
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.engine.control_messages import (
    SEND_AGAIN_S,
    AnyRequest,
    Call,
    CallReply,
    CloseCameras,
    Drain,
    GetSharedMemory,
    GetTimes,
    MessageLost,
    Ping,
    Pong,
    Prepare,
    SetFilters,
    SetModels,
    SetOptions,
    SetSources,
    SharedMemory,
    Stop,
    Times,
    ToSupervisor,
    receive_from_supervisor,
    reply_of,
    send,
    value_of,
)
from framegate.pipeline.system.retry import OUT_OF_MEANS, Backoff

log = logging.getLogger(__name__)

_TRIES: Final = 8  # for a descriptor, in about three seconds
R = TypeVar("R")
PrepareStages = Callable[[str, list[str], bool], None]


@dataclass(frozen=True)
class Answers:
    """The functions that answer a worker's requests, called in threads of the control line.

    progress  returns Pong.done
    waiting   returns Pong.waiting
    times     returns the reply to GetTimes
    prepare   prepares all stages for a model, or raises; one call at a time
    close_cameras  closes the connections of these cameras, and allows those of all others
    """

    progress: Callable[[], int]
    waiting: Callable[[], list[str]]
    times: Callable[[], Times]
    prepare: PrepareStages
    close_cameras: Callable[[list[str]], None] = lambda names: None  # noqa: ARG005


class ControlLine:
    """A child's end of the line. A thread of its own answers requests while the stages work.

    That thread alone writes the first five attributes; other threads only read them.

    ordered  the last order
    sources  the last sources that were set; None: those of the start
    models   the last models that were set; None: those of the start
    filters  the last object filters that were set; None: those of the start
    options  the last options that were set, by stage
    waits    grows while the worker waits for the store, so that it is not taken for hung
    wake     an eventfd that is readable after `ordered` or `sources` has changed
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.ordered: Drain | Stop | None = None
        self.sources: list[SourceSpec] | None = None
        self.models: dict[str, str] | None = None
        self.filters: dict[str, ObjectFilter] | None = None
        self.options: dict[str, dict[str, Any]] = {}
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
                time.sleep(SEND_AGAIN_S)

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
        for tries in range(1, _TRIES + 1):
            try:
                reply, descriptor = self._ask(request, None)
                shared = value_of(reply, SharedMemory)
            except NoReply as error:
                raise SystemExit(f"no shared memory from the supervisor: {error}") from error
            if shared.fault is not None and (not shared.again or tries == _TRIES):
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
            try:
                received = receive_from_supervisor(self._end)
            except MessageLost:  # the worker that replaces this one gets the settings again
                log.warning("this worker ends: it has too many open files to receive messages")
                break
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
            elif isinstance(message, SetOptions):
                self.options = {**self.options, message.stage: message.options}
            elif isinstance(message, SetSources):
                self.sources = message.sources
                os.eventfd_write(self.wake, 1)
            elif isinstance(message, CloseCameras):
                if self._answers is not None:
                    self._answers.close_cameras(message.sources)
            else:
                self._order(message)
        self._fail_open()
        self._order(Stop())

    def _order(self, order: Drain | Stop) -> None:
        self.ordered = order
        os.eventfd_write(self.wake, 1)
