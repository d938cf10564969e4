"""A real terminal for tests: tmux holds it, and says what a person would see on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.own_models import measured_cache
from tests.support.runs import DEADLINE_S, environment, wait_until


class Terminal:
    """A shell in tmux, of a size, in a folder; `framegate` in it is this checkout's command."""

    def __init__(self, folder: Path, columns: int = 80, lines: int = 24) -> None:
        """Skips the test where there is no tmux."""
        if shutil.which("tmux") is None:
            pytest.skip("needs tmux")
        self.folder = folder
        self._socket = folder / "tmux"
        command = f"{sys.executable} -m framegate"
        start = f'framegate() {{ {command} "$@"; echo "ended with $?"; }}; PS1=\'> \''
        (folder / "rc").write_text(start, encoding="utf-8")
        env = {**environment(), "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm"}
        env["XDG_CACHE_HOME"] = str(measured_cache(folder / "cache"))
        env.pop("TMUX", None)
        size = ("-x", str(columns), "-y", str(lines))
        shell = f"bash --rcfile {folder / 'rc'} -i"
        self._env = env
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(folder), shell)
        self.until(">")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *words],
            env=self._env, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
         encoding="utf-8")  # fmt: skip
        return done.stdout

    def type(self, line: str) -> None:
        """Type a line and press return."""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._tmux("send-keys", "C-c")

    def shows(self) -> list[str]:
        """All lines since the beginning, also those that went out at the top; one that was wider
        than the terminal is one; without empty ones at the end.
        """
        text = self._tmux("capture-pane", "-p", "-J", "-S", "-")
        return [line.rstrip() for line in text.rstrip().splitlines()]

    def until(self, words: str, deadline_s: float = DEADLINE_S) -> list[str]:
        """Wait until a line has these words; all lines then."""
        wait_until(
            f"the terminal shows {words!r}: {self.shows}",
            lambda: any(words in line for line in self.shows()),
            deadline_s,
        )
        return self.shows()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
