"""`framegate init`: ask for cameras, connect to each, and write a configuration file."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from textwrap import fill
from typing import Any, Final
from urllib.parse import quote

from framegate.cli.console.arguments import typed_url
from framegate.cli.console.terminal import Person, say
from framegate.cli.frigate.frigate_file import FrigateFile, read_frigate
from framegate.cli.frigate.frigate_tables import PictureSizes, tables_of
from framegate.cli.help import ending
from framegate.cli.setup.capacity import Capacity, MadeFrame, open_measuring
from framegate.cli.setup.config_file import Camera, Imported, Secrets, free_name, write
from framegate.cli.setup.detectors import choose, chosen_lines
from framegate.cli.setup.measured_rates import MADE_FPS, MEASURE_S
from framegate.cli.setup.onvif import DiscoveredCamera, find_cameras, installed
from framegate.cli.setup.probes import LARGE_PIXELS, decoder_of, described, request_of
from framegate.pipeline.config.config import DEFAULTS, PACKAGED, Config, read_config
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.config.sources import SourceConfig, named_sources
from framegate.pipeline.config.store import BY_NAME
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, SourceFault
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.system.machine import cores

TRIES: Final = 3
_COLUMNS: Final = 80
PASSWORD: Final = "FRAMEGATE_CAMERA_PASSWORD"


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
            "framegate init --frigate config.yml",
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
        "--frigate",
        type=Path,
        metavar="FILE",
        help="take over the cameras, zones, masks, objects and recordings of a configuration of "
        "Frigate, and list what was left out (needs the package pyyaml)",
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
    if parsed.frigate is not None:
        return _take_over(file, parsed, config, person)
    cameras = named_cameras(parsed.cameras)
    if person.is_there:
        steps = "asks for your cameras, connects to each"
        if parsed.cameras:
            steps = "connects to each camera"
        greeting = f"This command {steps}, and then writes {file}. "
        print(fill(f"{greeting}Ctrl-C stops it and writes nothing.", _COLUMNS))
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
    exit_code = _measure(cameras, config)
    write(file, cameras)
    return exit_code


def _measure(cameras: Sequence[Camera], config: Config) -> Exit:
    """Choose the detectors and frame rates of the cameras that answered."""
    if answering := [camera for camera in cameras if camera.probe is not None]:
        print("Measuring how many cameras this machine can process ...", flush=True)
        choose_detectors(answering, config, fit(answering, config))
    return Exit.DONE if len(answering) == len(cameras) else Exit.SOURCE_FAILED


def _take_over(file: Path, parsed: argparse.Namespace, config: Config, person: Person) -> Exit:
    """Write the cameras and settings of a Frigate configuration, and print what was left out."""
    if parsed.cameras or parsed.discover:
        raise ConfigFaults(["--frigate names the cameras; leave out --discover and other cameras"])
    frigate = read_frigate(parsed.frigate, os.environ)
    cameras = []
    for each in frigate.cameras:
        cameras.append(Camera(each.name, each.url, small=each.small, records=each.records))
    probe_all(cameras, config)
    for camera in cameras:
        _print_answer(camera)
        _log_in(camera, config, person)
        if camera.small and camera.probe is not None:
            try:
                camera.small_probe = _probed(camera.small, config)
            except SourceFault as fault:
                print(redacted(f"{camera.name}: its smaller stream: {fault}"))
    exit_code = _measure(cameras, config)
    write(file, cameras, lambda secrets: _imported(frigate, cameras, secrets))
    if left := frigate.left():
        print(f"\nNot taken over from {parsed.frigate}:")
        for reason, keys in left.items():
            text = f"{', '.join(keys)}: {reason}"
            print(fill(text, _COLUMNS, initial_indent="  ", subsequent_indent="    "))
    return exit_code


def _imported(frigate: FrigateFile, cameras: Sequence[Camera], secrets: Secrets) -> Imported:
    sizes = {}
    for camera in cameras:
        if camera.probe is not None:
            large = (camera.probe.width, camera.probe.height)
            sizes[camera.name] = PictureSizes(
                large, (camera.looked_at.width, camera.looked_at.height)
            )
    broker = ""
    if url := frigate.broker():
        broker = secrets.key("mqtt", url)
    return tables_of(frigate, sizes, broker)


# -- Asking.


def named_cameras(words: Sequence[str]) -> list[Camera]:
    """Return the cameras of the command line. ConfigFaults with all faults."""
    cameras, faults = [], []
    for name, url in named_sources(words, takes_variables=True).items():
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
    say("Leave out user and password: init asks for them where they are needed, and hides them.")
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
            fault = "in use; choose another name" if name in taken else f"a name is {NAME_RULE}"
            say(f"{name}: {fault}")
            name = person.says("Its name", usual)
        camera = Camera(name, place)
        probe_all([camera], config)
        _settle(camera, config, person)
        if camera.probe is None and not person.agrees(f"Keep {name}, and correct the file later?"):
            continue  # the user gives it again
        taken.add(name)
        cameras.append(camera)
    return cameras


def _wants_discovery(person: Person) -> bool:
    if installed():
        return person.agrees("Look for ONVIF cameras on this network?")
    print("With the extra onvif, init finds cameras on the network (docs/cameras.md).")
    return False


def _discovered(user: str, person: Person, taken: set[str]) -> list[Camera]:
    """Return ONVIF cameras of this network that the user wants, with their largest stream and a
    smaller one of the same picture.
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
    if discovered.small:
        camera.small = with_login(discovered.small, user, password)
    camera.events = discovered.events
    return camera


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
    _offer_small(camera, config, person)


def _print_answer(camera: Camera) -> None:
    answer = str(camera.fault)
    if camera.probe is not None:
        answer = described(camera.probe)
    say(redacted(f"{camera.name}: {answer}"))


def _log_in(camera: Camera, config: Config, person: Person) -> None:
    """Ask for another login while the camera refuses its login, at most TRIES times."""
    can_change = "://" in camera.url and not camera.variable and person.is_there
    for _ in range(TRIES):
        is_refused = camera.fault is not None and camera.fault.reason == "permission"
        if not is_refused or not can_change:
            return
        user = person.says(f"User of {camera.name} (empty: no login)")
        if not user:
            return
        camera.url = with_login(camera.url, user, person.secret("Password"))
        probe(camera, config)
        _print_answer(camera)


def _offer_small(camera: Camera, config: Config, person: Person) -> None:
    """Keep the smaller stream of a camera with a large picture, unless the user refuses it or it
    does not answer.
    """
    small, camera.small = camera.small, ""
    if not small or camera.probe is None:
        return
    if camera.probe.width * camera.probe.height <= LARGE_PIXELS:
        return
    try:
        small_probe = _probed(small, config)
    except SourceFault as fault:
        print(redacted(f"{camera.name}: its smaller stream: {fault}"))
        return
    print(f"{camera.name}: its smaller stream is {described(small_probe)}")
    question = "Look at the smaller stream, and record the larger one?"
    camera.records = person.agrees(question)
    if camera.records or not person.is_there:
        camera.small, camera.small_probe = small, small_probe


def fit(cameras: Sequence[Camera], config: Config) -> dict[Form, float]:
    """Print which share of this machine the cameras need; if it is too much without motion, set the
    `max_fps` of each.

    Return the CPU milliseconds of a frame in which everything is new, by form.
    """
    forms = [Form(camera.looked_at.width, camera.looked_at.height) for camera in cameras]
    quiet: dict[Form, Capacity] = {}
    busy: dict[Form, Capacity] = {}
    with (
        tempfile.TemporaryDirectory(prefix="framegate-init-") as folder,
        closing(open_measuring(config, Path(folder))) as measuring,
    ):
        for form in dict.fromkeys(forms):
            still = MadeFrame(form, still=True)
            quiet[form] = measuring.measure("quiet", repeat(still), MEASURE_S)
            busy[form] = measuring.measure("busy", repeat(MadeFrame(form)), MEASURE_S)
    rates = [camera.looked_at.fps or MADE_FPS for camera in cameras]
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
    return {form: 1e3 * capacity.cpu_s / capacity.frames for form, capacity in busy.items()}


def choose_detectors(
    cameras: Sequence[Camera], config: Config, usual_ms: Mapping[Form, float]
) -> None:
    """Set the detector of each camera, and print what was chosen, once for equal lines.

    usual_ms  CPU milliseconds of a frame with a look of the default detector, by form
    """
    sources = {}
    for camera in cameras:
        probe = camera.looked_at
        fps = camera.max_fps or probe.fps or MADE_FPS
        sources[camera.name] = (Form(probe.width, probe.height), fps)
    names: dict[tuple[str, ...], list[str]] = {}
    choices = choose(config, sources, usual_ms, MEASURE_S)
    for camera in cameras:
        choice, demand = choices[camera.name]
        lines = chosen_lines(choice, demand)
        camera.detector = choice.detector
        if choice.reason is not None:
            camera.because = lines[0]
        names.setdefault(tuple(lines), []).append(camera.name)
    for texts, those in names.items():
        print(f"Detector of {', '.join(those)}:")
        for text in texts:
            print(fill(text, _COLUMNS, initial_indent="  ", subsequent_indent="  "))
