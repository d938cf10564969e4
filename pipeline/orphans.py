"""No process of Framegate outlives the one that started it (Linux: prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

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
