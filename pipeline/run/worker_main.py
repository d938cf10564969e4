"""The main function of a worker process: open its stages and run them until it is stopped."""

from __future__ import annotations

import functools
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from framegate.pipeline.contracts.errors import Exit, Fenced, FramegateError, StageRefused
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import StageSpec, WorkerSpec
from framegate.pipeline.contracts.stage import Context, Stage
from framegate.pipeline.engine.control_line import Answers, ControlLine
from framegate.pipeline.engine.control_messages import Failed, Ready, Times
from framegate.pipeline.engine.hosted_stage import HostedStage
from framegate.pipeline.engine.runner import Runner
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.engine.stage_loop import StageLoop
from framegate.pipeline.engine.store_session import run_connected
from framegate.pipeline.heavy.places import open_asks
from framegate.pipeline.ingest.loop import IngestLoop
from framegate.pipeline.system.loading import load, options_of
from framegate.pipeline.system.logs import set_up_logging
from framegate.pipeline.system.machine import user_cache
from framegate.pipeline.system.process import die_with_parent_of, leave, step_back
from framegate.pipeline.telemetry.run_status import StageTimes
from framegate.pipeline.telemetry.spans import FrameSpans, spans_of

log = logging.getLogger(__name__)


def main() -> int:
    """Run a worker. Arguments: name, descriptor of the control socket, process id of the parent.

    Standard input has the WorkerSpec as JSON.
    """
    # A terminal sends Ctrl-C to the whole group; only the supervisor's orders end a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent_of(int(sys.argv[3]))
    line = ControlLine(socket.socket(fileno=int(sys.argv[2])))
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSpec)
    set_up_logging(spec.log_level, spec.name, spec.log_format)
    step_back(spec.nice)
    try:
        _serve(spec, line)
    except Fenced as error:
        log.warning("%s", error)
        return Exit.FENCED
    except FramegateError as error:
        line.tell(Failed(str(error), int(error.exit)))
        return error.exit
    return Exit.DONE


def _serve(spec: WorkerSpec, line: ControlLine) -> None:
    shared = SharedViews(spec.sources, line, spec.models, spec.filters)
    decode: StageSpec | None = None
    hosted: list[HostedStage] = []
    for name in spec.hosted:
        stage_spec = spec.stage(name)
        if stage_spec.input is None:
            decode = stage_spec
        else:
            hosted.append(_host(spec, stage_spec, _context(spec, stage_spec, shared)))
    _prepare_chosen(spec, hosted)
    runner = Runner(spec, hosted, line, shared.take_sources, shared.forget_states)
    prepare = functools.partial(_prepare, hosted)

    spans = runner.spans = spans_of(spec)
    for stage in hosted:
        stage.spans = spans

    def times() -> Times:
        return _times_of(hosted, spans)

    try:
        if decode is None:
            stages = StageLoop(runner, line)
            line.let_answer(Answers(lambda: runner.done, list, times, prepare))
            line.tell(Ready())
            with _stored(spec):
                run_connected(spec.store, stages, line)
        else:
            decoder = load(decode.use)
            opened = decoder(options_of(decoder, decode.options))
            open_recorded = getattr(opened, "open_recorded", None)  # optional, as is `close`
            ingest = IngestLoop(runner, line, shared, opened.open, open_recorded)
            line.let_answer(
                Answers(ingest.progress, ingest.waiting, times, prepare, ingest.close_cameras)
            )
            line.tell(Ready())
            try:
                with _stored(spec):
                    run_connected(spec.store, ingest, line)
            finally:
                if hasattr(opened, "close"):  # optional
                    opened.close()
    finally:
        for stage in hosted:
            stage.stage.close()
        if spans is not None:
            spans.close()


def _times_of(hosted: Sequence[HostedStage], spans: FrameSpans | None) -> Times:
    """Return the times of the stages of this process, with the counts of their spans."""
    times = {stage.spec.name: stage.times for stage in hosted}
    if spans is not None:
        for stage, counts in list(spans.counts.items()):
            times.setdefault(stage, StageTimes()).spans = counts
    return times


def _prepare(
    hosted: Sequence[HostedStage], model: str, sources: Sequence[str], is_new: bool
) -> None:
    for stage in hosted:
        stage.stage.prepare(model, sources, is_new)


def _prepare_chosen(spec: WorkerSpec, hosted: Sequence[HostedStage]) -> None:
    """Prepare the models that were chosen before. StageRefused if a model is not available."""
    for model in dict.fromkeys(spec.models.values()):
        sources = [source for source, chosen in spec.models.items() if chosen == model]
        try:
            _prepare(hosted, model, sources, is_new=False)
        except Exception as error:
            raise StageRefused(f"model {model}: {error}") from error


@contextmanager
def _stored(spec: WorkerSpec) -> Iterator[None]:
    """Raise StageRefused if stored data cannot be read, because a restart would not help."""
    try:
        yield
    except msgspec.MsgspecError as error:
        raise StageRefused(
            f"the state in the store does not fit the stages {', '.join(spec.hosted)}: "
            f"{error}; use the stages that wrote it, or give the stage or the source "
            "another name"
        ) from error


def _host(spec: WorkerSpec, stage: StageSpec, context: Context) -> HostedStage:
    opened = _open(stage, context)
    asides = {
        (suspect.source, suspect.position): suspect.reason
        for suspect in spec.asides
        if suspect.stage == stage.name
    }
    keep = opened.keeps
    if keep is None:
        keep = spec.results_keep
    has_readers = bool(spec.readers(stage.name, live=False))
    if has_readers and not stage.publishes:
        keep = 0  # its readers decide when an output is removed
    return HostedStage(stage, opened, keep, asides)


def _open(stage: StageSpec, context: Context) -> Stage[Any]:
    kind = load(stage.use)
    try:
        opened: Stage[Any] = kind(options_of(kind, stage.options), context)
    except FramegateError:
        raise
    except Exception as error:
        log.debug("stage %s cannot start", stage.name, exc_info=True)
        raise StageRefused(
            f"stage {stage.name} ({stage.use}) cannot start: {type(error).__name__}: {error}"
        ) from error
    return opened


def _context(spec: WorkerSpec, stage: StageSpec, shared: SharedViews) -> Context:
    decode = next(each for each in spec.stages if each.input is None)

    def decode_packets(packets: bytes, pts: float | None, form: Form) -> bytearray:
        pixels: bytearray = load(decode.use).pixels_of(packets, pts, form)
        return pixels

    return Context(
        pixels=shared.pixels,
        now=time.time,
        live=shared.is_live,
        past=shared.past_of,
        folder=Path(spec.folder),
        before=stage.input or "",
        plane=functools.partial(shared.state_plane, stage.name),
        ring=functools.partial(shared.state_ring, stage.name),
        sound=shared.sound_store,
        undecoded_pixels=functools.partial(shared.undecoded_pixels, decode=decode_packets),
        wake=shared.wake,
        model=shared.model_of,
        filters=shared.filters_of,
        options=functools.partial(shared.options_of, stage.name),
        asks=functools.partial(open_asks, store=spec.store),
        user_cache=user_cache(),
    )


if __name__ == "__main__":
    leave(main())
