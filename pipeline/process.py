"""Processes and threads: none outlives its parent, calls that block run apart, what one uses."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from framegate.pipeline.retry import Backoff

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_parent = os.getpid()


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends. Runs in a new child, before its exec.

    The signal follows the parent's thread that made the child: start children in the main thread.
    """
    die_with_parent_of(_parent)


def die_with_parent_of(parent: int) -> None:
    """The same, called by the child itself: first of all, as it may be without a parent by then."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


async def start_module(
    module: str, *words: str, descriptors: Sequence[int]
) -> asyncio.subprocess.Process:
    """Run a module of ours as a child; these descriptors are its, too.

    It sees by itself that it ends with this process (die_with_parent_of): nothing of ours runs
    between fork and exec, for this process has threads.

    Its standard input is a pipe, and what it prints goes where our errors go. OSError if the
    system has no process, descriptor or memory for it now.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=sys.stderr.fileno(),
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
    )


def is_unlocked(path: Path) -> bool:
    """Whether a run has used a folder and none uses it now. OSError if no run ever has."""
    with (path / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- Calls that may block, in threads of their own: neither the event loop nor the exit waits.


P = ParamSpec("P")
T = TypeVar("T")


async def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function gives. Unlike with `asyncio.to_thread`, a program whose call hangs can end.

    A caller that is cancelled does not stop the call; what it gives is dropped.
    """
    loop = asyncio.get_running_loop()
    given: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if given.cancelled():
            return
        if error is not None:
            given.set_exception(error)
        else:
            given.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result, failed = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    failures = 0
    while True:
        try:
            threading.Thread(target=call, name="apart", daemon=True).start()
            break
        except RuntimeError:  # no thread for it now: a limit of processes, or no memory
            failures += 1
            await asyncio.sleep(Backoff().delay_s(failures, random.random()))
    return await given


# -- Memory and CPU of a process, from /proc (Linux).


_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21  # fields after the command's closing bracket


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """resident_bytes counts shared pages, the frame store's too; cpu_s is since its start."""

    resident_bytes: int
    cpu_s: float


def process_use(pid: int) -> ProcessUse | None:
    """None if there is no such process any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S
    return ProcessUse(int(fields[_RSS]) * _PAGE, cpu_s)
