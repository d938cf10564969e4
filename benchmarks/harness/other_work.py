"""Measure the CPU time that other programs use while a benchmark runs (Linux).

A benchmark that shares its cores with other work measures that work too, so its result is not kept.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

MARK: Final = "FRAMEGATE_BENCHMARK"  # an environment variable that all processes of a run inherit
_EVERY_S: Final = 5.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PARENT, _FLAGS, _CPU_TIMES = 1, 6, slice(11, 15)  # fields of stat, after the command
_STEAL = 8  # field of the line `cpu`
_KERNEL_THREAD: Final = 0x00200000  # PF_KTHREAD: the kernel also works for us


class OtherWork:
    """CPU time of all processes that this one has not started, from `with` on.

    A process of ours is known by an environment variable, because a killed parent leaves its
    children to another one, or by its parent, because Valkey writes its title over its variables.
    A process that begins and ends between two samples counts with its parent. The time that a
    hypervisor gives to other machines (steal) counts as other work.
    """

    def __init__(self, every_s: float = _EVERY_S, minute_s: float = 60.0) -> None:
        self._every_s, self._minute_s = every_s, minute_s
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True, name="other-work")
        self._mark = os.environ.setdefault(MARK, uuid.uuid4().hex)
        self._began = time.monotonic()
        self._spent_s = 0.0
        self._minute = time.monotonic(), 0.0  # when the present one began, and what was spent then
        self.worst_minute = 0.0  # most cores in the mean of a minute; 0 before one is over

    def __enter__(self) -> OtherWork:
        self._sampler.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._sampler.join()

    @property
    def cores(self) -> float:
        """Return how many cores other work used in the mean; call it after `with`."""
        return self._spent_s / max(time.monotonic() - self._began, self._every_s)

    def _sample(self) -> None:
        before, stolen = dict(_others(self._mark)), _stolen_s()
        is_over = False
        while not is_over:
            is_over = self._over.wait(self._every_s)
            now, stolen_now = dict(_others(self._mark)), _stolen_s()
            self._spent_s += _growth_s(before, now) + stolen_now - stolen
            before, stolen = now, stolen_now
            self._end_minute()

    def _end_minute(self) -> None:
        began, spent_s = self._minute
        span_s = time.monotonic() - began
        if span_s >= self._minute_s:
            cores = (self._spent_s - spent_s) / span_s
            self.worst_minute = max(self.worst_minute, cores)
            self._minute = began + span_s, self._spent_s


def _growth_s(before: Mapping[int, float], now: Mapping[int, float]) -> float:
    """Return the CPU time between two samples, of the processes in both."""
    return sum(max(now[pid] - before[pid], 0.0) for pid in now.keys() & before.keys())


def _others(mark: str) -> Iterator[tuple[int, float]]:
    """Yield each living process that is not of the run, and its CPU seconds."""
    marked = f"{MARK}={mark}".encode()
    parents: dict[int, int] = {}
    spent_s: dict[int, float] = {}
    ours = {os.getpid()}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            process, pid = Path("/proc", name), int(name)
            fields = process.joinpath("stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[_FLAGS]) & _KERNEL_THREAD:
                continue
            if _is_marked(process, marked):
                ours.add(pid)
            own_and_children = list(map(int, fields[_CPU_TIMES]))
            # Process 1 waits for children that other processes left, so for ours too.
            counted = own_and_children[:2] if name == "1" else own_and_children
            parents[pid], spent_s[pid] = int(fields[_PARENT]), sum(counted) * _TICK_S
    for pid, used_s in spent_s.items():
        if ours.isdisjoint(_line_of(pid, parents)):
            yield pid, used_s


def _line_of(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    """Yield a process, its parent, the parent of that, and so on."""
    for _ in parents:  # a bound: a number may be given again while processes are read
        if pid not in parents:
            return
        yield pid
        pid = parents[pid]


def _is_marked(process: Path, marked: bytes) -> bool:
    with contextlib.suppress(PermissionError):
        return marked in process.joinpath("environ").read_bytes().split(b"\0")
    return False


def _stolen_s() -> float:
    first_line, _, _ = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")
    return int(first_line.split()[_STEAL]) * _TICK_S
