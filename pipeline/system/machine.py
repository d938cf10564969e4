"""What this machine is, as the kernel says it, and whether a run's sources fit its descriptors."""

from __future__ import annotations

import ctypes
import os
import re
import resource
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from framegate.pipeline.contracts.errors import ConfigFaults

FILES_OF_A_RUN, FILES_OF_A_SOURCE = 128, 8  # in the process of a run that has most of them open
MOST_FILES = 1 << 20  # more than that is not asked for: some systems have no limit
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
    """Names of the vector units that /proc/cpuinfo tells of."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return [name for name, any_of in _VECTORS.items() if flags.intersection(any_of)]


def user_cache() -> Path:
    """This user's folder for what is measured once on this machine; it may not be there yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "framegate"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def queued_s() -> float:
    """Return the seconds for which the threads of this process have waited for a core so far.

    Threads that have ended do not count. It is 0 where the kernel does not account for it.
    """
    waited_ns = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has ended, or the kernel keeps no such account
            waited_ns += int((task / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def memory() -> tuple[int, int]:
    """Bytes in all and bytes available; a container's limit counts as all."""
    text = Path("/proc/meminfo").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    total, available = int(found["MemTotal"]) * 1024, int(found["MemAvailable"]) * 1024
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).exists() else "max"
        total = min(total, int(text)) if text.isdigit() else total
    return total, min(total, available)


def open_files() -> int:
    """Descriptors that this process may have open, once it has asked for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft, min(hard, MOST_FILES)) if hard >= 0 else MOST_FILES


def files_needed(sources: int) -> int:
    """Descriptors that a process of a run with so many sources may need, roughly."""
    return FILES_OF_A_RUN + FILES_OF_A_SOURCE * sources


def take_open_files(sources: int) -> int:
    """Let this process and those it starts have as many descriptors open as they may; gives how
    many. ConfigFaults if these are too few for so many sources.
    """
    most, needed = open_files(), files_needed(sources)
    if most < needed:
        raise ConfigFaults(
            [
                f"{sources} sources need about {needed} open files, and {most} are allowed: "
                f"ulimit -n {needed}, LimitNOFILE={needed} in a systemd unit, --ulimit "
                f"nofile={needed} for a container; or run fewer sources at once"
            ]
        )
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    return most


def free_bytes(folder: Path) -> int:
    """What is free where the folder is, or will be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    stat = os.statvfs(existing)
    return stat.f_bavail * stat.f_frsize


def clock_is_synchronised() -> bool:
    """Whether something (NTP, PTP) keeps the clock right, as far as the kernel knows."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return state != _TIME_ERROR


def devices(patterns: Iterable[str]) -> dict[str, bool]:
    """Device files that match, and whether this user may open each."""
    found = (path for pattern in patterns for path in sorted(Path("/dev").glob(pattern)))
    return {str(path): os.access(path, os.R_OK | os.W_OK) for path in found}
