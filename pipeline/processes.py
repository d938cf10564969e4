"""Memory and CPU of a process, from /proc (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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
