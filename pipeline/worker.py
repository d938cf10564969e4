"""The process of a worker: open the stages it hosts, then serve them until ordered to stop."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from pipeline.control import ControlLine, Failed, Ready
from pipeline.errors import Exit, Fenced, FramegateError, StageRefused
from pipeline.hosted_stage import HostedStage
from pipeline.ingest_loop import IngestLoop
from pipeline.loading import load
from pipeline.logs import set_up_logging
from pipeline.orphans import die_with_parent_of
from pipeline.runner import Runner
from pipeline.spec import StageSpec, WorkerSpec
from pipeline.stage import Context, Item, Stage
from pipeline.stage_loop import StageLoop
from pipeline.worker_loop import run_connected

log = logging.getLogger(__name__)


def main() -> int:
    """Run a worker: name, control socket, parent as arguments; the spec on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: orders decide
    line = ControlLine(socket.socket(fileno=int(sys.argv[2])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSpec)
    die_with_parent_of(int(sys.argv[3]))
    set_up_logging(spec.log_level, spec.name)
    try:
        _serve(spec, line)
    except Fenced as error:
        log.warning("%s", error)
        return Exit.FENCED
    except FramegateError as error:
        line.say(Failed(str(error), int(error.exit)))
        return error.exit
    return Exit.DONE


def _serve(spec: WorkerSpec, line: ControlLine) -> None:
    context_of = _Contexts(spec, line)
    hosted = [
        _host(spec, spec.stage(name), context_of(spec.stage(name)))
        for name in spec.hosted
        if spec.stage(name).input is not None
    ]
    runner = Runner(spec, hosted, line)
    decode = next((spec.stage(n) for n in spec.hosted if spec.stage(n).input is None), None)
    try:
        if decode is None:
            stages = StageLoop(runner, line)
            line.progress = lambda: runner.done
            line.say(Ready())
            run_connected(spec.store, stages, line)
        else:
            decoder = load(decode.use)
            opened = decoder(options_of(decoder, decode.options))
            ingest = IngestLoop(runner, line, opened.open)
            line.progress = ingest.progress
            line.say(Ready())
            run_connected(spec.store, ingest, line)
    finally:
        for stage in hosted:
            stage.stage.close()


def _host(spec: WorkerSpec, stage: StageSpec, context: Context) -> HostedStage:
    opened = _open(stage, context)
    asides = {
        (suspect.source, suspect.position): suspect.reason
        for suspect in spec.asides
        if suspect.stage == stage.name
    }
    return HostedStage(stage, opened, spec.results_keep, asides)


def _open(stage: StageSpec, context: Context) -> Stage[Any]:
    kind = load(stage.use)
    try:
        opened: Stage[Any] = kind(options_of(kind, stage.options), context)
    except FramegateError:
        raise
    except Exception as error:
        log.debug("stage %s cannot start", stage.name, exc_info=True)
        what = f"{type(error).__name__}: {error}"
        raise StageRefused(f"stage {stage.name} ({stage.use}) cannot start: {what}") from error
    return opened


def options_of(kind: Any, options: dict[str, Any]) -> Any:
    """The stage's own options from plain data; they were checked with the configuration."""
    return msgspec.convert(options, kind.Options)


class _Contexts:
    """Makes what each stage may use."""

    def __init__(self, spec: WorkerSpec, line: ControlLine) -> None:
        self._spec, self._line = spec, line

    def __call__(self, stage: StageSpec) -> Context:
        return Context(
            pixels=self._pixels,
            now=time.time,
            folder=Path(self._spec.folder),
            before=stage.input or "",
        )

    def _pixels(self, item: Item) -> AbstractContextManager[memoryview]:
        form = item.record.form
        store = self._line.frame_store(item.source, form, form.nbytes)
        return store.reading(item.record.number % store.slots, item.position)


if __name__ == "__main__":
    sys.exit(main())
