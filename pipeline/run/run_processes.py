"""Start the supervisor of a run and all that runs beside it, and end them together.

Beside it run the display, the printer of results, the HTTP port, the process of the sinks, and the
tasks for episodes and retention.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framegate.pipeline.config.config import DEFAULTS, Config
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.keys import EVENTS, VISITS
from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.review.event_database import FILE as EPISODES_FILE
from framegate.pipeline.review.projector import Projector
from framegate.pipeline.run.folder import Resumed, RunFolder
from framegate.pipeline.run.live_config import RunConfig
from framegate.pipeline.run.plan import Plan
from framegate.pipeline.run.printer import STAGE as PRINT
from framegate.pipeline.run.printer import Printer, Unbuffered
from framegate.pipeline.run.progress import Progress, RunOutputs
from framegate.pipeline.run.restarts import Deaths
from framegate.pipeline.run.rpc import StoreUrl, announced
from framegate.pipeline.run.rpc_server import answered
from framegate.pipeline.run.slot import SlotFollower
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.run.supervisor import Supervisor
from framegate.pipeline.sinks.mqtt import KnownRule, Profiles
from framegate.pipeline.sinks.process import SinksProcess, SinksSpec
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.retention import CERTIFICATES, drop_certificates, keep_limits
from framegate.pipeline.system.clocks import read_host_clock
from framegate.pipeline.system.loading import BUILTINS
from framegate.pipeline.system.process import in_thread
from framegate.pipeline.web.port import AccessToken, HttpPort, WebSpec, address

if TYPE_CHECKING:
    from framegate.pipeline.run.screen import Screen

log = logging.getLogger(__name__)

STOP_PRINTER_S = 0.5


@dataclass(frozen=True)
class RunOptions:
    """The options of a run that are not in its configuration.

    named        sources that the command line names, not the configuration
    resume_with  options that `--resume` or `--slot` needs again, because the data folder does not
                 keep them
    slot         name of the fleet's slot that the run is; "": it is none
    fleet_secret  secret of the fleet for the coins of a promise; "": that of the data folder
    read         returns the configuration of a text of its file with the same command line; None:
                 the run is inside a program, so its configuration cannot change
    began        in a run inside a program: called with the store's URL and the sources once results
                 may arrive. Such a run shows no progress, and ends only when it is stopped
    """

    folder: Path | None = None
    resume: bool = False
    take_over: bool = False
    json: bool = False
    save: Path | None = None
    overwrite: bool = False
    pace: PaceName | None = None
    named: frozenset[str] = frozenset()
    resume_with: tuple[str, ...] = ()
    slot: str = ""
    fleet_secret: str = ""
    read: Callable[[str], Config] | None = None
    began: Callable[[str, Sequence[SourceSpec]], None] | None = None


@dataclass(frozen=True)
class RunSetup:
    """The parts of a run after its store has started.

    before     the run in its folder, and the sources to add
    embedded   the process of the embedded store; None for another store
    listening  socket of the HTTP port; None if it is off
    token      access token of the HTTP port; None if it needs none
    """

    config: Config
    options: RunOptions
    folder: RunFolder
    before: Resumed
    store: StoreAdmin
    embedded: EmbeddedStore | None
    listening: socket.socket | None
    token: AccessToken | None


async def supervise(
    setup: RunSetup, plan: Plan, sources: RunSources, config: RunConfig, screen: Screen | None
) -> Exit:
    """Run the supervisor of a run to its end, and all that belongs to it. Return the exit code."""
    options = setup.options
    folder = setup.folder
    supervisor = Supervisor(plan, setup.store, setup.embedded, sources, config, options.pace)

    def tidy() -> None:
        drop_certificates(folder.path / CERTIFICATES, plan.certificates_age_s, read_host_clock())
        sources.forget_models()

    _drain_at_signals(supervisor, options)
    print_errors: list[OSError] = []
    printer = None
    if options.json:
        printer = _start_printer(plan, supervisor, print_errors)
    progress = Progress(plan.store, screen, _outputs(setup))
    supervisor.listen(progress.take_sources)
    tasks = [
        asyncio.create_task(progress.show()),
        asyncio.create_task(keep_limits(plan.store, plan.run, plan.stages, plan.results, tidy)),
    ]
    projector = None
    if any(stage.name in (EVENTS, VISITS) for stage in plan.stages):
        projector = _projector(setup, plan)
        supervisor.listen(projector.take_sources)
        supervisor.follow_config(lambda config: projector.mask(tuple(config.privacy.masks)))
        tasks.append(asyncio.create_task(projector.run()))
    http = None
    if setup.listening is not None:
        http = address(setup.listening)
        log.info("metrics and live page at http://%s", http)
        port = _http_port(setup, plan, supervisor, setup.listening)
        tasks.append(asyncio.create_task(port.serve()))
    sinks = _sinks_process(setup, plan, supervisor, http)
    tasks.append(asyncio.create_task(sinks.serve()))
    tasks += _slot_tasks(supervisor, setup.listening, projector)
    for task in tasks:
        task.add_done_callback(_log_error)
    try:
        async with answered(folder.path, supervisor, _store_url(setup, plan), _secret(setup)):
            with announced(folder.path, http):
                if options.began is not None:
                    options.began(plan.store, sources.specs())
                code = await supervisor.run()
        if printer is not None:
            await _stop_printer(printer, code)
        if code in (Exit.DONE, Exit.SOURCE_FAILED):
            await sinks.finish()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if print_errors and code is Exit.DONE:
        return Exit.SOURCE_FAILED
    return code


def _drain_at_signals(supervisor: Supervisor, options: RunOptions) -> None:
    hint = "; a second Ctrl-C stops at once"
    if options.began is not None:
        hint = ""  # a program stops its run by leaving its block
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, supervisor.drain, hint)


def _store_url(setup: RunSetup, plan: Plan) -> StoreUrl:
    stages: list[str] = []
    if setup.embedded is not None:
        stages = [stage.name for stage in plan.stages if not stage.publishes]
    return StoreUrl(plan.store, tuple(stages))


async def _stop_printer(printer: Printer, code: Exit) -> None:
    """Stop the printer: without a limit after all results, for a moment otherwise."""
    patience_s: float | None = STOP_PRINTER_S
    if code is Exit.DONE:
        patience_s = None
    await in_thread(printer.stop, patience_s)


def _slot_tasks(
    supervisor: Supervisor, listening: socket.socket | None, projector: Projector | None
) -> list[asyncio.Task[None]]:
    """Return the task that follows the plan of a fleet if the run is a slot of one.

    projector  copies episodes of the whole fleet; None: the run has neither rules nor visits
    """
    slot = supervisor.plan.slot
    if not slot:
        return []
    take_fleet: Callable[[Collection[str]], None] | None = None
    if projector is not None:
        take_fleet = projector.take_fleet
    follower = SlotFollower(slot, supervisor, listening, take_fleet)
    return [asyncio.create_task(follower.run())]


def _projector(setup: RunSetup, plan: Plan) -> Projector:
    file = setup.folder.private_database(EPISODES_FILE)
    privacy = setup.config.privacy
    masked = tuple(privacy.masks)
    return Projector(plan.store, file, *plan.episodes, privacy.blur_faces, masked)


def _outputs(setup: RunSetup) -> RunOutputs | None:
    """Return the places for the last line on the screen; None for a run inside a program."""
    options = setup.options
    if options.began is not None:
        return None
    external_store = ""
    if setup.embedded is None:
        external_store = setup.store.url
    return RunOutputs(
        setup.folder.path, external_store, options.save, options.resume_with, options.slot
    )


def _secret(setup: RunSetup) -> str:
    if setup.token is None:
        return ""
    return setup.token.secret


def _http_port(
    setup: RunSetup, plan: Plan, supervisor: Supervisor, listening: socket.socket
) -> HttpPort:
    http = setup.config.http
    digest, session_key = "", ""
    if setup.token is not None:
        digest = setup.token.digest
    if setup.token is not None and http.accounts_file is not None:
        session_key = setup.token.session_key()
    spec = WebSpec(
        plan.store,
        plan.folder,
        BUILTINS["pictures"],
        plan.log_level,
        plan.log_format,
        digest,
        setup.config.http.origins,
        setup.config.privacy.blur_faces,
        tuple(setup.config.privacy.masks),
        setup.config.record.free_bytes,
        config=_config_file(setup.config.origin),
        slot=plan.slot,
        accounts=http.accounts_file or "",
        session_key=session_key,
        certificate=http.tls_certificate or "",
        certificate_key=http.tls_key or "",
        proxies=http.proxies,
        proxy_user=http.proxy_user,
        proxy_groups=http.proxy_groups,
        stages=_store_url(setup, plan).stages,
    )
    port = HttpPort(
        listening,
        spec,
        supervisor.status,
        supervisor.answer_filters,
        supervisor.answer_config,
        supervisor.find_shared,
    )
    supervisor.follow_config(lambda config: port.mask(tuple(config.privacy.masks)))
    return port


def _config_file(origin: str) -> str:
    """Return the path of the run's configuration file; "" if it has none."""
    if origin == DEFAULTS:
        return ""
    return str(Path(origin).absolute())


def _sinks_process(
    setup: RunSetup, plan: Plan, supervisor: Supervisor, http: str | None
) -> SinksProcess:
    """Return the process of the sinks. http: HOST:PORT of the run"""
    profiles = Profiles()
    if any(sink.commands for sink in setup.config.sinks.values()):
        profiles = _profiles(setup.config)
    teller = plan.run
    if plan.slot:
        teller = plan.identity
    spec = SinksSpec(
        run=plan.run,
        teller=teller,
        store=plan.store,
        sinks=setup.config.sinks,
        rules=_known_rules(setup.config),
        profile=profiles.selected,
        profiles=profiles.names,
        http=http,
        token=_secret(setup),
        log_level=plan.log_level,
        log_format=plan.log_format,
    )
    sinks = SinksProcess(spec, supervisor.answer_config, supervisor.status)
    supervisor.listen(sinks.take_sources)
    supervisor.follow_config(
        lambda config: sinks.use(config.sinks, _known_rules(config), _profiles(config))
    )
    return sinks


def _profiles(config: Config) -> Profiles:
    return Profiles(config.events.profile, tuple(config.events.profiles))


def _known_rules(config: Config) -> dict[str, KnownRule]:
    events = config.events
    return {
        name: KnownRule(rule.when, events.source_of(rule)) for name, rule in events.rules.items()
    }


def _log_error(task: asyncio.Task[None]) -> None:
    """Log the error with which a background task of the run ended."""
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.error("a background task has ended; the run continues without it", exc_info=error)


def _start_printer(plan: Plan, supervisor: Supervisor, errors: list[OSError]) -> Printer:
    """Start the printer. It adds errors of standard output, except a closed pipe, to `errors`."""
    loop = asyncio.get_running_loop()

    def stop_output(error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            errors.append(error)
            log.error("standard output: %s; the run drains, its results are stored", error)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        loop.call_soon_threadsafe(drain)

    def drain() -> None:
        if not supervisor.is_ending:  # Ctrl-C ends the reader too, and a second drain stops at once
            supervisor.drain()

    def fail(error: Exception) -> None:
        loop.call_soon_threadsafe(supervisor.fail, f"the printer of results failed: {error!r}")

    spec = plan.spec("printer", [PRINT], supervisor.sources.specs(), Deaths())
    printer = Printer(spec, Unbuffered(sys.stdout.fileno()), stop_output, fail)
    printer.start()
    supervisor.listen(printer.take_sources)
    return printer
