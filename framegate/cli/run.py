"""`framegate run`: its arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from framegate.cli.console.arguments import (
    add_config,
    add_source_keys,
    add_sources,
    config_reader,
    configuration,
)
from framegate.cli.help import EXITS, ending
from framegate.pipeline.client.when import TIME
from framegate.pipeline.config.config import Config
from framegate.pipeline.config.read_options import from_environment
from framegate.pipeline.config.sources import named_sources
from framegate.pipeline.config.store import BY_NAME
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.recorded_range import is_recorded
from framegate.pipeline.contracts.redaction import secrets_of
from framegate.pipeline.run.folder import read_run
from framegate.pipeline.run.run import run
from framegate.pipeline.run.run_processes import RunOptions
from framegate.pipeline.system.logs import set_up_logging, to_user
from framegate.pipeline.system.outputs import add_overwrite


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "run",
        description="Decode each source, detect and track objects, and publish one result per "
        "frame. Ctrl-C finishes decoded frames and ends the run; a second Ctrl-C "
        "ends it at once.",
        epilog=ending(
            "framegate run clip.mp4 --json",
            "framegate run clip.mp4 --save videos --classes person,car",
            "framegate run entrance=rtsp://camera.example/stream -d data",
            "framegate run --resume -d data",
            "framegate run --slot box1 --store redis://store.example -d data",
            "framegate run --from-recording data/entrance --since 1d -c new.toml -d again",
            page="running",
            more=EXITS,
        ),
    )
    command.set_defaults(command=_run)
    add_sources(command)
    add_config(command)
    _add_outputs(command)
    command.add_argument(
        "--pace",
        choices=("realtime", "fast"),
        help="pace of files: by their time stamps, or as fast as possible",
    )
    add_source_keys(command)
    _add_recorded(command)
    command.add_argument(
        "-d", dest="data", type=Path, metavar="DATA", help="data folder (default: a new one)"
    )
    command.add_argument("--resume", action="store_true", help="continue the run in DATA")
    command.add_argument(
        "--take-over",
        action="store_true",
        help="take over sources from another run; a run that lost a source does not take it back",
    )
    _add_slot(command)


def _add_slot(command: argparse.ArgumentParser) -> None:
    """Add the options of a slot of a fleet."""
    command.add_argument(
        "--slot",
        metavar="NAME",
        help="serve the sources that the plan of a fleet gives to this slot; see framegate fleet",
    )
    command.add_argument(
        "--fleet-secret",
        metavar="env:NAME",
        help="variable with a secret of at least 16 characters, the same for all slots: a promise "
        "then keeps its period when its source moves",
    )


def _add_outputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one result per line as JSON")
    command.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write an annotated video of each source into DIR, NAME.framegate.mp4",
    )
    add_overwrite(command)
    command.add_argument(
        "--record",
        action="store_true",
        help="record the named sources; without any, record all cameras",
    )
    command.add_argument(
        "--draw",
        choices=("gate",),
        help="draw changed tiles, the parts that were looked at and why, and the "
        "thresholds, into videos, snapshots and the live page",
    )


def _add_recorded(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--from-recording",
        dest="recorded",
        action="append",
        default=[],
        metavar="CAMERA",
        help="detect again in what a run recorded of this source, as fast as possible; DATA/CAMERA "
        "for a run that is neither active nor the last one; may be repeated. Sources, sinks "
        "and recording of the configuration are left out",
    )
    command.add_argument("--since", metavar="WHEN", help=f"start of the recorded range: {TIME}")
    command.add_argument("--until", metavar="WHEN", help="end of the recorded range, as --since")


def _add_recorded_sources(parsed: argparse.Namespace) -> None:
    """Add the sources of --from-recording to SOURCE. ConfigFaults."""
    faults = []
    if parsed.sources:
        faults.append("give SOURCE or --from-recording, not both")
    if parsed.record:
        faults.append("--record: what is read from a recording is not recorded again")
    if parsed.live:
        faults.append("--live: a recording is read as a file")
    if parsed.resume:
        faults.append(
            "--resume continues with the recordings of the run; leave --from-recording out"
        )
    if faults:
        raise ConfigFaults(faults)
    # It loads the library of tables, for which no other run should wait.
    from framegate.cli.review.recordings import recorded_places

    places = recorded_places(parsed.recorded, parsed.since, parsed.until)
    parsed.sources += [f"{name}={place}" for name, place in places.items()]


def _is_of_recordings(data: Path) -> bool:
    """Return whether the run in a folder detects again in recordings. DataFolderRefused."""
    known = read_run(data)
    return known is not None and any(is_recorded(source.url) for source in known.sources)


def _named_before(parsed: argparse.Namespace) -> list[str]:
    """Return the sources that earlier commands of a resumed run named; --record records them."""
    known = None
    if parsed.resume and parsed.data is not None:
        known = read_run(parsed.data)
    if known is None:
        return []
    return [source.name for source in known.sources if source.by == "command"]


# Tables of a configuration that concern cameras, or tell others what happens now.
_NOT_FOR_RECORDED: Final = ("sources", "sinks", "record", "learn")


def _run(parsed: argparse.Namespace) -> Exit:
    without: tuple[str, ...] = ()
    if parsed.recorded:
        _add_recorded_sources(parsed)
        without = _NOT_FOR_RECORDED
    elif parsed.since is not None or parsed.until is not None:
        raise ConfigFaults(["--since and --until need --from-recording CAMERA"])
    elif parsed.resume and parsed.data is not None and _is_of_recordings(parsed.data):
        without = _NOT_FOR_RECORDED
    parsed.named_before = _named_before(parsed)
    origin, config = configuration(parsed, without)
    set_up_logging(config.log.level, "run", config.log.format)
    if parsed.slot is not None:
        _check_slot(parsed, config)
    elif not config.sources and not parsed.resume:
        raise ConfigFaults(
            [
                "no source; give one, for example: framegate run clip.mp4; framegate init writes a "
                "file of cameras"
            ]
        )
    if parsed.take_over and parsed.data is None:
        raise ConfigFaults(["--take-over needs -d DATA: a run is identified by its data folder"])
    to_user.info("configuration from %s", origin)
    options = RunOptions(
        folder=parsed.data,
        resume=parsed.resume,
        take_over=parsed.take_over,
        json=parsed.json,
        save=parsed.save,
        overwrite=parsed.overwrite,
        pace=parsed.pace,
        named=frozenset(named_sources(parsed.sources, opens_folders=True)),
        resume_with=resume_options(parsed),
        read=config_reader(parsed, without),
        slot=parsed.slot or "",
        fleet_secret=_fleet_secret(parsed),
    )
    return run(config, options)


def _check_slot(parsed: argparse.Namespace, config: Config) -> None:
    """Raise ConfigFaults for what a slot of a fleet cannot have."""
    faults = []
    if not is_name(parsed.slot):
        faults.append(f"--slot {parsed.slot!r}: not the name of a slot; a name is {NAME_RULE}")
    if config.sources:
        faults.append(
            f"--slot: a slot has no sources of its own, got {', '.join(config.sources)}; write "
            "them into fleet.toml, then framegate fleet apply fleet.toml"
        )
    if config.store.place() is None:
        faults.append("--slot needs --store URL: the store that all hosts of the fleet share")
    if parsed.data is None:
        faults.append("--slot needs -d DATA: an instance of a slot is identified by its folder")
    options = {"--take-over": parsed.take_over, "--save": parsed.save, "--json": parsed.json}
    faults += [f"{option}: not with --slot" for option, given in options.items() if given]
    if faults:
        raise ConfigFaults(faults)


SECRET_LEAST = 16  # characters of the fleet's secret


def _fleet_secret(parsed: argparse.Namespace) -> str:
    """Return the secret of the fleet; "" without one. ConfigFaults."""
    if parsed.fleet_secret is None:
        return ""
    variable = parsed.fleet_secret.removeprefix(BY_NAME)
    if variable == parsed.fleet_secret or parsed.slot is None:
        raise ConfigFaults(
            ["--fleet-secret: must be env:NAME, the name of a variable, and needs --slot"]
        )
    secret = from_environment(variable, "--fleet-secret")
    if len(secret) < SECRET_LEAST:
        raise ConfigFaults(
            [
                f"--fleet-secret: the secret in {variable} must have at least {SECRET_LEAST} "
                f"characters, got {len(secret)}"
            ]
        )
    return secret


def resume_options(parsed: argparse.Namespace) -> tuple[str, ...]:
    """Return the options that a data folder does not keep. A URL with a password is left out."""
    values = {
        "-c": parsed.config,
        "--env-file": parsed.env_file,
        "--registry": parsed.registry,
        "--store": parsed.store,
        "--listen": parsed.listen,
        "--listen-password-file": parsed.listen_password_file,
        "--fleet-secret": parsed.fleet_secret,
        "--http": parsed.http,
        "--save": parsed.save,
        "--draw": parsed.draw,
        "--log-format": parsed.log_format,
        "--detector": parsed.detector,
        "--device": parsed.device,
        "--classes": parsed.classes,
        "--min-score": parsed.min_score,
    }
    words: list[str] = []
    for option, value in values.items():
        is_given = value is not None and value != ""
        if is_given and not secrets_of(str(value)):
            words += (option, str(value))
    if parsed.record:
        words.append("--record")
    return tuple(words)
