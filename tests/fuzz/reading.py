"""Places are read in a process of their own: a decoder that crashes or hangs is told, not shared.

As a command it reads one place a line from stdin, and says in a line what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.options import DecodeOptions

OPTIONS: Final = DecodeOptions(
    max_damaged=50, max_pixels=1 << 20, open_timeout_s=0.5, read_timeout_s=0.5
)
STALL_S: Final = 1.0
MOST_FRAMES: Final = 100
MOST_S: Final = 2.0  # of reading, once it is open
HANGS_S: Final = 60.0  # on a busy machine; each wait of a reader ends within two seconds
_CLEAR_PEAK: Final = "5"


class Outcome(msgspec.Struct, frozen=True):
    """What came of a place.

    frames   that were given and copied
    reason   of its fault, None without one; text: what it says
    error    the traceback of anything else that was raised, or how the process ended
    grew_kb  the most memory that it took
    """

    frames: int = 0
    reason: str | None = None
    text: str = ""
    error: str | None = None
    grew_kb: int = 0


def read(place: str, live: bool) -> Outcome:
    """Open it as a run does, and copy its frames."""
    frames, reason, text, error = 0, None, "", None
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="utf-8")
    before = _kb("VmRSS:")
    try:
        request = Request(place, live=live, stall_s=STALL_S)
        kind = CameraSource if live else FileSource
        with contextlib.closing(kind(request, OPTIONS)) as source:
            until = time.monotonic() + MOST_S
            for frame in source:
                if frame is not None:
                    frame.write(memoryview(bytearray(frame.nbytes)))
                    frames += 1
                if frames >= MOST_FRAMES or time.monotonic() > until:
                    break
    except SourceFault as fault:
        reason, text = fault.reason, str(fault)
    except BaseException:
        error = traceback.format_exc()
    return Outcome(frames, reason, text, error, _kb("VmHWM:") - before)


def _kb(name: str) -> int:
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition(name)[2].split()[0])


class Reader:
    """The process that reads; a new one after each that ended. One thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, place: str, live: bool) -> Outcome:
        """What came of it; an error if the process died of it, or hung."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([place, live]).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANGS_S)
        line = process.stdout.readline() if ready else b""
        if line:
            return msgspec.json.decode(line, type=Outcome)
        self.close()
        return Outcome(error=f"its process ended: {process.returncode}" if ready else "it hangs")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.fuzz.reading"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _main() -> None:
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no outcome
    for line in sys.stdin.buffer:
        told.write(msgspec.json.encode(read(*json.loads(line))) + b"\n")
        told.flush()


if __name__ == "__main__":
    _main()
