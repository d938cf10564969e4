"""Processes of a slot that must end with it, however it is killed."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ORPHANS_S = 5.0  # after which no process of a killed slot may run
_END_S = 300.0  # in which the kernel has freed the memory of all of them, however busy it is
_SIGKILL_PENDING = 1 << 8
_EXITING = 0x4  # a flag in /proc/PID/stat: it frees its memory, and runs none of its code


@contextmanager
def all_end(pids: Iterable[int]) -> Iterator[None]:
    """Assert that these processes end within ORPHANS_S after the block, which kills the first ones.

    A process that the kernel ends at that time has ended: it runs none of its own code any more,
    but on a busy machine it may take a while until the kernel has freed its memory.
    """
    with ExitStack() as stack:
        handles = {}
        for pid in pids:
            with suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)
                stack.callback(os.close, handles[pid])
        yield
        _wait(handles, ORPHANS_S)
        left = [pid for pid in handles if not _is_ending(pid)]
        assert not left, f"after {ORPHANS_S:.0f} s these run: {[_shown(pid) for pid in left]}"
        _wait(handles, _END_S)
        assert not handles, f"the kernel did not end {list(handles)}"


def _wait(handles: dict[int, int], seconds: float) -> None:
    """Remove those that have ended, until all have or the time is over."""
    deadline = time.monotonic() + seconds
    for pid, handle in list(handles.items()):
        ended, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        if ended:
            del handles[pid]


def _is_ending(pid: int) -> bool:
    """Return whether a process has ended, or is being ended by the kernel."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", status, re.MULTILINE)
    is_killed = any(int(mask, 16) & _SIGKILL_PENDING for mask in pending)
    return is_killed or stat[0] == "Z" or bool(int(stat[6]) & _EXITING)


def _shown(pid: int) -> str:
    """Return a process with its command line, for a message."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return f"{pid}: {b' '.join(words).decode(errors='replace')}"
    return str(pid)
