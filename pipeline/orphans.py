"""No process of Framegate outlives the one that started it (Linux: prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_parent = os.getpid()


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends. Called in the child, before exec.

    The signal follows the parent's thread that made the child: start children in the main thread.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _parent:
        os._exit(1)
