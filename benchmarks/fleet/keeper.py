"""The engine of hosts without one: `keeper.py STORE FOLDER SLOT...`.

It restarts slots as systemd does with `deploy/framegate-slot@.service`; each has its data in
FOLDER/SLOT. In a pid namespace it is the init of its host: all processes of the host end with it.
It imports nothing of ours, because its memory is measured.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Final

RESTART_S: Final = 2.0  # RestartSec
FINAL: Final = (2, 75)  # RestartPreventExitStatus
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


class Keeper:
    """Keeps commands alive until SIGTERM."""

    def __init__(self, commands: list[list[str]]) -> None:
        """Keep the commands."""
        self._commands = commands
        self._children: dict[int, list[str]] = {}
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    def keep(self) -> None:
        """Start each command, again and again, until it must not be restarted.

        RESTART_S after the end of a command, all others wait as well: two ends are rare.
        """
        for command in self._commands:
            self._start(command)
        while self._children:
            pid, status = os.wait()  # reaps all others, too, as an init must
            if pid not in self._children:
                continue
            command = self._children.pop(pid)
            if os.waitstatus_to_exitcode(status) not in FINAL and not self._is_ending:
                time.sleep(RESTART_S)
                self._start(command)

    def _start(self, command: list[str]) -> None:
        if self._is_ending:
            return
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_keeper)
        self._children[child.pid] = command

    def _end(self, *_: object) -> None:
        self._is_ending = True
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)


def _die_with_keeper() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Keep `framegate run --slot SLOT` alive for each slot."""
    store, folder, *slots = sys.argv[1:]
    os.chdir(folder)
    Keeper([_command(slot, store) for slot in slots]).keep()


def _command(slot: str, store: str) -> list[str]:
    words = ["run", "--slot", slot, "-d", slot, "--store", store, "--http", "off"]
    return [sys.executable, "-m", "framegate.cli", *words]


if __name__ == "__main__":
    main()
