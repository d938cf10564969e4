"""`framegate run`: from sources and a configuration to a run, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.apart import apart
from pipeline.config import Config, SourceConfig, from_environment
from pipeline.deaths import Deaths
from pipeline.embedded import STOP_S, EmbeddedStore
from pipeline.errors import DataFolderRefused, Exit, StoreBusy, StoreLost, StoreRefused
from pipeline.graph import StageEntry, place, stage_specs
from pipeline.listener import Listener, open_listener
from pipeline.pace import PaceName
from pipeline.plan import Plan
from pipeline.printer import STAGE as PRINT
from pipeline.printer import Printer, Unbuffered, print_spec
from pipeline.progress import Progress
from pipeline.retention import Limits, keep_limits
from pipeline.run_folder import RunFile, RunFolder, RunSource, changed, fingerprint, open_folder
from pipeline.running import announced
from pipeline.source import Request
from pipeline.sources import frames_of, is_live, is_remote
from pipeline.spec import SourceSpec
from pipeline.store import HURRY_S, Store
from pipeline.supervisor import Supervisor

log = logging.getLogger(__name__)

SAVE = "stages.save:Save"
STOP_PRINTER_S = 0.5


@dataclass(frozen=True)
class RunOptions:
    """What the command line of `run` says beside the configuration."""

    folder: Path | None = None
    resume: bool = False
    take_over: bool = False
    json: bool = False
    save: Path | None = None
    pace: PaceName | None = None


def run(config: Config, options: RunOptions) -> Exit:
    """Run all sources of the configuration until they end or a signal drains them."""
    listener = None
    if config.store.listen is not None:
        listener = open_listener(config.store.listen, config.store.listen_password_file)
    folder = open_folder(options.folder, options.resume)
    keep = False
    try:
        known = folder.read()
        keep = known is not None
        if known is not None:
            _check_resumable(config, known, folder)
        with _store(config, folder, listener) as (store, embedded):
            try:
                return _run_on(config, options, folder, known, store, embedded)
            finally:
                keep = keep or _published(folder, store)
    finally:
        folder.close(keep)


def _check_resumable(config: Config, known: RunFile, folder: RunFolder) -> None:
    """DataFolderRefused unless files are as they were and no other source is asked for."""
    theirs = {source.name: source for source in known.sources}
    strange = [
        f"source {name}: it is not in the run that {folder.path} holds ({', '.join(theirs)}); "
        "--resume goes on with those, so name none"
        for name, asked in config.sources.items()
        if name not in theirs
        or (_place(asked), asked.url_env) != (theirs[name].url, theirs[name].url_env)
    ]
    if faults := strange + changed(known.sources):
        raise DataFolderRefused("\n".join(faults))


def _published(folder: RunFolder, store: Store) -> bool:
    """Whether the run in the folder has results, as far as the store can tell."""
    run = folder.read()
    if run is None:
        return False
    try:
        return any(store.counters(source.name).get("published") for source in run.sources)
    except (StoreLost, StoreBusy, StoreRefused):
        return True


def with_save(config: Config, folder: Path, run: str) -> Config:
    """The configuration with a stage that writes annotated videos, which the others wait for."""
    publisher = next(stage for stage in config.stages if stage.publishes)
    options = {"folder": str(folder.absolute()), "run": run}
    save = StageEntry("save", SAVE, publisher.input, "wait", False, 1, options)
    return replace(config, stages=(*config.stages, save))


@contextmanager
def _store(
    config: Config, folder: RunFolder, listener: Listener | None
) -> Iterator[tuple[Store, EmbeddedStore | None]]:
    embedded = None
    url = config.store.place()
    if url is None:
        embedded = EmbeddedStore(folder.store, config.store.fsync, listener)
        embedded.start()
        url = embedded.url
        if listener is not None:
            listener.announce()
    store = Store(url)
    try:
        yield store, embedded
    finally:
        store.close()
        if embedded is not None:
            embedded.stop(HURRY_S if store.hurried else STOP_S)


def _run_on(
    config: Config,
    options: RunOptions,
    folder: RunFolder,
    known: RunFile | None,
    store: Store,
    embedded: EmbeddedStore | None,
) -> Exit:
    identity = store.prepare()
    if known is not None and known.identity != identity:
        raise StoreRefused(
            f"this store is not the one that the run in {folder.path} wrote to: it was emptied or "
            "replaced; nothing was started, begin a new run with another -d"
        )
    run_id = known.run if known is not None else secrets.token_hex(8)
    if options.save is not None:
        config = with_save(config, options.save, run_id)
    owner = f"{run_id} (host {socket.gethostname()}, data {folder.path})"
    names = [s.name for s in known.sources] if known is not None else list(config.sources)
    try:
        for name in names:
            store.claim(name, run_id, owner, options.take_over)
        if known is None:
            # Read once they are ours: from then on no other run can begin an epoch.
            past = {name: store.epoch(name) for name in names}
            known = RunFile(run_id, identity, _run_sources(config, past))
            folder.write(known)
        plan = make_plan(config, known, folder, options)
        code = asyncio.run(_supervise(plan, store, embedded, options, folder))
        if code in (Exit.STOPPED_TWICE, Exit.STORE):
            store.hurry()
        return code
    finally:
        with contextlib.suppress(StoreLost, StoreBusy, StoreRefused):
            for name in names:
                store.release(name, run_id)


def _run_sources(config: Config, past: dict[str, int]) -> tuple[RunSource, ...]:
    return tuple(
        RunSource(
            name=name,
            url=_place(source),
            url_env=source.url_env,
            pace=source.pace,
            past=past[name],
            file=fingerprint(source.url),
            live=is_live(_given(name, source)) if source.live is None else source.live,
            transport=source.transport,
            frames=frames_of(source.frames),
        )
        for name, source in config.sources.items()
    )


def _place(source: SourceConfig) -> str:
    """What run.json says of the place: an absolute path or a URL; nothing where it is a secret."""
    if source.url_env is not None or is_remote(source.url):
        return source.url
    return str(Path(source.url).absolute())


def _given(name: str, source: SourceConfig | RunSource) -> str:
    if source.url_env is not None:
        return from_environment(source.url_env, f"sources.{name}.url_env")
    return source.url


def make_plan(config: Config, run: RunFile, folder: RunFolder, options: RunOptions) -> Plan:
    """All decisions of a run, from the configuration and what run.json says."""
    specs = stage_specs(config.stages)
    workers = place(specs, config.placement)
    if options.json:
        specs.append(print_spec(next(spec.name for spec in specs if spec.publishes)))
    kept = sum(max(0, stage.pixels - 1) for stage in config.stages)
    sources = tuple(
        _source_spec(config, source, kept, options.pace or source.pace)
        for source in run.sources
    )
    return Plan(
        run=run.run,
        identity=run.identity,
        folder=str(folder.path.absolute()),
        results_keep=config.store.results_keep,
        results=Limits(config.store.results_age_s, config.store.results_bytes),
        log_level=config.log.level,
        log_format=config.log.format,
        hung_s=config.workers.hung_s,
        stages=tuple(specs),
        workers=workers,
        sources=sources,
    )


def _source_spec(config: Config, source: RunSource, kept: int, pace: PaceName) -> SourceSpec:
    """kept: frames whose pixels stages keep beyond the one in work."""
    live = config.live
    credit = config.credit.live if source.live else config.credit.file
    return SourceSpec(
        name=source.name,
        request=Request(
            url=_given(source.name, source),
            live=source.live,
            transport=source.transport,
            stall_s=live.stall_s,
            frames=source.frames,
        ),
        past=source.past,
        credit=credit,
        slots=credit + kept,
        pace="fast" if source.live else pace,
        retry_most_s=live.retry_most_s,
    )


async def _supervise(
    plan: Plan,
    store: Store,
    embedded: EmbeddedStore | None,
    options: RunOptions,
    folder: RunFolder,
) -> Exit:
    supervisor = Supervisor(plan, store, embedded)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, supervisor.drain)
    unprinted: list[OSError] = []
    printer = _printer(plan, store.url, supervisor, unprinted) if options.json else None
    quiet = options.json or plan.log_format == "json"
    beside = [
        asyncio.create_task(Progress(plan, store.url, quiet=quiet).show()),
        asyncio.create_task(keep_limits(store.url, plan.run, plan.stages, plan.results)),
    ]
    try:
        with announced(folder.path, store.url):
            code = await supervisor.run()
        if printer is not None:
            await apart(printer.stop, STOP_PRINTER_S if code is not Exit.DONE else None)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return Exit.SOURCE_FAILED if unprinted and code is Exit.DONE else code


def _printer(plan: Plan, url: str, supervisor: Supervisor, unprinted: list[OSError]) -> Printer:
    """Start the printer; what is wrong with standard output is added to `unprinted`."""
    loop = asyncio.get_running_loop()

    def broken(error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            unprinted.append(error)
            log.error("standard output: %s; the run drains, its results are stored", error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        loop.call_soon_threadsafe(supervisor.drain)

    def died(error: Exception) -> None:
        loop.call_soon_threadsafe(supervisor.fail, f"results are printed no more: {error!r}")

    spec = plan.spec("printer", [PRINT], url, Deaths())
    printer = Printer(spec, Unbuffered(sys.stdout.fileno()), broken, died)
    printer.start()
    return printer
