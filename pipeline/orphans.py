"""No process of Framegate outlives the one that started it (Linux: prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import signal
import subprocess
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
    """The same, called by the child itself, which knows the process id of its parent."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


async def start_module(
    module: str, *words: str, descriptors: Sequence[int]
) -> asyncio.subprocess.Process:
    """Run a module of ours as a child that ends with this process; these descriptors are its, too.

    Its standard input is a pipe, and what it prints goes where our errors go. OSError if the
    system has no process, descriptor or memory for it now.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            pass_fds=descriptors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    except subprocess.SubprocessError as error:  # between fork and exec: no memory, say
        raise OSError(errno.EAGAIN, str(error)) from error


def is_unlocked(path: Path) -> bool:
    """Whether a run has used a folder and none uses it now. OSError if no run ever has."""
    with (path / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
