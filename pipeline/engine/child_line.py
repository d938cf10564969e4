"""The supervisor's end of the line to a child, which is a worker or the HTTP process.

`control_messages` describes the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from framegate.pipeline.contracts.errors import FramegateError, NoReply, RequestRefused
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.engine.control_messages import (
    SEND_AGAIN_S,
    AnyRequest,
    Call,
    CallReply,
    GetSharedMemory,
    MessageLost,
    SharedMemory,
    ToSupervisor,
    ToWorker,
    make_pair,
    receive_from_child,
    reply_of,
    send,
    supersedes,
    value_of,
)
from framegate.pipeline.system.process import start_module

log = logging.getLogger(__name__)

R = TypeVar("R")
AnswerShared = Callable[[GetSharedMemory], tuple[SharedMemory, int | None]]
AnswerRequest = Callable[[AnyRequest], Awaitable[Any]]


async def start_child(
    module: str, *names: str, descriptors: Sequence[int] = ()
) -> tuple[socket.socket, asyncio.subprocess.Process]:
    """Start a module as a child process. Return the supervisor's end of its line, and the process.

    Its arguments are `names`, the descriptor of its end of the line, the id of this process, and
    `descriptors`, which it inherits. OSError.
    """
    ours, theirs = make_pair()
    try:
        inherited = (theirs.fileno(), *descriptors)
        numbers = (theirs.fileno(), os.getpid(), *descriptors)
        arguments = [*names, *map(str, numbers)]
        process = await start_module(module, *arguments, descriptors=inherited)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


async def give_spec(process: asyncio.subprocess.Process, spec: msgspec.Struct) -> None:
    """Write a spec as JSON to the child's standard input, and close it. A child may have ended."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(msgspec.json.encode(spec))
        await process.stdin.drain()
    process.stdin.close()


class ChildLine:
    """The supervisor's end of the line to one child. All methods run in the event loop.

    Nothing waits in the loop: messages that the child or the system does not take now are queued in
    `_waiting`, in order, and sent as soon as it takes them. While `_is_blocked`, the loop will call
    `_unblock`.
    """

    def __init__(
        self,
        end: socket.socket,
        on_notice: Callable[[ToSupervisor], None],
        shared: AnswerShared,
        answer: AnswerRequest | None = None,
    ) -> None:
        """Serve the supervisor's end of a pair.

        on_notice  called with each notice
        shared     answers requests for shared memory; its descriptor is closed after sending
        answer     answers any other request, or raises RequestRefused
        """
        self._end: socket.socket | None = end
        self._on_notice = on_notice
        self._shared = shared
        self._answer = answer
        # Also holds the child's own calls for shared memory, which `_send_one` answers.
        self._waiting: deque[ToWorker] = deque()
        self._open: dict[int, asyncio.Future[CallReply]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._is_blocked = False
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self.hear)

    def tell(self, notice: ToWorker) -> None:
        """Send a notice; do nothing if the child has ended."""
        if self._end is None:
            return
        if self._waiting:
            self._waiting = deque(m for m in self._waiting if not supersedes(notice, m))
        self._add(notice)

    async def ask(self, request: AnyRequest, kind: type[R], patience_s: float | None = None) -> R:
        """Return the child's reply, of type `kind`.

        Raises RequestRefused if the child refuses, and NoReply if it has ended, ends meanwhile, or
        takes longer than `patience_s` seconds (None: no limit).
        """
        if self._end is None:
            raise NoReply("it has ended", gone=True)
        self._calls += 1
        number = self._calls
        reply: asyncio.Future[CallReply] = self._loop.create_future()
        self._open[number] = reply
        try:
            self._add(Call(number, request))
            return value_of(await asyncio.wait_for(reply, patience_s), kind)
        except TimeoutError:
            raise NoReply(f"no reply in {patience_s:g} s") from None
        finally:
            del self._open[number]
            # The queue of a child that takes nothing must not grow with each timeout.
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
                    self._loop.call_later(SEND_AGAIN_S, self._unblock)
            else:
                self._waiting.popleft()
                continue
            self._is_blocked = True
            return

    def _send_one(self, end: socket.socket, message: ToWorker) -> None:
        """Send a message, or answer the child's call for shared memory.

        The call is answered here and not on arrival: otherwise this process would hold a descriptor
        for each call of a child that takes no messages.
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
        """Handle all messages that the child has sent."""
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
                self._on_notice(message)
            elif isinstance(message.request, GetSharedMemory):
                self._add(message)
            else:
                task = self._loop.create_task(self._reply(message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _reply(self, call: Call) -> None:
        try:
            if self._answer is None:
                kind = type(call.request).__name__
                raise RequestRefused(f"the supervisor does not answer {kind}")
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
        """Close the line; open requests fail with NoReply."""
        if self._end is None:
            return
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        self._end = None
        self._waiting.clear()
        for task in self._answering:
            task.cancel()
        self._fail_open(NoReply("it has ended", gone=True))


def _is_call(message: ToWorker, number: int) -> bool:
    """Return whether a message is the supervisor's own call of this number."""
    if not isinstance(message, Call) or isinstance(message.request, GetSharedMemory):
        return False
    return message.number == number
