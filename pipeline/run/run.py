"""Run the pipeline: open the data folder, start the store, and claim the sources.

`run_processes` then starts the processes of the run and ends them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

from msgspec import structs

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.events import rules_to_mute
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.config.sinks import episode_sinks
from framegate.pipeline.config.sources import place_of
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.promise.secret import share_secret
from framegate.pipeline.run.filters import filters_of, idle_filters
from framegate.pipeline.run.folder import (
    By,
    Resumed,
    RunFile,
    RunFolder,
    RunSource,
    as_slot,
    drop_old_runs,
    open_folder,
    resumed,
)
from framegate.pipeline.run.live_config import RunConfig
from framegate.pipeline.run.models import RunModels
from framegate.pipeline.run.plan import (
    Plan,
    check_filters,
    doubts,
    with_certificates,
    with_events,
    with_footage,
    with_save,
    with_sound,
    with_visits,
)
from framegate.pipeline.run.printer import print_spec
from framegate.pipeline.run.progress import open_screen
from framegate.pipeline.run.rpc import runs_going_on
from framegate.pipeline.run.run_processes import RunOptions, RunSetup, supervise
from framegate.pipeline.run.source_forms import file_faults, run_source, source_spec
from framegate.pipeline.run.sources import RunSources, SpecOf
from framegate.pipeline.shared_memory.frame_store import usual_barrier
from framegate.pipeline.store.admin import HURRY_S, StoreAdmin
from framegate.pipeline.store.embedded import STOP_S, EmbeddedStore
from framegate.pipeline.store.listen import Listener, open_listener
from framegate.pipeline.store.retention import RetentionLimits
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.system.logs import to_user
from framegate.pipeline.system.machine import take_open_files
from framegate.pipeline.system.outputs import save_faults
from framegate.pipeline.system.ports import HTTP_DEFAULT, OFF
from framegate.pipeline.web.port import (
    TOKEN_ENV,
    AccessToken,
    address,
    bound,
    find_token,
    is_loopback,
)
from framegate.pipeline.web.port_files import check_port_files

T = TypeVar("T")

log = logging.getLogger(__name__)


def run(config: Config, options: RunOptions) -> Exit:
    """Run all sources of the configuration until they end or a signal drains them.

    MachineRefused if this machine's memory order could give readers torn frames.
    """
    usual_barrier()
    listener = None
    if config.store.listen is not None:
        listener = open_listener(config.store.listen, config.store.listen_password_file)
    folder = open_folder(options.folder, options.resume or bool(options.slot))
    if options.folder is None:
        dropped = drop_old_runs()
        if dropped:
            log.info("removed the data of %d older runs without -d", dropped)
    keep = False
    stack = ExitStack()
    try:
        known = folder.read()
        keep = known is not None
        if known is None and options.resume and folder.made_by_us and not config.sources:
            raise DataFolderRefused(
                f"data folder {folder.path} contains no run to resume: name a source to start a "
                "run, or make the folder to start a run that waits for framegate add"
            )
        asked = _asked_sources(config, options)
        if known is not None:
            known = as_slot(known, options.slot, folder.path)
        run = known or as_slot(_new_run(asked), options.slot, folder.path)
        listening = stack.enter_context(bound(config.http.listen, run.http))
        run = _with_port(run, config.http.listen, listening)
        before = resumed(run, asked, folder.path)
        _check_save(options, before)
        _check_files(before.new, alone=known is None)
        take_open_files(len(before.run.sources) + len(before.new))
        if run != known:  # before anything starts, so that a killed run can be resumed
            folder.write(run)
        token = _token(config, folder, listening)
        if options.fleet_secret and share_secret(folder.path, options.fleet_secret):
            log.warning("promise: the secret is that of the fleet now; open periods end")
        with _store(config, folder, listener) as (store, embedded):
            try:
                return _run_on(
                    RunSetup(config, options, folder, before, store, embedded, listening, token)
                )
            finally:
                keep = keep or _is_worth_keeping(folder, store)
    finally:
        stack.close()
        if not keep:
            _forget_unseen(folder)
        folder.close(keep)


def _with_port(run: RunFile, asked: str | None, listening: socket.socket | None) -> RunFile:
    """Return the run with its HTTP port. Log a warning if that is not the usual port."""
    if asked is not None or listening is None:
        return run
    usual = run.http or HTTP_DEFAULT
    actual = address(listening)
    if actual != usual:
        user = "another program"
        for other in runs_going_on():
            if other.http == usual:
                user = f"the run in {other.folder}"
        log.warning("http: %s is taken by %s; this run listens at %s", usual, user, actual)
    if run.http:
        return run
    return structs.replace(run, http=actual)


def _new_run(asked: Sequence[RunSource]) -> RunFile:
    """Return a run that wants these sources and has not seen its store."""
    return RunFile(secrets.token_hex(8), "", tuple(asked), stays=not asked, begun=False)


def _forget_unseen(folder: RunFolder) -> None:
    """Forget a run that failed before it reached its store, where it owns nothing."""
    run = folder.read()
    if run is not None and not run.identity:
        folder.forget()


def _token(
    config: Config, folder: RunFolder, listening: socket.socket | None
) -> AccessToken | None:
    """Return the access token of the HTTP port. Log a warning if other hosts can reach the port.

    ConfigFaults, also of the files of accounts and of the certificate.
    """
    is_reachable = listening is not None and not is_loopback(listening)
    check_port_files(config.http)
    has_accounts = config.http.accounts_file is not None
    needs_token = is_reachable or has_accounts
    token = find_token(config.http.token_file, os.environ, folder.path, make=needs_token)
    if has_accounts and token is None:
        place = f"{TOKEN_ENV}=off"
        if config.http.token_file is not None:
            place = f"http.token_file = {config.http.token_file!r}"
        raise ConfigFaults([f"{place}: with [http] accounts_file, each request needs a token"])
    if listening is not None and is_reachable:
        port = listening.getsockname()[1]
        demand = "asks for no token"
        if token is not None:
            demand = f"asks for the token in {token.place}"
        if has_accounts:
            demand += " or of an account"
        if config.http.tls_certificate is not None:
            log.info("http: port %d %s, by https from other hosts", port, demand)
        else:
            log.warning(
                "http: port %d %s and is not encrypted: use it in a network that you trust, or "
                "set [http] tls_certificate",
                port,
                demand,
            )
    return token


def _asked_sources(config: Config, options: RunOptions) -> list[RunSource]:
    """Return the sources that the configuration and the command line name."""
    sources = []
    for name, source_config in config.sources.items():
        by: By = "config"
        if name in options.named:
            by = "command"
        sources.append(run_source(name, source_config, by))
    return sources


def _is_worth_keeping(folder: RunFolder, store: StoreAdmin) -> bool:
    """Return whether the folder must stay: its run is a service, or may have results.

    It also stays if another run took a source over: without the folder, this run would start as a
    new one and take that source back.
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
    """Log an error for each source whose file is missing. Only that source fails.

    ConfigFaults if all sources fail. alone: whether the run has no other sources
    """
    faults = file_faults(new)
    if alone and faults and len(faults) == len(new):
        raise ConfigFaults(list(faults.values()))
    for fault in faults.values():
        log.error("%s", fault)


def _check_save(options: RunOptions, before: Resumed) -> None:
    """Raise ConfigFaults if a saved video would replace a source or a file that we did not make."""
    if options.save is None:
        return
    known = before.run.sources
    places = {source.name: place_of(source.name, source) for source in (*known, *before.new)}
    names = [source.name for source in known]
    faults = save_faults(options.save, places, options.overwrite, names)
    if faults:
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
            patience_s = STOP_S
            if store.hurried:
                patience_s = HURRY_S
            embedded.stop(patience_s)


def _run_on(setup: RunSetup) -> Exit:
    options = setup.options
    folder = setup.folder
    store = setup.store
    identity = _while_store_lives(setup.embedded, store.prepare)
    run = setup.before.run
    if run.identity not in ("", identity):
        raise StoreRefused(
            f"this store is not the one that the run in {folder.path} wrote to: it was emptied or "
            "replaced; nothing was started; start a new run with another -d"
        )
    stays = run.stays or options.began is not None
    run = structs.replace(run, identity=identity, stays=stays)
    models: RunModels = load_builtin("models")(setup.config.stages, folder.path)
    models.settle()
    config = with_certificates(setup.config)
    config = with_sound(with_footage(config), models)
    config = with_events(config, models)
    config = with_visits(config)
    check_filters(config, models)
    rules = rules_to_mute(config.events)
    for idle in idle_filters(filters_of(run, config.filters), rules):
        to_user.warning("%s", idle)
    if options.save is not None:
        config = with_save(config, options.save, run.run, options.overwrite)
    spec_of = partial(source_spec, config, options.pace)
    sources = _while_store_lives(
        setup.embedded, lambda: _own_sources(setup, run, rules, spec_of, models)
    )
    try:
        if not sources.specs() and not options.slot:
            to_user.info(
                "no source yet: framegate add NAME=URL gives it one, or [sources.NAME] in its "
                "pipeline.toml at the next start"
            )
        for doubt in doubts(config, {spec.name: spec.live for spec in sources.specs()}):
            to_user.warning("%s", doubt)
        plan = make_plan(config, run, store.url, folder, options)
        is_quiet = options.json or options.began is not None or config.log.format == "json"
        with open_screen(is_quiet) as screen:
            live = RunConfig(setup.config, config, models, options.read)
            code = asyncio.run(supervise(setup, plan, sources, live, screen))
        if code is not Exit.STOPPED_TWICE:  # the rest is quick: a signal must not interrupt it
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_IGN)
        if code in (Exit.STOPPED_TWICE, Exit.STORE):
            store.hurry()
        return code
    finally:
        sources.release()


def _while_store_lives(embedded: EmbeddedStore | None, step: Callable[[], T]) -> T:
    """Return the result of `step`, which is repeated if the embedded store dies meanwhile."""
    if embedded is None:
        return step()
    return embedded.while_it_lives(step)


def _own_sources(
    setup: RunSetup, run: RunFile, rules: Mapping[str, str], spec_of: SpecOf, models: RunModels
) -> RunSources:
    """Claim the run's sources in the store and return them. Safe to repeat after a lost store."""
    options = setup.options
    folder = setup.folder
    owner = f"{run.run} (host {socket.gethostname()}, data {folder.path})"
    if options.slot:
        owner = f"{run.run} (slot {options.slot}, host {socket.gethostname()})"
    sources = RunSources(
        run,
        folder,
        setup.store,
        owner,
        spec_of,
        models,
        options.save,
        setup.config.filters,
        rules,
    )
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
    """Return the plan of a run: everything but its sources. store: URL of the store"""
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
        trace_ratio=config.telemetry.trace_ratio,
        replicas=config.store.replicas,
        sinks=episode_sinks(config.sinks),
        slot=options.slot,
    )
