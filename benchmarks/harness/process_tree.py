"""CPU time and memory of a process and all below it, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The module of a worker in this checkout, and in the older ones that --before measures.
WORKER_MODULES = ("framegate.pipeline.run.worker_main", "framegate.pipeline.run.worker")

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PARENT, _UTIME, _CSTIME = 1, 11, 14  # fields after the command's closing bracket


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of each process since it began, with the children that it has waited for."""

    by_pid: Mapping[int, float]
    commands: Mapping[int, str]

    def since(self, before: Usage) -> float:
        """CPU seconds of all of them since `before`."""
        return sum(self.by_command_since(before).values())

    def by_command_since(self, before: Usage) -> dict[str, float]:
        """The same, by what the process runs."""
        spent: dict[str, float] = {}
        for pid, seconds in self.by_pid.items():
            name = self.commands[pid]
            spent[name] = spent.get(name, 0.0) + seconds - before.by_pid.get(pid, 0.0)
        return spent


def usage(root: int) -> Usage:
    """CPU of `root` and all its living descendants, to a clock tick (10 ms) a process.

    A process that ends counts with its parent once that one has waited for it, so a child of the
    store that rewrites its file is in whether it lives at the sample or not.
    """
    by_pid, commands = {}, {}
    for pid, fields in tree(root).items():
        by_pid[pid] = sum(map(int, fields[_UTIME : _CSTIME + 1])) * _TICK_S
        commands[pid] = _command(pid)
    return Usage(by_pid, commands)


def tree(root: int) -> dict[int, list[str]]:
    """The fields of /proc/PID/stat after the command, of `root` and all its descendants."""
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))) is not None:
            stats[int(name)] = fields
    found = {root} & stats.keys()
    while more := {p for p, f in stats.items() if int(f[_PARENT]) in found and p not in found}:
        found |= more
    return {pid: stats[pid] for pid in found}


def memory_bytes(root: int, without: int | None = None) -> int:
    """Proportional set size of the tree: a shared page counts once.

    without  process whose own tree does not count
    """
    pids = set(tree(root))
    if without is not None:
        pids -= set(tree(without))
    return sum(_mapped(pid, "Pss") for pid in pids)


def own_memory_bytes(root: int) -> int:
    """Memory of the tree that is no file's: what can leak, whoever else maps the same files."""
    return sum(memory_of(pid) for pid in tree(root))


def memory_of(pid: int) -> int:
    """Return the memory of one process that is no file's, in bytes; 0 if it has ended."""
    return _mapped(pid, "Anonymous")


def switches(root: int) -> int:
    """How often the tree's living threads gave up a core by themselves: to wait, so to be woken."""
    found = 0
    for pid in tree(root):
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                words = status.read_text(encoding="utf-8").split()
                found += int(words[words.index("voluntary_ctxt_switches:") + 1])
    return found


def system_calls(root: int, seconds: float) -> int | None:
    """How many system calls the tree makes in the next so many seconds; None: none may count them.

    `perf` counts in the kernel, so the tree goes on nearly as fast as without.
    """
    pids = ",".join(map(str, tree(root)))
    counting = ("perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pids)
    try:
        done = subprocess.run(
            (*counting, "--", "sleep", str(seconds)),
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    count = done.stderr.partition(",")[0].strip()
    return int(count) if count.isdigit() else None


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _mapped(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")), 0)


def _command(pid: int) -> str:
    """A worker by its own name; the supervisor is the run; any other by its program."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        for module in WORKER_MODULES:
            if module in words:
                return words[words.index(module) + 1]
        if "framegate.cli" in words or "framegate" in words:
            return "supervisor"
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return "ended"
