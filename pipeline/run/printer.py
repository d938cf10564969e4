"""Prints results as JSON lines: a reliable stage in the supervisor's own process.

Its position is in the store like any stage's, so after a restart of anything it goes on after the
last line; and as it shares the supervisor's life, no kill of a worker can print a line twice. A
kill of the supervisor can, between a line and its commit: a file that is written on (`>>`) is
looked at for what it has already. What a pipe has taken nobody can know: there a line comes at
least once.
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
from framegate.pipeline.engine import control
from framegate.pipeline.engine.alone import context_alone
from framegate.pipeline.engine.control import ControlLine, SetSources, Stop
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.reconnect import run_connected
from framegate.pipeline.engine.runner import Runner
from framegate.pipeline.engine.stage_loop import StageLoop

log = logging.getLogger(__name__)

STAGE = "print"
TAIL_BYTES = 1 << 22  # far more than is printed between two commits
_BEGINS = b'{"v":'
_LAST_SEQ = 2**62
OutputBroken = Callable[[OSError], None]
PrinterDied = Callable[[Exception], None]


def print_spec(publisher: str) -> StageSpec:
    """Return the stage as the others see it: they wait for it."""
    return StageSpec(STAGE, "", publisher, main=False, reliable=True, publishes=False)


class Print(Stage[NoState]):
    """One published result in, one line out; nothing is emitted.

    printed  where to go on after: results of earlier runs are not printed, and those whose hop
             was lost are not printed again
    """

    takes_failed = True

    def __init__(
        self,
        context: Context,
        out: IO[bytes],
        broken: OutputBroken,
        printed: Mapping[str, Position],
        there: Collection[bytes] = (),
    ) -> None:
        """there: lines that `out` has already."""
        super().__init__(None, context)
        self._there, self._past_there = frozenset(there), set[str]()
        self._out, self._broken = out, broken
        self._printed = dict(printed)

    def take_sources(self, sources: Sequence[SourceSpec]) -> None:
        """Print results of these sources from now on; of a new one not those of earlier runs."""
        past = _printed_before(sources)
        self._printed = {name: max(at, self._printed.get(name, at)) for name, at in past.items()}

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[None], Mapping[str, NoState]]:
        """Print each result; output that nobody takes any more ends the run."""
        fresh = [i for i in batch if i.position > self._printed.get(i.source, START)]
        lines = [json_line(item.record.said[self.context.before]) for item in fresh]
        if self._there:
            lines = [
                line
                for item, line in zip(fresh, lines, strict=True)
                if not self._is_there(item.source, line)
            ]
        self._printed |= {item.source: item.position for item in fresh}
        try:
            self._out.write(b"".join(lines))
            self._out.flush()
        except OSError as error:
            self._broken(error)
            self._broken = _told  # a second word would end the run at once
        return [None] * len(batch), states

    def _is_there(self, source: str, line: bytes) -> bool:
        """Return whether a killed process has printed it: those lines come first in each source."""
        if source not in self._past_there and line in self._there:
            return True
        self._past_there.add(source)
        return False


def lines_of(descriptor: int) -> list[bytes]:
    """Return the last whole lines of a regular file that is written to, and may be read; a line
    that a kill broke off is cut off. Of anything else none.
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
    """Writes to a descriptor without a lock that an exit would wait for."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, data: Any) -> int:
        """Write all of it. BlockingIOError if the descriptor does not block, and is full."""
        left = memoryview(data)
        while left:
            written = super().write(left)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "it is full and does not block")
            left = left[written:]
        return memoryview(data).nbytes


class Printer(threading.Thread):
    """The thread that serves Print."""

    def __init__(
        self, spec: WorkerSpec, out: IO[bytes], broken: OutputBroken, died: PrinterDied
    ) -> None:
        """Both are called in the thread: `broken` if `out` takes no more, `died` as it ends."""
        super().__init__(name="printer", daemon=True)
        self._died = died
        stage = spec.stage(STAGE)
        context = context_alone(_no_pixels, lambda: 0.0, Path(spec.folder), stage.input or "")
        past = _printed_before(spec.sources)
        printing = Print(context, out, broken, past, lines_of(out.fileno()))
        hosted = HostedStage(stage, printing, keep=0, asides={})
        self._end, theirs = control.make_pair()
        self._end.shutdown(socket.SHUT_RD)  # nobody listens: what it says must not fill the pair
        self._line = ControlLine(theirs)
        self._url = spec.store
        runner = Runner(spec, [hosted], self._line, printing.take_sources)
        self._loop = StageLoop(runner, self._line)

    def run(self) -> None:
        """Print until stopped, or until the supervisor, too, finds what is wrong with the store."""
        try:
            run_connected(self._url, self._loop, self._line)
        except (StoreRefused, Fenced) as error:
            log.debug("printer: %s", error)
        except Exception as error:
            log.debug("the printer ends", exc_info=True)
            self._died(error)

    def take_sources(self, sources: list[SourceSpec]) -> None:
        """Print results of these from now on."""
        control.send(self._end, SetSources(sources))

    def stop(self, patience_s: float | None) -> None:
        """End after the batch in hand; one whose output nobody takes is not waited for."""
        control.send(self._end, Stop())
        self.join(patience_s)
        self._end.close()


def _printed_before(sources: Sequence[SourceSpec]) -> dict[str, Position]:
    return {source.name: Position(source.past, _LAST_SEQ) for source in sources}


def _told(error: OSError) -> None:
    log.debug("printer: %s", error)


def _no_pixels(item: Item) -> AbstractContextManager[memoryview]:
    raise FrameLost(f"published frame {item.position} has no pixels any more")
