"""Properties of this machine from the kernel: CPU, memory, disk, descriptors, clock, devices."""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from framegate.pipeline.contracts.errors import ConfigFaults

# Open files of a run's process with the most of them.
FILES_OF_A_RUN = 128
FILES_OF_A_SOURCE = 8
MOST_FILES = 1 << 20  # requested if the system has no limit
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a container; the host's own root has none
_GROUP = Path("/sys/fs/cgroup")  # of a container
_MEMORY_FILES = (  # limit and use, of control groups of versions 2 and 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than any architecture's struct timex
_VECTORS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile",),
    "NEON": ("asimd",),
}


def vector_units(cpuinfo: str) -> list[str]:
    """Return the names of the vector units in the text of /proc/cpuinfo."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if match is None:
        return []
    flags = match[1].split()
    return [name for name, names in _VECTORS.items() if not set(names).isdisjoint(flags)]


def user_cache() -> Path:
    """Return this user's folder for measurements of this machine; it may not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "framegate"


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    A container's limit of CPU time counts as that many cores, rounded up.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        limit = cores_of_limit(_CPU_LIMIT.read_text(encoding="utf-8"))
    except OSError:  # no limit, or a kernel with control groups of version 1
        return allowed
    return min(allowed, limit or allowed)


def cores_of_limit(cpu_max: str) -> int | None:
    """Return the number of cores in the text of a cpu.max, rounded up; None: there is no limit.

    cpu_max  the microseconds of CPU time that a control group may use in each period, or max;
             then the microseconds of the period
    """
    used_us, period_us = cpu_max.split()
    if used_us == "max":
        return None
    return math.ceil(int(used_us) / int(period_us))


def queued_s() -> float:
    """Return the seconds for which the threads of this process have waited for a core so far.

    Threads that have ended do not count. It is 0 if the kernel does not measure it.
    """
    waited_ns = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended, or the kernel does not measure it
            waited_ns += int((task / "schedstat").read_text(encoding="utf-8").split()[1])
    return waited_ns / 1e9


def memory() -> tuple[int, int]:
    """Return the total and the available memory in bytes.

    A container's limit is its total, of which it uses a part. Cached files do not count as used.
    """
    text = Path("/proc/meminfo").read_text(encoding="utf-8")
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    total = int(kilobytes["MemTotal"]) * 1024
    available = int(kilobytes["MemAvailable"]) * 1024
    for limit, use in _MEMORY_FILES:
        with suppress(OSError, ValueError):  # there is no such control group, or its limit is max
            most = int((_GROUP / limit).read_text(encoding="utf-8"))
            used = int((_GROUP / use).read_text(encoding="utf-8"))
            status = (_GROUP / use).with_name("memory.stat").read_text(encoding="utf-8")
            files = re.findall(r"^(?:in)?active_file (\d+)$", status, re.MULTILINE)
            free = max(0, most - used + sum(map(int, files)))
            total = min(total, most)
            available = min(available, free)
    return total, min(total, available)


def open_files() -> int:
    """Return the number of descriptors that this process may have if it raises its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 0:
        return MOST_FILES
    return max(soft, min(hard, MOST_FILES))


def files_needed(sources: int) -> int:
    """Return roughly how many descriptors a process of a run with that many sources needs."""
    return FILES_OF_A_RUN + FILES_OF_A_SOURCE * sources


def take_open_files(sources: int) -> int:
    """Raise the limit of descriptors of this process and its children, and return it.

    ConfigFaults if the limit is too low for that many sources.
    """
    limit = open_files()
    needed = files_needed(sources)
    if limit < needed:
        raise ConfigFaults(
            [
                f"{sources} sources need about {needed} open files, and {limit} are allowed: "
                f"ulimit -n {needed}, LimitNOFILE={needed} in a systemd unit, --ulimit "
                f"nofile={needed} for a container; or run fewer sources at once"
            ]
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which may be missing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def clock_is_synchronised() -> bool:
    """Return whether the clock is synchronised (NTP, PTP), as far as the kernel knows."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return state != _TIME_ERROR


def devices(patterns: Iterable[str]) -> dict[str, bool]:
    """Return the device files that match the patterns, and whether this user may open each."""
    access = {}
    for pattern in patterns:
        for path in sorted(Path("/dev").glob(pattern)):
            access[str(path)] = os.access(path, os.R_OK | os.W_OK)
    return access
