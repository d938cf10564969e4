"""Read a configuration of Frigate: its cameras, their settings, and which keys were not read.

The keys are those of Frigate 0.12 to 0.18 (docs.frigate.video/configuration/reference); for those
before 0.15, the way in which newer versions rewrite them. Each key that was not read is listed with
the reason, so that nothing is left out silently.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from framegate.cli.setup.config_file import free_name
from framegate.pipeline.contracts.errors import ConfigFaults

_VARIABLE: Final = re.compile(r"\{(FRIGATE_\w+)\}")
_RESTREAM: Final = re.compile(r"rtsp://(?:127\.0\.0\.1|localhost):8554/([^?#]+)")
_SCHEMES: Final = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "srt://", "udp://")

_REASONS: Final = {
    "detectors": "Framegate chooses a network for the size of the picture and this processor",
    "model": "Framegate has its own networks; framegate models add adds your own",
    "min_score": "scores of another network mean something else",
    "threshold": "scores of another network mean something else",
    "min_area": "a filter has min_height and min_width, and no limit of the area",
    "max_area": "a filter has max_height and max_width, and no limit of the area",
    "distances": "add metres to the area, the places of its four corners on the ground",
    "speed_threshold": "set faster_m_s in the rule, after you have added metres to the area",
    "hwaccel_args": "see hwaccel under [stages.decode]",
    "input_args": "Framegate has its own clients of RTSP and HTTP",
    "output_args": "Framegate records the stream as the camera sends it",
    "fps": "the gate decides which frames are looked at; frames = { max_fps = N } limits them",
    "stationary": "objects at rest are looked at less often without a setting",
    "go2rtc": "Framegate reads each camera once, and shows pictures at 10 per second",
    "onvif": "Framegate does not turn cameras",
    "notifications": "see docs/sinks.md, kind notify",
    "snapshots": "episodes keep pictures, see docs/review.md",
    "genai": "Framegate sends nothing to other services",
    "semantic_search": "framegate visits finds visits that are like marked ones",
    "face_recognition": "Framegate recognises no faces",
    "lpr": "Framegate reads no number plates",
    "topic_prefix": "topics and messages differ, see docs/sinks.md",
    "client_id": "Framegate has its own",
    "stats_interval": "see /metrics in docs/http.md",
    "birdseye": "the live page shows all cameras",
    "live": "the live page shows all cameras",
    "ui": "the pages have no such settings",
    "logger": "see [log] in docs/configuration.md",
    "timestamp_style": "pictures have no text; results have the time of each frame",
    "rtmp": "Framegate passes no streams on",
    "preview": "thumbnails are made from key frames, see docs/recording.md",
    "auth": "see docs/accounts.md",
    "tls": "see docs/accounts.md",
    "proxy": "see docs/accounts.md",
    "mode": "recordings are kept whole",
    "motion": "the gate learns its thresholds",
    "audio": "sounds have their own network; see [sound]",
}
_ELSE: Final = "Framegate has no such setting"


class Layers:
    """A table of Frigate with the tables that it falls back on; notes which keys were read.

    tables  the nearest first, each with the path of its keys in the file
    """

    def __init__(self, tables: Sequence[tuple[str, Any]], read: set[str]) -> None:
        self._tables = [(path, table) for path, table in tables if isinstance(table, Mapping)]
        self._read = read

    def get(self, key: str, default: Any = None) -> Any:
        """Return the nearest value of a key."""
        values = []
        for path, table in self._tables:
            if key in table:
                self._read.add(_joined(path, key))
                values.append(table[key])
        return next((value for value in values if value is not None), default)

    def number(self, key: str, default: float = 0.0) -> float:
        """Return the nearest value of a key, which must be a number. ConfigFaults."""
        value = self.get(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise ConfigFaults([f"{self.place(key)} = {value!r}: must be a number"])
        return number

    def below(self, key: str) -> Layers:
        """Return the tables with this key."""
        tables = [(_joined(path, key), table.get(key)) for path, table in self._tables]
        return Layers(tables, self._read)

    def names(self) -> list[str]:
        """Return the keys of all tables."""
        names: dict[str, None] = {}
        for _, table in self._tables:
            names.update(dict.fromkeys(map(str, table)))
        return list(names)

    def place(self, key: str) -> str:
        """Return the path of the nearest value of a key, for an error."""
        for path, table in self._tables:
            if key in table:
                return _joined(path, key)
        return key


@dataclass(frozen=True)
class FrigateCamera:
    """A camera of the file.

    name     as Framegate writes it
    url      of the stream that is recorded, with its password
    small    of the stream that the network looks at; "" if it is the same one
    records  whether Frigate records it
    keys     its settings, with those of the whole file behind them
    """

    name: str
    url: str
    small: str
    records: bool
    keys: Layers


@dataclass
class FrigateFile:
    """A configuration of Frigate. One thread.

    file     its path, for errors
    keys     the settings of the whole file
    raw      the file as it is
    read     paths of the keys that were read
    off      names of the cameras that are disabled
    values   of {FRIGATE_...} in the file
    skipped  what was read and has no counterpart, by the reason
    """

    file: Path
    cameras: list[FrigateCamera]
    keys: Layers
    raw: Mapping[str, Any]
    read: set[str]
    off: Sequence[str]
    values: Mapping[str, str]
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, key: str, reason: str) -> None:
        """Note that a key, or a part of it, is not taken over."""
        keys = self.skipped.setdefault(reason, [])
        if key not in keys:
            keys.append(key)

    def broker(self) -> str:
        """Return the URL of the MQTT broker, with its password; "" without one. ConfigFaults."""
        mqtt = self.keys.below("mqtt")
        is_on = mqtt.get("enabled", True)
        host = mqtt.get("host")
        if not host or not is_on:
            return ""
        scheme = "mqtts" if mqtt.get("tls_ca_certs") else "mqtt"
        user, password = mqtt.get("user"), mqtt.get("password")
        login = ""
        if user:
            parts = [str(user), str(password or "")]
            for match in _VARIABLE.finditer(" ".join(parts)):
                if match[1] not in self.values:
                    raise ConfigFaults([f"{self.file}: mqtt: set the variable {match[1]}"])
            filled = [_VARIABLE.sub(lambda found: self.values[found[1]], part) for part in parts]
            login = f"{_quoted(filled[0])}:{_quoted(filled[1])}@"
        return f"{scheme}://{login}{host}:{mqtt.get('port', 1883)}"

    def left(self) -> dict[str, list[str]]:
        """Return what was not taken over until now, by the reason."""
        for name in self.off:
            self.skip(f"cameras.{name}", "the camera is disabled")
        for path in _leaves(self.raw):
            parts = path.split(".")
            ways = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            if not ways & self.read:
                self.skip(*_explained(parts, self.read))
        return self.skipped


# -- Reading.


def read_frigate(file: Path, environment: Mapping[str, str]) -> FrigateFile:
    """Return the configuration in a file. ConfigFaults with all faults.

    environment  values of {FRIGATE_...} in the file
    """
    raw = _loaded(file)
    read: set[str] = set()
    everything = Layers([("", raw)], read)
    faults: list[str] = []
    cameras = []
    off = []
    taken: set[str] = set()
    not_looked_at: set[str] = set()
    everything.get("version")
    tables = everything.below("cameras")
    for name in tables.names():
        own = raw["cameras"][name]
        keys = Layers([(f"cameras.{name}", own), ("", raw)], read)
        if not tables.below(name).get("enabled", True):
            off.append(name)
            read.add(f"cameras.{name}")
            continue
        detect = keys.below("detect")
        for key in ("width", "height"):
            detect.get(key)
        if not detect.get("enabled", True):
            not_looked_at.add(detect.place("enabled"))
        urls = _urls(file, name, keys, raw, environment, faults)
        if urls is None:
            continue
        source = free_name(name, taken)
        taken.add(source)
        small = urls[1] if urls[1] != urls[0] else ""
        records = bool(keys.below("record").get("enabled", False))
        cameras.append(FrigateCamera(source, urls[0], small, records, keys))
    read -= not_looked_at  # Framegate looks at each camera
    if not cameras and not faults:
        faults.append(f"{file}: no camera that is enabled; cameras are expected under cameras")
    if faults:
        raise ConfigFaults(faults)
    return FrigateFile(file, cameras, everything, raw, read, off, environment)


def _loaded(file: Path) -> Mapping[str, Any]:
    if importlib.util.find_spec("yaml") is None:
        raise ConfigFaults(
            ["--frigate needs the package pyyaml, which is not installed; run: pip install pyyaml"]
        )
    yaml: Any = importlib.import_module("yaml")
    try:
        raw = _with_text_keys(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigFaults([f"{file}: the file cannot be read ({reason})"]) from error
    except RecursionError as error:
        raise ConfigFaults(
            [f"{file}: its tables are nested too deep, or contain themselves"]
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date such as 2026-13-01
        text = " ".join(str(error).split())
        raise ConfigFaults([f"{file}: not valid YAML: {text}"]) from error
    if not isinstance(raw, Mapping) or not isinstance(raw.get("cameras"), Mapping):
        raise ConfigFaults([f"{file}: no table cameras; is it a configuration of Frigate?"])
    return raw


def _with_text_keys(value: Any) -> Any:
    """Return the value with the keys of tables as texts; YAML also has numbers, and on and off."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(each) for each in value]
    return value


def _urls(
    file: Path,
    name: str,
    keys: Layers,
    raw: Mapping[str, Any],
    environment: Mapping[str, str],
    faults: list[str],
) -> tuple[str, str] | None:
    """Return the streams of a camera that are recorded and looked at; note a fault if none is."""
    inputs = keys.below("ffmpeg").get("inputs", [])
    if not isinstance(inputs, list):
        inputs = []
    by_role: dict[str, str] = {}
    for number, each in enumerate(inputs):
        path = each.get("path") if isinstance(each, Mapping) else None
        if not isinstance(path, str):
            faults.append(
                f"{file}: cameras.{name}.ffmpeg.inputs[{number}].path = {path!r}: must be a string"
            )
            return None
        roles = listed(each.get("roles", ()))
        if len(inputs) == 1:  # Frigate gives a single input these roles, too
            roles = ["record", "detect"]
        for role in roles:
            by_role.setdefault(role, path)
    if "detect" not in by_role:
        faults.append(f"{file}: cameras.{name}.ffmpeg.inputs: no path with the role detect")
        return None
    pair = []
    for path in (by_role.get("record", by_role["detect"]), by_role["detect"]):
        url = _restreamed(path, raw)
        missing = [each for each in _VARIABLE.findall(url) if each not in environment]
        if missing:
            faults.append(
                f"{file}: cameras.{name}: set the variable {missing[0]}, which its URL contains"
            )
            return None
        url = _VARIABLE.sub(lambda match: _quoted(environment[match[1]]), url)
        if not url.startswith(_SCHEMES):
            faults.append(
                f"{file}: cameras.{name}: {url.partition(':')[0]} is no stream that Framegate "
                f"reads; allowed: {', '.join(_SCHEMES)}"
            )
            return None
        pair.append(url)
    return pair[0], pair[1]


def _restreamed(path: str, raw: Mapping[str, Any]) -> str:
    """Return the camera's own URL of a stream that Frigate's go2rtc passes on."""
    match = _RESTREAM.match(path)
    go2rtc = raw.get("go2rtc")
    if match is None or not isinstance(go2rtc, Mapping):
        return path
    streams = go2rtc.get("streams")
    if not isinstance(streams, Mapping):
        return path
    for text in listed(streams.get(match[1], ())):
        url = text.removeprefix("ffmpeg:").partition("#")[0]
        if url.startswith(_SCHEMES):
            return url
    return path


# -- Values.


def listed(value: Any) -> list[str]:
    """Return the texts of a list, or one text as a list; [] for anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    return []


def _quoted(text: str) -> str:
    return quote(str(text), safe="")


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _leaves(table: Mapping[str, Any], path: str = "") -> Iterable[str]:
    for key, value in table.items():
        here = _joined(path, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, here)
        elif value is not None:
            yield here


def _explained(parts: Sequence[str], read: Iterable[str]) -> tuple[str, str]:
    """Return a key that was not converted, without the camera's name, and the reason.

    Where no reason is known, it is the shortest part of the path below which nothing was converted.
    """
    begin = 0
    if parts[0] == "cameras" and len(parts) > 2:
        begin = 2
    for end, part in enumerate(parts[begin:], begin + 1):
        if part in _REASONS:
            return ".".join(parts[begin:end]), _REASONS[part]
    end = begin + 1
    while end < len(parts) and _has_below(read, ".".join(parts[:end])):
        end += 1
    return ".".join(parts[begin:end]), _ELSE


def _has_below(paths: Iterable[str], path: str) -> bool:
    return any(each.startswith(f"{path}.") for each in paths)
