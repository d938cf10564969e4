"""Processes and threads: children that end with their parent, niceness, blocking calls (Linux)."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import faulthandler
import fcntl
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

from framegate.pipeline.system.retry import Backoff

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_parent = os.getpid()


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends. Runs in a new child, before its exec.

    The signal follows the parent's thread that made the child: start children in the main thread.
    """
    die_with_parent_of(_parent)


def die_with_parent_of(parent: int) -> None:
    """Do the same in the child itself, as its first action. Exit if the parent has ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def leave(code: int) -> NoReturn:
    """End this process with this exit code: run what atexit knows, flush the outputs, free nothing.

    The interpreter would first free every object of every module. That takes a fifth of the CPU
    time of a short command; the kernel frees all memory at once. Do not call it while a thread that
    is no daemon has work left, because the process does not wait for it.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, without a reader, or closed
            code = code or 1
    os._exit(code)


# -- Crashes of native code

_CRASHES: Final = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
)
TRACED: Final = {"PYTHONFAULTHANDLER": "1"}
"""A variable for children: they write the trace of a crash, from their first import on."""


def trace_crashes() -> None:
    """Write where each thread is to stderr if native code crashes. Call it before it is loaded.

    The lines name files and functions, and no values. They are not JSON, because a process that
    has crashed can only write plain text.
    """
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # no stderr, or closed
        faulthandler.enable()


def exit_in_words(code: int) -> str:
    """Return a process's exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    if -code in _CRASHES:
        name = signal.Signals(-code).name
        return f"signal {-code}, {name}: a crash; the lines before this one show where"
    return f"signal {-code}"


# -- Work with a low priority

_NICEST: Final = 19
# With 19, a command had no result of its imports after two minutes on a machine at load 15.
_NICEST_SESSION: Final = 10
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_ATTEMPTS: Final = 10
_ATTEMPT_S: Final = 0.12
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def step_back(nice: int) -> None:
    """Add `nice` to the niceness of this process, and of its session if it leads one.

    A kernel with autogroup, such as Debian's, shares the CPU between sessions first, so niceness
    counts within a session only. The niceness of a session is at most 10, with which it still gets
    a tenth of the share of another session.
    """
    if not nice:
        return
    niceness = os.nice(nice)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(min(niceness, _NICEST_SESSION)), encoding="utf-8")
        except BlockingIOError:  # the kernel accepts one such write in a tenth of a second
            time.sleep(_ATTEMPT_S)
        except OSError:  # no such kernel, or a container that forbids it
            return
        else:
            return


def give_way() -> None:
    """Continue with the lowest priority, in a child process with a session of its own if needed.

    The workers of a run have sessions of their own, so the niceness of a command alone would not
    count against them (see step_back). The parent forwards signals and ends with the exit code of
    the child. Call it before any thread starts.
    """
    if not _AUTOGROUP.exists():
        os.nice(_NICEST)
        return
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:
        for number in _FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda which, _: os.kill(child, which))
        signal.signal(signal.SIGTSTP, lambda *_: _pause(child))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:  # a signal
            code = 128 - code
        os._exit(code)
    die_with_parent_of(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.setsid()
    step_back(_NICEST)


def _pause(child: int) -> None:
    """Stop both processes, as Ctrl-Z does, and continue the child when this process continues."""
    os.kill(child, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(child, signal.SIGCONT)


async def start_module(
    module: str, *arguments: str, descriptors: Sequence[int]
) -> asyncio.subprocess.Process:
    """Run one of our modules as a child that inherits these descriptors.

    The module must call die_with_parent_of: this process has threads, so no Python may run between
    fork and exec. The standard input of the child is a pipe, its standard output is our standard
    error. OSError if the system has no process, descriptor or memory left.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=sys.stderr.fileno(),
        pass_fds=descriptors,
        env={**os.environ, **TRACED, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
    )


def is_unlocked(path: Path) -> bool:
    """Return whether no run uses this data folder now. OSError if no run ever did."""
    with (path / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- Blocking calls in threads, for which neither the event loop nor the exit of the process waits


P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may block, in a thread of its own, and return its result.

    Unlike `asyncio.to_thread`, it lets a program end while a call hangs. Cancelling the caller does
    not stop the call; its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result = None
        failure = None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits
            loop.call_soon_threadsafe(settle, result, failure)

    failures = 0
    while True:
        try:
            threading.Thread(target=call, name="apart", daemon=True).start()
            break
        except RuntimeError:  # the system has no thread left: a limit of processes, or no memory
            failures += 1
            await asyncio.sleep(Backoff().delay_s(failures, random.random()))
    return await future


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    pending = {task for task in tasks if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)


# -- Memory and CPU of a process, from /proc


_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21  # fields after the command's closing bracket


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """The memory and CPU time of a process.

    resident_bytes  resident memory, including shared pages such as those of frame stores
    cpu_s           CPU seconds since its start
    """

    resident_bytes: int
    cpu_s: float


def process_use(pid: int) -> ProcessUse | None:
    """Return the memory and CPU time of a process; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S
    return ProcessUse(int(fields[_RSS]) * _PAGE, cpu_s)
