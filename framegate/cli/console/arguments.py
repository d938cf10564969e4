"""Arguments that several commands share, and the configuration that results from them."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from framegate.pipeline.client.when import time_of
from framegate.pipeline.config.config import PACKAGED, Config, find_config, read_config
from framegate.pipeline.config.sources import frames_of, is_configuration, named_sources
from framegate.pipeline.config.store import store_said
from framegate.pipeline.contracts.errors import ConfigFaults


def add_sources(command: argparse.ArgumentParser) -> None:
    """Add SOURCE arguments."""
    command.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="file, folder, glob or URL, or NAME=SOURCE; added to the sources of the configuration",
    )


def add_source_keys(command: argparse.ArgumentParser) -> None:
    """Add the options about how the command line's sources are read; see source_keys."""
    command.add_argument(
        "--transport", choices=("tcp", "udp"), help="RTSP transport (default: tcp)"
    )
    command.add_argument(
        "--frames",
        metavar="WHICH",
        help="frames to process: all, keyframes, every=N or max_fps=F (default: all)",
    )
    command.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="treat the sources as cameras, or as files (default: by their URLs)",
    )


def source_keys(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the command line's sources, as keys of their tables. ConfigFaults."""
    values = {key: getattr(parsed, key, None) for key in ("transport", "frames", "live")}
    given = {key: value for key, value in values.items() if value is not None}
    if given and not parsed.sources:
        options = ", ".join(f"--{key}" for key in given)
        raise ConfigFaults(
            [f"{options}: these options are for sources of the command line, which has none"]
        )
    if "frames" in given:
        try:
            frames_of(given["frames"])
        except ValueError as error:
            raise ConfigFaults([f"--frames {given['frames']}: {error}"]) from error
    return given


def add_data(command: argparse.ArgumentParser) -> None:
    """Add `-d` to a command that reads a run's data: this folder, else the newest run's."""
    command.add_argument(
        "-d",
        dest="data",
        type=Path,
        metavar="DATA",
        help="the run's data folder (default: the active run, or the last one without -d)",
    )


def add_run(command: argparse.ArgumentParser) -> None:
    """Add `-d` to a command that asks an active run: that of this folder, else the only one."""
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="the run's data folder")


def add_place(command: argparse.ArgumentParser) -> None:
    """Add `-d` and `--store`, one of which selects the run that a command reads."""
    add_data(command)
    command.add_argument("--store", metavar="URL", help="the run's store, or env:NAME; not with -d")


def place_faults(parsed: argparse.Namespace) -> list[str]:
    """Return the fault of a command line that selects a run twice."""
    if parsed.store is not None and parsed.data is not None:
        return ["give --store or -d, not both"]
    return []


def add_registry(command: argparse.ArgumentParser) -> None:
    """Add `--registry` to a command that reads models or adds one."""
    command.add_argument(
        "--registry",
        type=Path,
        metavar="DIR",
        help="folder of your models (default: $XDG_DATA_HOME/framegate/models, or "
        "below ~/.local/share)",
    )


def given_time(option: str, text: str | None) -> float | None:
    """Return the UNIX seconds of an option; None if it is not given. ConfigFaults."""
    if text is None:
        return None
    try:
        return time_of(text, time.time())
    except ValueError as error:
        raise ConfigFaults([f"{option} {error}"]) from None


def typed_url(name: str) -> str:
    """Return a source's URL from standard input; a terminal does not show it. ConfigFaults."""
    if sys.stdin.isatty():
        typed = getpass.getpass(f"URL of {name}: ")
    else:
        typed = sys.stdin.readline()
    if not typed.strip():
        raise ConfigFaults([f"source {name}: standard input had no URL"])
    return typed.strip()


def add_config_file(command: argparse.ArgumentParser) -> None:
    """Add the options that name the configuration file and the file of its secrets."""
    command.add_argument(
        "-c",
        dest="config",
        type=Path,
        metavar="FILE",
        help="configuration file, which overrides the defaults (default: "
        "./pipeline.toml, if it exists)",
    )
    command.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="file of environment variables, one NAME=VALUE per line, for url_env",
    )


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the options that override the configuration file."""
    add_config_file(command)
    places = command.add_argument_group("store and ports")
    places.add_argument(
        "--store",
        metavar="URL",
        help="your Redis or Valkey (default: embedded); env:NAME reads the URL from a variable",
    )
    places.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="also listen on this address, for a read-only user (embedded store)",
    )
    places.add_argument(
        "--listen-password-file",
        metavar="FILE",
        help="file with that user's password (default: FRAMEGATE_LISTEN_PASSWORD, or a prompt)",
    )
    places.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="address of metrics, health and live page (default: 127.0.0.1:8686, or a "
        "free port), or off",
    )
    detection = command.add_argument_group("detection")
    detection.add_argument(
        "--detector",
        metavar="MODEL",
        help="light, heavy, surveillance, surveillance-large, nanodet-plus-SIDE, or the name of "
        "your model",
    )
    detection.add_argument(
        "--registry",
        type=Path,
        metavar="DIR",
        help="folder of your models (default: the folder of framegate models)",
    )
    detection.add_argument(
        "--classes",
        metavar="A,B",
        help="classes to detect, or all (default: people, vehicles and animals)",
    )
    detection.add_argument(
        "--min-score", type=float, metavar="S", help="confidence threshold, 0 to 1"
    )
    detection.add_argument(
        "--device",
        metavar="DEVICE",
        help="device for the network: CPU (default), GPU, NPU, ... or AUTO, the "
        "fastest device whose outputs match those of the CPU",
    )
    command.add_argument(
        "--log-format", choices=("text", "json"), help="format of log lines on stderr"
    )


def configuration(parsed: argparse.Namespace, without: Collection[str] = ()) -> tuple[str, Config]:
    """Return the origin of the configuration, and file and command line merged.

    without: tables of the file that are ignored

    A SOURCE that is a TOML file is the configuration, as if -c named it; `parsed` is changed
    accordingly. ConfigFaults with all faults.
    """
    parsed.config, parsed.sources = _split_off_configuration(parsed.config, parsed.sources)
    origin, text = find_config(parsed.config)
    return origin, read_config(origin, text, _changes(parsed), _detection(parsed), without)


def config_reader(
    parsed: argparse.Namespace, without: Collection[str] = ()
) -> Callable[[str], Config]:
    """Return a function that merges another text of the file with the command line.

    parsed  as `configuration` left it; without: as there
    """
    origin = str(parsed.config or PACKAGED)
    changes, detection = _changes(parsed), _detection(parsed)
    return lambda text: read_config(origin, text, changes, detection, without)


def _split_off_configuration(
    config: Path | None, sources: Sequence[str]
) -> tuple[Path | None, list[str]]:
    """Return the configuration file and the sources without it.

    The file may be one of the sources. ConfigFaults if there are several configuration files.
    """
    files = [word for word in sources if is_configuration(word)]
    named = [] if config is None else [str(config)]
    if len({*named, *files}) > 1:
        several = ", ".join([*named, *files])
        raise ConfigFaults([f"{several}: there are several configuration files; give one"])
    if files:
        config = Path(files[0])
    return config, [word for word in sources if word not in files]


def _changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the command line in the form of configuration tables."""
    changes: dict[str, Any] = {}
    store = store_said(parsed.store, parsed.listen, parsed.listen_password_file)
    if store:
        changes["store"] = store
    if parsed.http is not None:
        changes["http"] = {"listen": parsed.http}
    named = named_sources(parsed.sources, opens_folders=True)
    keys = source_keys(parsed)
    changes["sources"] = {name: {"url": url, **keys} for name, url in named.items()}
    if parsed.registry is not None:
        changes["models"] = {"registry": str(parsed.registry)}
    if parsed.log_format is not None:
        changes["log"] = {"format": parsed.log_format}
    if getattr(parsed, "record", False):
        names = dict.fromkeys([*getattr(parsed, "named_before", ()), *named])
        changes["record"] = {"sources": list(names) or True}
    if getattr(parsed, "draw", None) == "gate":
        changes["gate"] = {"view": True}
    return changes


def _detection(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the options about detection, as options of the stage that uses models."""
    options: dict[str, Any] = {}
    if parsed.detector:
        options["detector"] = parsed.detector
    if parsed.device is not None:
        options["device"] = parsed.device
    if parsed.classes is not None:
        names = [name.strip() for name in parsed.classes.split(",") if name.strip()]
        options["classes"] = "all" if names == ["all"] else names
    if parsed.min_score is not None:
        options["min_score"] = parsed.min_score
    return options
