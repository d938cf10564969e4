"""Print results as JSON lines. The printer is a reliable stage in the supervisor's process.

Its position is in the store like that of any stage, so after a restart it continues after the last
line, and the death of a worker cannot repeat a line. The death of the supervisor can, between a
line and its commit. If the output is a file that is continued (`>>`), the printer reads its last
lines and skips those. A pipe cannot be read, so it gets each line at least once.

Lines and commits are made for the results of REST_S together. The decoder may be TRAIL_FRAMES ahead
of the printer, not only its credit, because printing needs no pixels.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import Fenced, FrameLost, StoreRefused
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.spec import SourceSpec, StageSpec, WorkerSpec
from framegate.pipeline.contracts.stage import Context, Item, NoState, Stage
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.context_alone import context_alone
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import SetSources, Stop
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.runner import Runner
from framegate.pipeline.engine.stage_loop import StageLoop
from framegate.pipeline.engine.store_session import run_connected

log = logging.getLogger(__name__)

STAGE = "print"
REST_S = 0.4  # between two wake-ups: one for each result costs a tenth of a quiet camera's frame
TAIL_BYTES = 1 << 22  # far more than the printer writes between two commits
_BEGINS = b'{"v":'
_LAST_SEQ = 2**62
OutputBroken = Callable[[OSError], None]
PrinterDied = Callable[[Exception], None]


def print_spec(publisher: str) -> StageSpec:
    """Return the printer's entry in the graph, so that results stay until they are printed."""
    return StageSpec(STAGE, "", publisher, main=False, reliable=True, publishes=False, trails=True)


class Print(Stage[NoState]):
    """The stage that prints a line for each published result. It has no outputs.

    A result is printed if its position is after the last printed one of its source, so results of
    earlier runs and repeated frames are not printed.
    """

    takes_failed = True

    def __init__(
        self,
        context: Context,
        out: IO[bytes],
        broken: OutputBroken,
        printed: Mapping[str, Position],
        existing: Collection[bytes] = (),
    ) -> None:
        """Prepare to print to `out`.

        broken    called once, with the error, if `out` accepts no more
        printed   by source, the position after which to print
        existing  last lines that `out` already has
        """
        super().__init__(None, context)
        self._out = out
        self._broken = broken
        self._printed = dict(printed)
        self._existing = frozenset(existing)
        self._past_existing: set[str] = set()  # sources with a line that was not in `existing`

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Print results of these sources only, and none of their earlier runs."""
        past = _printed_before(sources)
        self._printed = {name: max(at, self._printed.get(name, at)) for name, at in past.items()}

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[None], Mapping[str, NoState]]:
        """Print each new result. An error of the output is reported once."""
        lines = []
        for item in batch:
            if item.position <= self._printed.get(item.source, START):
                continue
            line = json_line(item.record.said[self.context.before])
            if not self._is_existing(item.source, line):
                lines.append(line)
        self._printed |= {
            item.source: max(item.position, self._printed.get(item.source, START)) for item in batch
        }
        try:
            self._out.write(b"".join(lines))
            self._out.flush()
        except OSError as error:
            self._broken(error)
            self._broken = _ignore  # a second report would end the run at once
        return [None] * len(batch), states

    def _is_existing(self, source: str, line: bytes) -> bool:
        """Return whether a killed process printed the line. These are the first of each source."""
        if source not in self._past_existing and line in self._existing:
            return True
        self._past_existing.add(source)
        return False


def lines_of(descriptor: int) -> list[bytes]:
    """Return the last complete lines of a readable regular file, and remove an incomplete one.

    Return no lines for other descriptors.
    """
    try:
        size = os.fstat(descriptor).st_size
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not size:
            return []
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
        whole, _, torn = tail.rpartition(b"\n")
        if torn.startswith(_BEGINS[: len(torn)]):
            os.ftruncate(descriptor, size - len(torn))
    except OSError:
        return []
    return [line + b"\n" for line in whole.split(b"\n")]


def json_line(result: bytes | msgspec.Raw) -> bytes:
    """Return a result's msgpack as a line of JSON."""
    return msgspec.json.encode(records.as_builtins(bytes(result))) + b"\n"


class Unbuffered(io.FileIO):
    """A writer to a descriptor without a lock, for which the exit of the process would wait."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, data: Any) -> int:
        """Write all data. BlockingIOError if the descriptor is full and does not block."""
        left = memoryview(data)
        while left:
            written = super().write(left)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "the pipe is full and does not block")
            left = left[written:]
        return memoryview(data).nbytes


class Printer(threading.Thread):
    """The thread that runs the stage Print."""

    def __init__(
        self, spec: WorkerSpec, out: IO[bytes], broken: OutputBroken, died: PrinterDied
    ) -> None:
        """Prepare the thread, which calls `broken` if `out` fails, and `died` if it ends."""
        super().__init__(name="printer", daemon=True)
        self._died = died
        stage = spec.stage(STAGE)
        context = context_alone(_no_pixels, lambda: 0.0, Path(spec.folder), stage.input or "")
        past = _printed_before(spec.sources)
        printing = Print(context, out, broken, past, lines_of(out.fileno()))
        hosted = HostedStage(stage, printing, keep=0, asides={})
        self._end, theirs = control_messages.make_pair()
        self._end.shutdown(socket.SHUT_RD)  # discard the loop's messages, which no code reads
        self._line = ControlLine(theirs)
        self._url = spec.store
        runner = Runner(spec, [hosted], self._line, printing.take_sources)
        self._loop = StageLoop(runner, self._line, REST_S)

    def run(self) -> None:
        """Print until stopped, or until an error of the store, which the supervisor handles."""
        try:
            run_connected(self._url, self._loop, self._line)
        except (StoreRefused, Fenced) as error:
            log.debug("printer: %s", error)
        except Exception as error:
            log.debug("the printer ends", exc_info=True)
            self._died(error)

    def take_sources(self, sources: list[SourceSpec]) -> None:
        """Print results of these sources only. Any thread."""
        control_messages.send(self._end, SetSources(sources))

    def stop(self, patience_s: float | None) -> None:
        """End after the current batch. Wait at most `patience_s`, because its output may block."""
        control_messages.send(self._end, Stop())
        self.join(patience_s)
        self._end.close()


def _printed_before(sources: Sequence[SourceSpec]) -> dict[str, Position]:
    return {source.name: Position(source.past, _LAST_SEQ) for source in sources}


def _ignore(error: OSError) -> None:
    log.debug("printer: %s", error)


def _no_pixels(item: Item) -> AbstractContextManager[memoryview]:
    raise FrameLost(f"published frame {item.position} has no pixels any more")
