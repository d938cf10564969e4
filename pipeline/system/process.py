"""Children that end with their parent, one that lets all others go first, calls that block in
threads, what a process uses (Linux).
"""

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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

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
    """Do the same in the child itself, first of all: the parent may have ended by then."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


# -- Work that lets whatever else wants the CPU go first.

_NICEST: Final = 19
# With 19, a command had no result of its imports after two minutes on a machine at load 15.
_NICEST_SESSION: Final = 10
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_TRIES, _TRY_AGAIN_S = 10, 0.12
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def step_back(nice: int) -> None:
    """Let all others go first that are less nice; 0: as it is.

    Where the kernel shares the CPU between sessions first (autogroup, as Debian's does), a nice
    value counts among the processes of one session only. So the session of a process that leads it
    becomes nicer as a whole: by up to 10, with which it still gets a tenth of another's share.
    """
    if not nice:
        return
    now = os.nice(nice)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            _AUTOGROUP.write_text(str(min(now, _NICEST_SESSION)))
        except BlockingIOError:  # another one did so within this tenth of a second
            time.sleep(_TRY_AGAIN_S)
        except OSError:  # no such kernel, or a container that forbids it
            return
        else:
            return


def give_way() -> None:
    """Go on as the last of all that want the CPU, in a child if that takes a session of its own.

    The workers of a run have sessions of their own, so the nice value of a command would not count
    against them (see step_back). The parent passes signals on, and ends as the child does. Call it
    before there are threads.
    """
    if not _AUTOGROUP.exists():
        os.nice(_NICEST)
        return
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    if child := os.fork():
        for number in _PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda which, _: os.kill(child, which))
        signal.signal(signal.SIGTSTP, lambda *_: _pause(child))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    die_with_parent_of(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.setsid()
    step_back(_NICEST)


def _pause(child: int) -> None:
    """Stop both, as Ctrl-Z does; whatever continues this process continues the child."""
    os.kill(child, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(child, signal.SIGCONT)


async def start_module(
    module: str, *words: str, descriptors: Sequence[int]
) -> asyncio.subprocess.Process:
    """Run a module of ours as a child that inherits these descriptors.

    The module itself calls die_with_parent_of: this process has threads, so that no Python may run
    between fork and exec. Its standard input is a pipe, and what it prints goes where our errors
    go. OSError if the system has no process, descriptor or memory for it now.
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
    """Return whether no run uses this data folder now. OSError if none ever has."""
    with (path / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- Calls that may block, in threads of their own: neither the event loop nor the exit waits.


P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that may block, in a thread of its own, and return its result.

    Unlike with `asyncio.to_thread`, a program whose call hangs can end. A caller that is cancelled
    does not stop the call; its result is dropped.
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


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    left = {task for task in tasks if not task.done()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)


# -- Memory and CPU of a process, from /proc (Linux).


_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _RSS = 11, 12, 21  # fields after the command's closing bracket


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What a process uses: resident_bytes with shared pages, such as the frame store's; CPU seconds
    since its start.
    """

    resident_bytes: int
    cpu_s: float


def process_use(pid: int) -> ProcessUse | None:
    """Return what a process uses; None if there is no such process any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S
    return ProcessUse(int(fields[_RSS]) * _PAGE, cpu_s)
