"""The engine of hosts without one: `keeper.py SLOT STORE FOLDER`.

It restarts a slot as systemd does with `deploy/framegate-slot@.service`. In a pid namespace it is
the init of its host: all processes of the host end with it. It imports nothing of ours, because its
memory is measured.
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
    """Keeps a command alive until SIGTERM."""

    def __init__(self, command: list[str]) -> None:
        """Keep the command."""
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    def keep(self) -> None:
        """Start the command, again and again, until it must not be restarted."""
        while not self._is_ending:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_keeper
            )
            if self._wait(self._child.pid) in FINAL or self._is_ending:
                return
            time.sleep(RESTART_S)

    def _end(self, *_: object) -> None:
        self._is_ending = True
        if self._child is not None:
            self._child.terminate()

    @staticmethod
    def _wait(wanted: int) -> int:
        """Return the exit code of a child; reap all others, as an init must."""
        while True:
            pid, status = os.wait()
            if pid == wanted:
                return os.waitstatus_to_exitcode(status)


def _die_with_keeper() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Keep `framegate run --slot SLOT` alive."""
    slot, store, folder = sys.argv[1:]
    os.chdir(folder)
    words = ["run", "--slot", slot, "-d", "data", "--store", store, "--http", "off"]
    Keeper([sys.executable, "-m", "framegate.cli", *words]).keep()


if __name__ == "__main__":
    main()
