"""`framegate init`: ask for cameras, connect to each, and write a configuration file."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from framegate.cli.arguments import typed_url
from framegate.cli.capacity import Capacity, MadeFrame
from framegate.cli.check import (
    LARGE_PIXELS,
    MADE_FPS,
    MEASURE_S,
    decoder_of,
    described,
    open_measuring,
    request_of,
)
from framegate.cli.config import SCHEMA_FILE, schema_text
from framegate.cli.help import ending
from framegate.cli.onvif import DiscoveredCamera, find_cameras, installed
from framegate.cli.terminal import Person, counted
from framegate.pipeline.config.config import (
    DEFAULTS,
    PACKAGED,
    Config,
    read_config,
)
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.config.read_options import SECRETS, variables_in
from framegate.pipeline.config.sources import SourceConfig, named_sources
from framegate.pipeline.config.store import BY_NAME
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, SourceFault
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.redaction import redacted, secrets_of
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.system.machine import cores
from framegate.pipeline.system.ports import HTTP_DEFAULT

TRIES: Final = 3
PASSWORD: Final = "FRAMEGATE_CAMERA_PASSWORD"

# How makers name the smaller stream beside the stream that their manuals show.
SUB_STREAMS: Final = (
    (re.compile(r"(?i)(/streaming/channels/\d+0)1\b"), r"\g<1>2"),  # Hikvision and its brands
    (re.compile(r"\bsubtype=0\b"), "subtype=1"),  # Dahua, Amcrest, Lorex
    (re.compile(r"(Preview_\d+_)main\b"), r"\1sub"),  # Reolink
    (re.compile(r"/stream1\b"), "/stream2"),  # TP-Link Tapo and VIGI
    (re.compile(r"/videoMain\b"), "/videoSub"),  # Foscam
    (re.compile(r"(/unicast/c\d+/s)0\b"), r"\g<1>1"),  # Uniview
    (re.compile(r"/media\.amp(\?|$)"), r"/media.amp?resolution=640x360&"),  # Axis
)


@dataclass
class Camera:
    """A camera that will be written into the file.

    url       path or URL, with its password
    variable  environment variable that already contains the URL; "" if there is none
    probe     its answer; None if it did not answer
    fault     why it did not answer
    sub, sub_probe  URL of a smaller stream of the camera, "" if there is none, and its answer
    max_fps   limit of its frames per second, if the machine cannot process all; 0: no limit
    """

    name: str
    url: str
    variable: str = ""
    probe: Any = None
    fault: SourceFault | None = None
    sub: str = ""
    sub_probe: Any = None
    max_fps: float = 0.0


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "init",
        description="Ask for cameras, connect to each, measure how many this machine can "
        "process, write a commented pipeline.toml and print the next command. "
        "URLs with passwords go into a file of variables that only you can read. "
        "No file is replaced. Exit code 1 if a camera did not answer; it is in "
        "the file nevertheless.",
        epilog=ending(
            "framegate init",
            "framegate init entrance=rtsp://camera.example/stream yard=env:YARD_URL",
            "framegate init --discover --user viewer",
            page="cameras",
        ),
    )
    command.set_defaults(command=_init)
    command.add_argument(
        "cameras",
        nargs="*",
        metavar="CAMERA",
        help="URL or NAME=URL; NAME=env:VARIABLE reads the URL from a variable, NAME=- "
        "from standard input; without cameras, you are asked",
    )
    command.add_argument(
        "-c", dest="config", type=Path, metavar="FILE", default=Path(PACKAGED), help="file to write"
    )
    command.add_argument(
        "--discover",
        action="store_true",
        help="find ONVIF cameras on this network (needs the package onveef)",
    )
    command.add_argument(
        "--user",
        metavar="NAME",
        default="",
        help=f"user for cameras that are found; the password is in {PASSWORD}, or asked for",
    )


def _init(parsed: argparse.Namespace) -> Exit:
    file: Path = parsed.config
    if file.exists():
        raise ConfigFaults(
            [f"{file}: the file exists, and init replaces no file; name another one with -c"]
        )
    if not file.parent.is_dir():
        raise ConfigFaults([f"{file}: the folder {file.parent} does not exist"])
    if not os.access(file.parent, os.W_OK):
        raise ConfigFaults(
            [
                f"{file}: no permission to write into {file.parent.absolute()}; change "
                "to a folder that you may write to, or name a file there with -c"
            ]
        )
    person = Person(sys.stdin.isatty())
    try:
        return _make(file, parsed, person)
    except KeyboardInterrupt:
        print("\ninit: stopped; nothing was written", file=sys.stderr, flush=True)
        # os._exit, because a probe that still waits inside FFmpeg would crash when the interpreter
        # shuts down and FFmpeg calls back into Python.
        os._exit(Exit.STOPPED_TWICE)


def _make(file: Path, parsed: argparse.Namespace, person: Person) -> Exit:
    config = read_config(DEFAULTS, "")
    cameras = named_cameras(parsed.cameras)
    if person.is_there:
        print(
            f"This command asks for your cameras, connects to each, and then writes\n{file}. "
            "Ctrl-C stops it and writes nothing."
        )
    if parsed.discover or (not cameras and person.is_there and _wants_discovery(person)):
        cameras += _discovered(parsed.user, person, {camera.name for camera in cameras})
    if not parsed.cameras and person.is_there:
        cameras += _asked_for(person, {camera.name for camera in cameras}, config)
    if not cameras:
        raise ConfigFaults(
            ["no camera; name one, for example: framegate init entrance=rtsp://camera.example"]
        )
    unseen = [camera for camera in cameras if camera.probe is None and camera.fault is None]
    probe_all(unseen, config)
    for camera in unseen:
        _settle(camera, config, person)
    if answering := [camera for camera in cameras if camera.probe is not None]:
        print("Measuring how many cameras this machine can process ...", flush=True)
        fit(answering, config)
    _write(file, cameras)
    return Exit.DONE if len(answering) == len(cameras) else Exit.SOURCE_FAILED


# -- Asking.


def named_cameras(words: Sequence[str]) -> list[Camera]:
    """Return the cameras of the command line. ConfigFaults with all faults."""
    cameras, faults = [], []
    for name, url in named_sources(words).items():
        if url == "-":
            try:
                cameras.append(Camera(name, typed_url(name)))
            except ConfigFaults as error:
                faults += error.faults
        elif url.startswith(BY_NAME):
            variable = url.removeprefix(BY_NAME)
            cameras.append(Camera(name, os.environ.get(variable, ""), variable))
            if not os.environ.get(variable):
                faults.append(f"{name}={url}: the environment has no such variable")
        else:
            cameras.append(Camera(name, url))
    if faults:
        raise ConfigFaults(faults)
    return cameras


def _asked_for(person: Person, taken: set[str], config: Config) -> list[Camera]:
    """Ask for cameras and connect to each at once, so that the user can correct a wrong password
    immediately.
    """
    cameras: list[Camera] = []
    print("A camera is a URL such as rtsp://camera.example/stream, a file, or webcam:0.")
    print(
        "Leave out user and password: init asks for them where a camera needs them, and hides them."
    )
    while url := person.says("Camera (empty: no more cameras)"):
        try:
            matches = named_sources([url])
        except ConfigFaults as error:
            print(error)
            continue
        if len(matches) > 1:
            print(f"{len(matches)} files match; give one at a time")
            continue
        ((usual, place),) = matches.items()
        name = person.says("Its name", usual)
        while not is_name(name) or name in taken:
            fault = "taken" if name in taken else f"a name is {NAME_RULE}"
            print(f"{name}: {fault}")
            name = person.says("Its name", usual)
        taken.add(name)
        camera = Camera(name, place)
        probe_all([camera], config)
        _settle(camera, config, person)
        cameras.append(camera)
    return cameras


def _wants_discovery(person: Person) -> bool:
    if installed():
        return person.agrees("Look for ONVIF cameras on this network?")
    print("With the extra onvif, init finds cameras on the network (docs/cameras.md).")
    return False


def _discovered(user: str, person: Person, taken: set[str]) -> list[Camera]:
    """Return ONVIF cameras of this network that the user wants, with their largest stream and a
    smaller one.
    """
    cameras = []
    user = user or person.says("User of the cameras (empty: none)")
    password = ""
    if user:
        password = os.environ.get(PASSWORD) or person.secret("Password")
    for discovered in find_cameras(user, password):
        print(f"Found: {discovered.described()}")
        if discovered.main and (not person.is_there or person.agrees("Add this camera?")):
            cameras.append(_of_onvif(discovered, user, password, taken))
    if not cameras:
        print("ONVIF found no camera with a stream.")
    return cameras


def _of_onvif(discovered: DiscoveredCamera, user: str, password: str, taken: set[str]) -> Camera:
    name = free_name(discovered.name, taken)
    taken.add(name)
    camera = Camera(name, with_login(discovered.main, user, password))
    if discovered.sub:
        camera.sub = with_login(discovered.sub, user, password)
    return camera


def free_name(text: str, taken: Iterable[str]) -> str:
    """Return a source's name that is made from a camera's name and is not taken."""
    base = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")[:28] or "camera"
    if not base[0].isalpha():
        base = f"camera_{base}"[:28]
    name = base
    number = 2
    while name in taken:
        name = f"{base}_{number}"
        number += 1
    return name


def with_login(url: str, user: str, password: str) -> str:
    """Return the URL with another login; without a login if `user` is empty."""
    scheme, _, rest = url.partition("://")
    place = rest.rpartition("@")[2]
    if not user:
        return f"{scheme}://{place}"
    return f"{scheme}://{quote(user, '')}:{quote(password, '')}@{place}"


# -- Connecting to cameras.


def probe_all(cameras: Sequence[Camera], config: Config) -> None:
    """Probe all cameras at the same time, so that several that are off cost one time-out."""
    probes = [threading.Thread(target=probe, args=(each, config), daemon=True) for each in cameras]
    for thread in probes:
        thread.start()
    for thread in probes:
        while thread.is_alive():
            thread.join(1.0)  # a join without a time-out would ignore Ctrl-C


def probe(camera: Camera, config: Config) -> None:
    """Connect to a camera; set its `probe` or its `fault`."""
    try:
        camera.probe, camera.fault = _probed(camera.url, config), None
    except SourceFault as fault:
        camera.probe, camera.fault = None, fault


def _probed(url: str, config: Config) -> Any:
    return decoder_of(config).probe(request_of(config, "", SourceConfig(url=url)))


def _settle(camera: Camera, config: Config, person: Person) -> None:
    """Print the answer of a camera, ask for its login if it refused, offer its smaller stream."""
    _print_answer(camera)
    _log_in(camera, config, person)
    _take_sub(camera, config, person)


def _print_answer(camera: Camera) -> None:
    answer = str(camera.fault)
    if camera.probe is not None:
        answer = described(camera.probe)
    print(redacted(f"{camera.name}: {answer}"), flush=True)


def _log_in(camera: Camera, config: Config, person: Person) -> None:
    """Ask for another login while the camera refuses its login, at most TRIES times."""
    can_change = "://" in camera.url and not camera.variable and person.is_there
    for _ in range(TRIES):
        is_refused = camera.fault is not None and camera.fault.reason == "permission"
        if not is_refused or not can_change:
            return
        user = person.says(f"User of {camera.name} (empty: skip)")
        if not user:
            return
        camera.url = with_login(camera.url, user, person.secret("Password"))
        probe(camera, config)
        _print_answer(camera)


def _take_sub(camera: Camera, config: Config, person: Person) -> None:
    """Look for a smaller stream of a camera with a large picture, and offer it."""
    if camera.probe is None or camera.probe.width * camera.probe.height <= LARGE_PIXELS:
        camera.sub = ""
        return
    camera.sub = camera.sub or sub_stream(camera.url)
    if not camera.sub:
        return
    try:
        camera.sub_probe = _probed(camera.sub, config)
    except SourceFault:
        camera.sub = ""
        return
    size = f"{camera.sub_probe.width}x{camera.sub_probe.height}"
    print(f"{camera.name}: it has a smaller stream, {size}, which is cheaper to decode")
    if not camera.variable and person.agrees("Use that one?"):
        camera.url, camera.sub = camera.sub, camera.url
        camera.probe, camera.sub_probe = camera.sub_probe, camera.probe


def sub_stream(url: str) -> str:
    """Return the URL of the smaller stream that known makers have beside this stream; else ""."""
    for pattern, replacement in SUB_STREAMS:
        changed = pattern.sub(replacement, url, count=1)
        if changed != url:
            return changed.rstrip("&")
    return ""


def fit(cameras: Sequence[Camera], config: Config) -> None:
    """Print which share of this machine the cameras need; if it is too much without motion, set the
    `max_fps` of each.
    """
    forms = [Form(camera.probe.width, camera.probe.height) for camera in cameras]
    quiet: dict[Form, Capacity] = {}
    busy: dict[Form, Capacity] = {}
    with (
        tempfile.TemporaryDirectory(prefix="framegate-init-") as folder,
        closing(open_measuring(config, Path(folder))) as measuring,
    ):
        for form in dict.fromkeys(forms):
            first, second = MadeFrame(form), MadeFrame(form)
            quiet[form] = measuring.measure("quiet", repeat(first), MEASURE_S)
            busy[form] = measuring.measure("busy", cycle((first, second)), MEASURE_S)
    rates = [camera.probe.fps or MADE_FPS for camera in cameras]
    placed = place(stage_specs(config.stages), config.placement)
    workers = in_shards(placed, config.workers.shards)

    def needed(capacities: Mapping[Form, Capacity]) -> float:
        pairs = zip(forms, rates, strict=True)
        return sum(1 / capacities[form].live_sources(fps, workers, cores()) for form, fps in pairs)

    at_rest = needed(quiet)
    print(f"They use {at_rest:.0%} of the capacity of {cores()} cores while nothing moves, and")
    print(f"{needed(busy):.0%} while everything moves in all of them; decoding is not included.")
    if at_rest > 1:
        for camera, fps in zip(cameras, rates, strict=True):
            camera.max_fps = max(1.0, int(fps / at_rest))
        print("That is too much: the file limits the frames of each camera (max_fps).")


# -- Writing.


class Secrets:
    """Variables for URLs that a configuration must not show, and the file of these variables.

    known   variables that the file already has; they stay
    new     variables to add
    """

    def __init__(self, file: Path, known: Mapping[str, str]) -> None:
        self.file = file
        self.known = known
        self.new: dict[str, str] = {}

    def key(self, name: str, url: str) -> str:
        """Return the line of a table that names a source's URL."""
        if not secrets_of(url):
            return f"url = {json.dumps(url, ensure_ascii=False)}"
        variable = f"{name.upper()}_URL"
        number = 2
        taken = {**os.environ, **self.known, **self.new}
        while taken.get(variable, url) != url:
            variable = f"{name.upper()}_URL_{number}"
            number += 1
        if self.known.get(variable) != url:
            self.new[variable] = url
        return f"url_env = {json.dumps(variable)}  # in {self.file.name}"

    def write(self) -> None:
        """Add the new lines to the file, which only its owner may read.

        The values are quoted, as shells, systemd and Docker accept them; a ' in a URL is written as
        %27, which means the same in a URL.
        """
        lines = [f"{name}='{url.replace(chr(39), '%27')}'\n" for name, url in self.new.items()]
        if lines:
            _write_file(self.file, os.O_APPEND | os.O_CREAT, "".join(lines), 0o600)


def written(cameras: Sequence[Camera], secrets: Secrets) -> str:
    """Return the text of the configuration; adds URLs with passwords to `secrets`."""
    parts = [
        f"#:schema ./{SCHEMA_FILE}",
        f"# Written by framegate init, {version('framegate')}.",
        "# Other keys have their defaults: `framegate config` shows them, and `framegate config",
        "# explain KEY` explains a key. After a change: `framegate check`.",
    ]
    for camera in cameras:
        parts += ["", f"[sources.{camera.name}]", *_lines(camera, secrets)]
    parts += [
        "",
        "# Classes to detect, instead of the default ones:",
        "# [stages.detect]",
        '# classes = ["person", "car"]',
        "",
        "# The last 100000 results of each camera are kept; to keep a week instead:",
        "# [store]",
        "# results_age_s = 604800.0",
    ]
    return "\n".join(parts) + "\n"


def _lines(camera: Camera, secrets: Secrets) -> list[str]:
    lines = []
    if camera.probe is not None:
        lines.append(f"# {described(camera.probe)}")
    elif camera.fault is not None:
        lines.append(f"# It did not answer when this file was written: {camera.fault.reason}")
    if camera.variable:
        lines.append(f"url_env = {json.dumps(camera.variable)}")
    else:
        lines.append(secrets.key(camera.name, camera.url))
    if camera.max_fps:
        lines.append(
            f"frames = {{ max_fps = {camera.max_fps:g} }}  # as much as this machine can process"
        )
    if camera.sub and camera.sub_probe is not None:
        lines.append(f"# It also has {described(camera.sub_probe)}:")
        lines.append(f"# {secrets.key(f'{camera.name}_other', camera.sub)}")
    return lines


def _write(file: Path, cameras: Sequence[Camera]) -> None:
    """Write the file, its schema, and the variables."""
    secrets = Secrets(file.parent / SECRETS, _variables(file.parent / SECRETS))
    text = written(cameras, secrets)
    os.environ.update(secrets.new)
    config = read_config(str(file), text)  # checked before anything is written
    secrets.write()
    _write_file(file, os.O_EXCL | os.O_CREAT, text)
    schema = file.parent / SCHEMA_FILE
    if not schema.exists():
        _write_file(schema, os.O_EXCL | os.O_CREAT, schema_text(config))
    print(f"\nWritten: {file} ({counted(len(cameras), 'camera')}), {schema} (for editors)")
    words = ["framegate run"]
    if file != Path(PACKAGED):
        words.append(f"-c {file}")
    if secrets.new:
        print(f"         {secrets.file}: URLs with passwords; only you can read it")
        words.append(f"--env-file {secrets.file}")
    print(f"Next:    {' '.join([*words, '-d data'])}")
    print(f"         then look at http://{HTTP_DEFAULT}, or: framegate watch")


def _variables(file: Path) -> dict[str, str]:
    try:
        return variables_in(file.read_text())
    except FileNotFoundError:
        return {}
    except ConfigFaults as error:
        raise ConfigFaults([f"{file}: {fault}" for fault in error.faults]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{file}: the file cannot be read ({type(error).__name__})"]) from error


def _write_file(file: Path, how: int, text: str, mode: int = 0o666) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | how, mode), "w", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror}"]) from error
