"""Sources: `[sources.NAME]`, and on the command line: paths, globs, URLs, `name=PATH`."""

from __future__ import annotations

import glob
import importlib.util
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from framegate.pipeline.config.read_options import from_environment, read_named, unset_variable
from framegate.pipeline.contracts.errors import ConfigFaults, FaultReason
from framegate.pipeline.contracts.keys import NAME_MOST, NAME_RULE, is_name
from framegate.pipeline.contracts.recorded_range import is_recorded
from framegate.pipeline.contracts.redaction import HIDDEN, host_and_path, split_login
from framegate.pipeline.contracts.source import DecodeMode, Frames, Transport
from framegate.pipeline.contracts.spec import PaceName

ONVIF: Final = "onvif"  # as `events`: at the host of the stream


@dataclass(frozen=True)
class SourceConfig:
    """`[sources.NAME]`: a camera or a file. Sources can also be given on the command line.

    url        path or URL, or webcam:N
    url_env    name of an environment variable that contains the URL
    look_at    URL of a smaller stream of the same camera. The network looks at that stream; the
               stream of `url` is recorded and not decoded, and results are in its pixels
    look_at_env  name of an environment variable that contains this URL
    pace       speed of a file. fast: as fast as possible. realtime: as the time stamps say
    live       true: a camera, of which the newest frame matters. false: a file. Default: decided by
               the URL
    transport  transport of RTSP
    frames     frames that are used: all, keyframes, or a table with every or max_fps. The other
               frames are skipped
    decode     always: every frame is decoded. lazy: while nothing changes, only key frames are, and
               the other frames get results with `reason: undecoded`. Default: [live] decode for a
               camera, always for a file
    events     onvif: follow the events that the camera itself detects. Its results carry them,
               rules can name them, and they wake it from lazy decoding. Address and login are those
               of its stream. If its ONVIF service has another address: the URL,
               http://HOST/onvif/device_service. Needs the package onveef
    """

    url: str = ""
    url_env: str | None = None
    look_at: str | None = None
    look_at_env: str | None = None
    pace: PaceName = "fast"
    live: bool | None = None
    transport: Transport = "tcp"
    frames: str | dict[str, Any] = "all"
    decode: DecodeMode | None = None
    events: str | None = None


def read_sources(table: Mapping[str, Any], faults: list[str]) -> dict[str, SourceConfig]:
    """Return the sources of `[sources]`; append their faults."""
    sources = read_named(SourceConfig, table, "sources", "a table with url or url_env", faults)
    for name, source in sources.items():
        path = f"sources.{name}"
        if bool(source.url) == bool(source.url_env):
            faults.append(f"{path}: must have either url or url_env")
        faults += unset_variable(source.url_env, f"{path}.url_env")
        faults += _look_at_faults(name, source)
        faults += _events_faults(name, source)
        try:
            frames_of(source.frames)
        except ValueError as error:
            faults.append(f"{path}.frames = {source.frames!r}: {error}")
    return sources


def _look_at_faults(name: str, source: SourceConfig) -> list[str]:
    path = f"sources.{name}"
    if source.look_at is not None and source.look_at_env is not None:
        return [f"{path}: has look_at and look_at_env; keep one of them"]
    faults = unset_variable(source.look_at_env, f"{path}.look_at_env")
    if faults or (source.look_at is None and source.look_at_env is None):
        return faults
    key = "look_at" if source.look_at_env is None else "look_at_env"
    if not is_live(small_place_of(name, source)):
        faults.append(f"{path}.{key}: must be the URL of a camera, such as rtsp://HOST/PATH")
    if unset_variable(source.url_env, "") or not (source.url or source.url_env):
        return faults
    if not is_camera(name, source):
        faults.append(f"{path}.{key}: only a camera has a second stream, and {path}.url is a file")
    elif small_place_of(name, source) == place_of(name, source):
        faults.append(f"{path}.{key}: is the same stream as url; leave it out")
    return faults


def _events_faults(name: str, source: SourceConfig) -> list[str]:
    if source.events is None:
        return []
    path = f"sources.{name}.events"
    if source.events != ONVIF:
        try:
            parts = urlsplit(source.events)
            has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            has_host = False
        if not has_host:
            return [f'{path}: must be "onvif", or http://HOST/onvif/device_service']
        if "@" in parts.netloc:
            return [f"{path}: has a login; remove it, because the login of the stream is used"]
    if importlib.util.find_spec("onveef") is None:
        return [f"{path}: needs the package onveef, which is not installed; pip install onveef"]
    if unset_variable(source.url_env, "") or not (source.url or source.url_env):
        return []
    if not is_camera(name, source):
        return [f"{path}: only a camera has events, and sources.{name}.url is a file"]
    if not events_service(name, source):
        return [f"{path}: sources.{name}.url has no host; only a camera of the network has events"]
    return []


def events_service(name: str, source: SourceConfig) -> str:
    """Return the URL of the ONVIF service whose events a source follows, without a login; "": none.

    ConfigFaults as `place_of`.
    """
    if source.events != ONVIF:
        return source.events or ""
    try:
        host = urlsplit(split_login(place_of(name, source))[1]).hostname
    except ValueError:
        host = None
    if not host:
        return ""
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}/onvif/device_service"


_NAMED = re.compile(r"([A-Za-z0-9_-]+)=(.+)", re.DOTALL)


def named_sources(
    words: Sequence[str], *, opens_folders: bool = False, takes_variables: bool = False
) -> dict[str, str]:
    """Return URLs and paths by source name; a pattern gives the files that match.

    Raises ConfigFaults with all faults: bad or repeated names, no file in a folder or for a
    pattern, a configuration file.

    opens_folders  a folder gives the video files in it, not its own path
    takes_variables  whether the caller reads env:NAME from a variable
    """
    sources: dict[str, str] = {}
    given: set[str] = set()
    faults: list[str] = []
    for word in words:
        name = None
        place = word
        match = _NAMED.fullmatch(word)
        if match is not None and not os.path.exists(word):
            name = match[1]
            place = match[2]
        if name is not None and not is_name(name):
            faults.append(f"{word}: {name!r}: not the name of a source; a name is {NAME_RULE}")
            continue
        if name is not None and name in given:
            faults.append(f"{word}: two sources have the name {name!r}; rename one")
            continue
        if is_configuration(place):
            faults.append(f"{word}: this is a configuration; run: framegate run -c {place}")
            continue
        is_variable = place.startswith("env:") and not os.path.exists(place)
        if is_variable and not takes_variables:
            faults.append(f"{word}: {_named_variable(name, place.removeprefix('env:'))}")
            continue
        try:
            places = _expanded(place, opens_folders)
        except OSError as error:
            faults.append(f"{word}: this folder cannot be read: {error.strerror}")
            continue
        if not places:
            faults.append(f"{word}: {_nothing_there(place)}")
        for each in places:
            if not _is_text(each):
                faults.append(f"{each!r}: the file name is not UTF-8; rename the file")
                continue
            chosen = _free(name or derived_name(each), sources)
            given.add(chosen)
            sources[chosen] = each
    if faults:
        raise ConfigFaults(faults)
    return sources


def is_configuration(place: str) -> bool:
    """Return whether a word of the command line is a configuration file by its name."""
    return not is_remote(place) and place.endswith(".toml")


_LIVE = re.compile(r"(?i:rtsps?|rtmps?|rtp|udp|srt|mms)://|webcam:\d+$")
_VIDEO_FILE = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi|ts|mts|m2ts|mpe?g|flv|wmv|ogv|3gp)$")


def is_live(place: str) -> bool:
    """Return whether a place is a camera and not a file.

    The scheme decides. Over HTTP, a place is a camera unless its path names a video file.
    """
    if _LIVE.match(place):
        return True
    if not place.lower().startswith(("http://", "https://")):
        return False
    return not _VIDEO_FILE.search(re.split(r"[?#]", place, maxsplit=1)[0].lower())


def is_camera(name: str, source: SourceConfig) -> bool:
    """Return whether it is live, as configured or by its URL. ConfigFaults as `place_of`."""
    if source.live is not None:
        return source.live
    return is_live(place_of(name, source))


def place_of(name: str, source: SourceConfig) -> str:
    """Return its path or URL, with the secret. ConfigFaults if the secret's variable is not set."""
    if source.url_env is None:
        return source.url
    return from_environment(source.url_env, f"sources.{name}.url_env")


def small_place_of(name: str, source: SourceConfig) -> str:
    """Return the URL of its smaller stream, with the secret; "" if it has none. ConfigFaults as
    `place_of`.
    """
    if source.look_at_env is None:
        return source.look_at or ""
    return from_environment(source.look_at_env, f"sources.{name}.look_at_env")


def is_remote(place: str) -> bool:
    """Return whether a place is a URL, a webcam or a range of a recording, not a path."""
    return "://" in place or _LIVE.match(place) is not None or is_recorded(place)


def path_fault(path: str) -> tuple[FaultReason, str] | None:
    """Return why a path is not a regular file with content; None if it is. Read nothing of it."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return "not_video", "this is a directory"
        if not stat.S_ISREG(status.st_mode):
            return "not_video", "this is a pipe or device, which cannot be read twice"
        with open(path, "rb"):
            pass
    except PermissionError:
        return "permission", "no permission to read it"
    except (OSError, ValueError):  # missing, a name that is too long or has a NUL, a loop of links
        return "missing", "there is no such file"
    if status.st_size == 0:
        return "empty", "the file is empty"
    return None


FRAMES_RULE = 'must be "all", "keyframes", {every = N} or {max_fps = F}, each above 0'


def frames_of(choice: str | Mapping[str, Any]) -> Frames:
    """Return the frames that a configuration or the command line (`every=3`) selects.

    Raises ValueError with the allowed values.
    """
    if isinstance(choice, str):
        key, _, value = choice.partition("=")
        words: dict[str, Mapping[str, Any]] = {"all": {}, "keyframes": {"keyframes": True}}
        choice = words.get(choice, {key: value})
    try:
        frames = msgspec.convert(choice, Frames, strict=False)
    except msgspec.ValidationError:
        raise ValueError(FRAMES_RULE) from None
    fps = frames.max_fps
    if frames.every < 1 or (fps is not None and not 0 < fps < math.inf):
        raise ValueError(FRAMES_RULE)
    return frames


def _expanded(place: str, opens_folders: bool) -> list[str]:
    if is_remote(place):
        return [place]
    if opens_folders and os.path.isdir(place):
        names = sorted(os.listdir(place))
        files = [os.path.join(place, name) for name in names if _VIDEO_FILE.search(name.lower())]
        return [file for file in files if os.path.isfile(file)]
    if os.path.exists(place) or not glob.has_magic(place):
        return [place]
    return sorted(glob.glob(place, recursive=True))


def _named_variable(name: str | None, variable: str) -> str:
    """Return how a source whose URL is in a variable is given to a run."""
    table = f"[sources.{name or 'NAME'}]"
    return (
        f'a variable is named in pipeline.toml, as url_env = "{variable}" of {table}; '
        f"framegate add {name or 'NAME'}=- reads a URL from standard input"
    )


def _nothing_there(place: str) -> str:
    if os.path.isdir(place):
        pattern = os.path.join(place, "*")
        return f"this folder has no video file; name files, or a pattern such as {pattern!r}"
    return "no file matches"


def _is_text(place: str) -> bool:
    """Return whether a name is text: the name of a file on disk can be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in place)


def derived_name(place: str) -> str:
    """Return a source name from the last part of a path or URL that is not secret."""
    path = place.split("?", 1)[0].rstrip("/").replace("webcam:", "webcam")
    if "://" in path:
        host, _, inner = host_and_path(place).partition("/")
        path = inner.removesuffix(HIDDEN).rstrip("/") or host.partition(":")[0].replace(".", "_")
    stem = PurePath(path).stem
    name = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")
    if not name[:1].isalpha():
        name = f"s_{name}".rstrip("_")
    return name[:28]


def _free(name: str, taken: dict[str, str]) -> str:
    number = 2
    chosen = name
    while chosen in taken:
        ending = f"_{number}"
        chosen = name[: NAME_MOST - len(ending)] + ending
        number += 1
    return chosen
