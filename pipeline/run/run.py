"""`framegate run`: from sources and a configuration to a run, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.keys import EVENTS
from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.review.projection import FILE as EPISODES_FILE
from framegate.pipeline.review.projector import Projector
from framegate.pipeline.run.deaths import Deaths
from framegate.pipeline.run.folder import (
    Resumed,
    RunFile,
    RunFolder,
    RunSource,
    drop_old_runs,
    open_folder,
    resumed,
)
from framegate.pipeline.run.models import KnownModels, ModelFunctions
from framegate.pipeline.run.plan import (
    Plan,
    doubts,
    with_certificates,
    with_events,
    with_footage,
    with_save,
    with_sound,
)
from framegate.pipeline.run.printer import STAGE as PRINT
from framegate.pipeline.run.printer import Printer, Unbuffered, print_spec
from framegate.pipeline.run.progress import Progress, RunOutputs, Screen, open_screen
from framegate.pipeline.run.rpc import announced, runs_going_on
from framegate.pipeline.run.rpc_server import answered
from framegate.pipeline.run.sources import (
    RunSources,
    SpecOf,
    file_faults,
    place_of,
    run_source,
    spec_maker,
)
from framegate.pipeline.run.supervisor import Supervisor
from framegate.pipeline.shared_memory.mapping import usual_barrier
from framegate.pipeline.sinks.mqtt import KnownRule
from framegate.pipeline.sinks.process import SinksProcess, SinksSpec
from framegate.pipeline.store.admin import HURRY_S, StoreAdmin
from framegate.pipeline.store.embedded import STOP_S, EmbeddedStore
from framegate.pipeline.store.listen import Listener, open_listener
from framegate.pipeline.store.retention import (
    CERTIFICATES,
    RetentionLimits,
    drop_certificates,
    keep_limits,
)
from framegate.pipeline.system.clocks import read_host_clock
from framegate.pipeline.system.loading import BUILTINS
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.machine import take_open_files
from framegate.pipeline.system.outputs import save_faults
from framegate.pipeline.system.ports import HTTP_DEFAULT, OFF
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.web.port import HttpPort, WebSpec, address, bound
from framegate.pipeline.web.token import AccessToken, find_token, is_loopback

T = TypeVar("T")

log = logging.getLogger(__name__)

STOP_PRINTER_S = 0.5


@dataclass(frozen=True)
class RunOptions:
    """Options of a run beside its configuration.

    models  gives the functions of models and stages; called once the run's store is there, because
            importing them takes long
    """

    models: Callable[[], ModelFunctions]
    folder: Path | None = None
    resume: bool = False
    take_over: bool = False
    json: bool = False
    save: Path | None = None
    overwrite: bool = False
    pace: PaceName | None = None
    named: frozenset[str] = frozenset()
    """Sources that the command line names, not the configuration."""
    resume_with: tuple[str, ...] = ()
    """Words that `--resume` needs again, because the data folder does not keep them."""
    began: Callable[[str, Sequence[SourceSpec]], None] | None = None
    """Of a run inside a program: called with the store's URL once results may come. Such a run
    goes on, also when all sources have ended, until it is told to stop; it shows no progress.
    """


@dataclass(frozen=True)
class _Setup:
    """What a run has once its store is there.

    before     the run that its folder holds, with what it goes on with
    embedded   the store's process, where the run has one of its own
    listening  the HTTP port, None if that is off
    token      what it asks for, None for nothing
    """

    config: Config
    options: RunOptions
    folder: RunFolder
    before: Resumed
    store: StoreAdmin
    embedded: EmbeddedStore | None
    listening: socket.socket | None
    token: AccessToken | None


def run(config: Config, options: RunOptions) -> Exit:
    """Run all sources of the configuration until they end or a signal drains them.

    MachineRefused where frames in shared memory could be read torn.
    """
    usual_barrier()
    listener = None
    if config.store.listen is not None:
        listener = open_listener(config.store.listen, config.store.listen_password_file)
    folder = open_folder(options.folder, options.resume)
    if options.folder is None and (dropped := drop_old_runs()):
        log.info("removed the data of %d older runs without -d", dropped)
    keep = False
    stack = ExitStack()
    try:
        known = folder.read()
        keep = known is not None
        if known is None and options.resume and folder.made_by_us and not config.sources:
            raise DataFolderRefused(
                f"data folder {folder.path} holds no run to resume: name a source to begin one, or "
                "make the folder to begin one that waits for framegate add"
            )
        asked = _asked(config, options)
        kept = known.http if known else ""
        listening = stack.enter_context(bound(config.http.listen, kept))
        wanted = _with_port(known or _new_run(asked), config.http.listen, listening)
        before = resumed(wanted, asked, folder.path)
        _check_save(options, before)
        _check_files(before.new, alone=known is None)
        take_open_files(len(before.run.sources) + len(before.new))
        if wanted != known:  # first of all: a run that is killed from here on can be resumed
            folder.write(wanted)
        token = _token(config, folder, listening)
        with _store(config, folder, listener) as (store, embedded):
            try:
                return _run_on(
                    _Setup(config, options, folder, before, store, embedded, listening, token)
                )
            finally:
                keep = keep or _is_worth_keeping(folder, store)
    finally:
        stack.close()
        if not keep:
            _forget_unseen(folder)
        folder.close(keep)


def _with_port(run: RunFile, asked: str | None, listening: socket.socket | None) -> RunFile:
    """Return the run with the HTTP port that it keeps, and say why it is not the usual one."""
    if asked is not None or listening is None:
        return run
    usual, taken = run.http or HTTP_DEFAULT, address(listening)
    if taken != usual:
        holder = next((other.folder for other in runs_going_on() if other.http == usual), None)
        who = "another program" if holder is None else f"the run in {holder}"
        log.warning("http: %s is taken by %s; this run listens at %s", usual, who, taken)
    return run if run.http else structs.replace(run, http=taken)


def _new_run(asked: Sequence[RunSource]) -> RunFile:
    """Return a run that wants these sources and has not seen its store."""
    return RunFile(secrets.token_hex(8), "", tuple(asked), stays=not asked, begun=False)


def _forget_unseen(folder: RunFolder) -> None:
    """Forget a run that failed before it had seen its store: it owns nothing there."""
    run = folder.read()
    if run is not None and not run.identity:
        folder.forget()


def _token(
    config: Config, folder: RunFolder, listening: socket.socket | None
) -> AccessToken | None:
    """Return what the HTTP port asks for; said where others than this host's users can ask."""
    beyond = listening is not None and not is_loopback(listening)
    token = find_token(config.http.token_file, os.environ, folder.path, make=beyond)
    if listening is not None and beyond:
        port = listening.getsockname()[1]
        asks = f"asks for the token in {token.place}" if token else "asks for no token"
        log.warning(
            "http: port %d %s; all goes over the network in the clear: in a network that you "
            "trust, or behind a proxy with TLS",
            port,
            asks,
        )
    return token


def _asked(config: Config, options: RunOptions) -> list[RunSource]:
    """Return the sources that configuration and command line name."""
    return [
        run_source(name, said, "command" if name in options.named else "config")
        for name, said in config.sources.items()
    ]


def _is_worth_keeping(folder: RunFolder, store: StoreAdmin) -> bool:
    """Return whether the folder's run is a service, or may have results.

    Or knows that a source was taken from it: without its folder it would begin as another run, and
    take that source back.
    """
    run = folder.read()
    if run is None or not run.identity:
        return False
    if run.stays or any(source.by == "add" for source in run.sources):
        return True
    try:
        return any(
            store.counters(source.name).get("published") or store.was_taken(source.name, run.run)
            for source in run.sources
        )
    except (StoreLost, StoreBusy, StoreRefused):
        return True


def _check_files(new: Sequence[RunSource], alone: bool) -> None:
    """Log which files are not there, before anything starts: each source fails alone.

    ConfigFaults if there is nothing else to run. alone: nothing was run before
    """
    faults = file_faults(new)
    if alone and faults and len(faults) == len(new):
        raise ConfigFaults(list(faults.values()))
    for fault in faults.values():
        log.error("%s", fault)


def _check_save(options: RunOptions, before: Resumed) -> None:
    """ConfigFaults if a video would be written over a source, or over what others made."""
    if options.save is None:
        return
    known = before.run.sources
    places = {source.name: place_of(source) for source in (*known, *before.new)}
    names = [source.name for source in known]
    if faults := save_faults(options.save, places, options.overwrite, names):
        raise ConfigFaults(faults)


@contextmanager
def _store(
    config: Config, folder: RunFolder, listener: Listener | None
) -> Iterator[tuple[StoreAdmin, EmbeddedStore | None]]:
    embedded = None
    url = config.store.place()
    if url is None:
        embedded = EmbeddedStore(folder.store, config.store.fsync, listener)
        embedded.start()
        url = embedded.url
        if listener is not None:
            listener.announce()
    store = StoreAdmin(url, config.store.replicas)
    try:
        yield store, embedded
    finally:
        store.close()
        if embedded is not None:
            embedded.stop(HURRY_S if store.hurried else STOP_S)


def _run_on(setup: _Setup) -> Exit:
    options, folder, store = setup.options, setup.folder, setup.store
    identity = _while_store_lives(setup.embedded, store.prepare)
    run = setup.before.run
    if run.identity not in ("", identity):
        raise StoreRefused(
            f"this store is not the one that the run in {folder.path} wrote to: it was emptied or "
            "replaced; nothing was started, begin a new run with another -d"
        )
    stays = run.stays or options.began is not None
    run = structs.replace(run, identity=identity, stays=stays)
    functions = options.models()
    models = KnownModels(functions, setup.config.stages, folder.path)
    config = with_certificates(setup.config)
    config = with_sound(with_footage(config), functions)
    config = with_events(config, functions, folder.path)
    if options.save is not None:
        config = with_save(config, options.save, run.run, options.overwrite)
    sources = _while_store_lives(
        setup.embedded, lambda: _own_sources(setup, run, spec_maker(config, options.pace), models)
    )
    try:
        if not sources.specs():
            to_user.info(
                "no source yet: framegate add NAME=URL gives it one, or [sources.NAME] in its "
                "pipeline.toml at the next start"
            )
        for fault in doubts(config, {spec.name: spec.live for spec in sources.specs()}):
            to_user.warning("%s", fault)
        plan = make_plan(config, run, store.url, folder, options)
        quiet = options.json or options.began is not None or config.log.format == "json"
        with open_screen(quiet) as screen:
            code = asyncio.run(_supervise(setup, plan, sources, screen))
        if code is not Exit.STOPPED_TWICE:  # what is left takes a moment, and the answer is known
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)
        if code in (Exit.STOPPED_TWICE, Exit.STORE):
            store.hurry()
        return code
    finally:
        sources.release()


def _while_store_lives(embedded: EmbeddedStore | None, step: Callable[[], T]) -> T:
    """Return what a step of the start returns, through a kill of the run's own store."""
    return step() if embedded is None else embedded.while_it_lives(step)


def _own_sources(setup: _Setup, run: RunFile, spec_of: SpecOf, models: KnownModels) -> RunSources:
    """Return the run's sources, which it owns in the store now. It may be called again where the
    store was lost.
    """
    options, folder, store = setup.options, setup.folder, setup.store
    owner = f"{run.run} (host {socket.gethostname()}, data {folder.path})"
    sources = RunSources(run, folder, store, owner, spec_of, models, options.save)
    try:
        sources.claim(options.take_over)
        sources.add(setup.before.new, options.take_over)
        sources.announce()
    except BaseException:
        sources.release()
        raise
    return sources


def make_plan(
    config: Config, run: RunFile, store: str, folder: RunFolder, options: RunOptions
) -> Plan:
    """Decide all of a run but its sources. store: its URL."""
    specs = stage_specs(config.stages)
    workers = in_shards(place(specs, config.placement), config.workers.shards)
    if options.json:
        specs.append(print_spec(next(spec.name for spec in specs if spec.publishes)))
    return Plan(
        run=run.run,
        store=store,
        identity=run.identity,
        folder=str(folder.path.absolute()),
        results_keep=config.store.results_keep,
        results=RetentionLimits(
            config.store.results_age_s, config.store.results_bytes, config.store.sources_keep
        ),
        certificates_age_s=config.store.certificates_age_s,
        episodes=(config.store.episodes_keep, config.store.episodes_age_s),
        log_level=config.log.level,
        log_format=config.log.format,
        hung_s=config.workers.hung_s,
        stages=tuple(specs),
        workers=workers,
        fill=config.workers.fill,
        pictures=config.http.listen not in OFF,
        replicas=config.store.replicas,
        sinks=tuple(config.sinks),
    )


async def _supervise(setup: _Setup, plan: Plan, sources: RunSources, screen: Screen | None) -> Exit:
    options, folder, listening = setup.options, setup.folder, setup.listening
    supervisor = Supervisor(plan, setup.store, setup.embedded, sources)

    def tidy() -> None:
        drop_certificates(folder.path / CERTIFICATES, plan.certificates_age_s, read_host_clock())
        sources.forget_models()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, supervisor.drain)
    unprinted: list[OSError] = []
    printer = _printer(plan, supervisor, unprinted) if options.json else None
    store = "" if setup.embedded else plan.store
    kept = RunOutputs(folder.path, store, options.save, options.resume_with)
    progress = Progress(plan.store, screen, kept if options.began is None else None)
    supervisor.listen(progress.take_sources)
    beside = [
        asyncio.create_task(progress.show()),
        asyncio.create_task(keep_limits(plan.store, plan.run, plan.stages, plan.results, tidy)),
    ]
    if any(stage.name == EVENTS for stage in plan.stages):
        projector = Projector(plan.store, folder.private_database(EPISODES_FILE), *plan.episodes)
        supervisor.listen(projector.take_sources)
        beside.append(asyncio.create_task(projector.run()))
    http = None
    if listening is not None:
        http = address(listening)
        log.info("metrics and live page at http://%s", http)
        port = _http_port(setup, plan, supervisor, listening)
        beside.append(asyncio.create_task(port.serve()))
    sinks = _sinks(setup, plan, supervisor, http)
    if sinks is not None:
        beside.append(asyncio.create_task(sinks.serve()))
    for task in beside:
        task.add_done_callback(_tell_fall)
    try:
        token = "" if setup.token is None else setup.token.secret
        async with answered(folder.path, supervisor, plan.store, token):
            with announced(folder.path, http):
                if options.began is not None:
                    options.began(plan.store, sources.specs())
                code = await supervisor.run()
        if printer is not None:
            await in_thread(printer.stop, STOP_PRINTER_S if code is not Exit.DONE else None)
        if sinks is not None and code in (Exit.DONE, Exit.SOURCE_FAILED):
            await sinks.finish()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return Exit.SOURCE_FAILED if unprinted and code is Exit.DONE else code


def _http_port(
    setup: _Setup, plan: Plan, supervisor: Supervisor, listening: socket.socket
) -> HttpPort:
    spec = WebSpec(
        plan.store,
        plan.folder,
        BUILTINS["pictures"],
        plan.log_level,
        plan.log_format,
        "" if setup.token is None else setup.token.digest,
        setup.config.http.origins,
        setup.config.privacy.blur_faces,
        setup.config.record.free_bytes,
    )
    return HttpPort(listening, spec, supervisor.status, supervisor.find_shared)


def _sinks(
    setup: _Setup, plan: Plan, supervisor: Supervisor, http: str | None
) -> SinksProcess | None:
    """Return the process of the sinks, None where there are none. http: HOST:PORT of the run"""
    if not setup.config.sinks:
        return None
    events = setup.config.events
    spec = SinksSpec(
        run=plan.run,
        store=plan.store,
        sinks=setup.config.sinks,
        rules={
            name: KnownRule(rule.when, events.source_of(rule))
            for name, rule in events.rules.items()
        },
        http=http,
        token="" if setup.token is None else setup.token.secret,
        log_level=plan.log_level,
        log_format=plan.log_format,
    )
    sinks = SinksProcess(spec)
    supervisor.listen(sinks.take_sources)
    return sinks


def _tell_fall(task: asyncio.Task[None]) -> None:
    """Log the error with which a task beside the run has ended."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task has ended; the run continues without it", exc_info=error)


def _printer(plan: Plan, supervisor: Supervisor, unprinted: list[OSError]) -> Printer:
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

    spec = plan.spec("printer", [PRINT], supervisor.sources.specs(), Deaths())
    printer = Printer(spec, Unbuffered(sys.stdout.fileno()), broken, died)
    printer.start()
    supervisor.listen(printer.take_sources)
    return printer
