"""The supervisor's end of the line to a child (`engine.control`): a worker or the HTTP process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from framegate.pipeline.contracts.errors import FramegateError, NoReply, RequestRefused
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.engine.control import (
    AGAIN_S,
    LAST_WORD,
    AnyRequest,
    Call,
    CallReply,
    GetSharedMemory,
    MessageLost,
    SharedMemory,
    ToSupervisor,
    ToWorker,
    receive_from_child,
    reply_of,
    send,
    value_of,
)

log = logging.getLogger(__name__)

R = TypeVar("R")
AnswerShared = Callable[[GetSharedMemory], tuple[SharedMemory, int | None]]
AnswerRequest = Callable[[AnyRequest], Awaitable[Any]]


class ChildLine:
    """The supervisor's end of the line to one child. Lives in the event loop and never waits there:
    what the other side, or the system, does not take now is sent as soon as it does.
    """

    def __init__(
        self,
        end: socket.socket,
        heard: Callable[[ToSupervisor], None],
        shared: AnswerShared,
        answer: AnswerRequest | None = None,
    ) -> None:
        """heard   is told of each notice
        shared  answers requests for shared memory, with a descriptor that is closed once it is sent
        answer  gives the reply to any other request; it may raise RequestRefused
        """
        self._end: socket.socket | None = end
        self._heard, self._shared, self._answer = heard, shared, answer
        self._waiting: deque[ToWorker] = deque()  # a Call here: of the child, for shared memory
        self._open: dict[int, asyncio.Future[CallReply]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._is_blocked = False
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self.hear)

    def tell(self, notice: ToWorker) -> None:
        """Send a notice, if the other side is there."""
        if self._end is None:
            return
        if self._waiting and isinstance(notice, LAST_WORD):
            self._waiting = deque(m for m in self._waiting if type(m) is not type(notice))
        self._add(notice)

    async def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Return the child's reply, of this kind. patience_s: seconds to wait, None: for ever.

        NoReply if the child is gone, goes meanwhile, or takes longer; RequestRefused if it says no.
        """
        if self._end is None:
            raise NoReply("it has ended", gone=True)
        self._calls += 1
        number, reply = self._calls, self._loop.create_future()
        self._open[number] = reply
        try:
            self._add(Call(number, request))
            return value_of(await asyncio.wait_for(reply, patience_s), kind)
        except TimeoutError:
            raise NoReply(f"no reply in {patience_s:g} s") from None
        finally:
            del self._open[number]
            # A child that takes nothing must not have more and more waiting for it.
            self._waiting = deque(m for m in self._waiting if not _is_call(m, number))

    def _add(self, message: ToWorker) -> None:
        self._waiting.append(message)
        if not self._is_blocked:
            self._send()

    def _send(self) -> None:
        while self._end is not None and self._waiting:
            try:
                self._send_one(self._end, self._waiting[0])
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

    def _send_one(self, end: socket.socket, message: ToWorker) -> None:
        """Send it. A call for shared memory is answered here, not when it came: a child that takes
        nothing must not have this process hold a descriptor for each of its questions.
        """
        if not (isinstance(message, Call) and isinstance(message.request, GetSharedMemory)):
            send(end, message)
            return
        value, descriptor = self._shared(message.request)
        try:
            send(end, reply_of(message.number, value), descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _unblock(self) -> None:
        if self._end is not None:
            self._loop.remove_writer(self._end.fileno())
        self._is_blocked = False
        self._send()

    def hear(self) -> None:
        """Take all that the child has sent."""
        while self._end is not None:
            try:
                message = receive_from_child(self._end)
            except BlockingIOError:
                return
            except MessageLost:
                log.warning("a worker's message is lost: too many files are open")
                self._fail_open(NoReply("its reply is lost: too many files are open"))
                continue
            except OSError:
                message = None
            if message is None:
                self.close()
            elif isinstance(message, CallReply):
                reply = self._open.get(message.number)
                if reply is not None and not reply.done():
                    reply.set_result(message)
            elif not isinstance(message, Call):
                self._heard(message)
            elif isinstance(message.request, GetSharedMemory):
                self._add(message)
            else:
                task = self._loop.create_task(self._reply(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _reply(self, call: Call) -> None:
        try:
            if self._answer is None:
                raise RequestRefused(f"the supervisor answers no {type(call.request).__name__}")
            self.tell(reply_of(call.number, await self._answer(call.request)))
        except FramegateError as error:
            self.tell(CallReply(call.number, fault=str(error)))
        except Exception as error:
            log.exception("a request of a child could not be answered")
            self.tell(CallReply(call.number, fault=redacted(f"{type(error).__name__}: {error}")))

    def _fail_open(self, error: NoReply) -> None:
        for reply in self._open.values():
            if not reply.done():
                reply.set_exception(error)

    def close(self) -> None:
        """Hang up; whoever waits for a reply hears that there will be none."""
        if self._end is not None:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()
            self._end = None
            self._waiting.clear()
            for task in self._answering:
                task.cancel()
            self._fail_open(NoReply("it has ended", gone=True))


def _is_call(message: ToWorker, number: int) -> bool:
    """Return whether it is the supervisor's own call of this number."""
    if not isinstance(message, Call) or isinstance(message.request, GetSharedMemory):
        return False
    return message.number == number
