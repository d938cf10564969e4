"""`framegate demo`: run a shipped clip, write an annotated video, and report the saved work.

The clip is of a street, see tools.compose_demo and demo-LICENSE.txt.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import redis

from framegate.cli.console.terminal import Meter
from framegate.cli.help import ending
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.run.printer import json_line
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.system.outputs import saved_video

SOURCE: Final = "street"
CAMERAS: Final = 2
QUIET: Final = '[http]\nlisten = "off"\n'
EVERY_FRAME: Final = QUIET + '[gate]\nmode = "off"\n'
_LOOKED: Final = {
    "whole": "ran on the whole picture",
    "part": "ran on a part of it",
    "no": "did not run",
}


def shipped_clip() -> Path:
    """Return the path of the clip that comes with the package."""
    return Path(__file__).with_name("demo.mp4")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "demo",
        description="Run a clip of 40 s in real time, with the live page, and write an "
        "annotated video into a new folder, demo. Then report its cost, compared "
        "with looking at every frame. It needs no camera and no network "
        "connection.",
        epilog=ending("framegate demo", page="running"),
    )
    command.set_defaults(command=_demo)


def _demo(parsed: argparse.Namespace) -> Exit:  # noqa: ARG001
    folder = _new_folder(Path("demo"))
    clip = shipped_clip()
    words = ["run", f"{SOURCE}={clip}"]
    words += ["--pace", "realtime", "--save", str(folder), "-d", str(folder / "data")]
    _say("A street with little traffic, for 40 s. The same as:\n")
    _say(f"{_framegate()} {shlex.join(words)}\n")
    code = subprocess.run([*_command(), *words], check=False).returncode
    if code:
        return Exit(code) if code in set(Exit) else Exit.SOURCE_FAILED
    results = _results((folder / "data" / "store").absolute())
    _say(report(folder, results))
    many = [f"{SOURCE}{n}={clip}" for n in range(1, CAMERAS + 1)]
    with Meter() as tell:
        tell("measuring the start of the program")
        start = _cpu_s(["--frames", "every=100000", *many], QUIET)
        tell("running the clip with the defaults")
        gated = _cpu_s(many, QUIET) - start
        tell("running the clip with the network on every frame")
        whole = _cpu_s(many, EVERY_FRAME) - start
    _say(f"\nCPU time for {CAMERAS} copies of this clip, without the start of the program:")
    _say(f"  {gated:5.1f} s  by default: the network runs only where the picture changed")
    _say(f"  {whole:5.1f} s  if the network runs on every frame")
    _say(_next(folder))
    return Exit.DONE


def _new_folder(wanted: Path) -> Path:
    """Make a folder of that name; if it exists, add the first free number to the name."""
    folder = wanted
    number = 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


def _command() -> list[str]:
    return [sys.executable, "-m", "framegate"]


def _cpu_s(sources: list[str], configuration: str) -> float:
    """Return the CPU seconds of a run of these sources in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="framegate-demo-") as name:
        file = Path(name, "demo.toml")
        file.write_text(configuration, encoding="utf-8")
        began = _children_s()
        words = ["run", *sources, "-c", str(file), "-d", str(Path(name, "data"))]
        subprocess.run([*_command(), *words], check=True, stderr=subprocess.DEVNULL)
        return _children_s() - began


def _children_s() -> float:
    """Return the CPU seconds of all processes that this process has waited for, with their
    children.
    """
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def _results(folder: Path) -> list[bytes]:
    """Return all results in a run's store."""
    store = EmbeddedStore(folder, "everysec")
    store.start()
    try:
        with redis.Redis.from_url(store.url, protocol=2) as client:
            entries = client.xrange(keys.results(SOURCE))
    finally:
        store.stop()
    return [fields[b"d"] for _, fields in entries if fields[b"k"] == FRAME.encode()]


def report(folder: Path, results: list[bytes]) -> str:
    """Return the outcome in words: the work of the network, three results, the video."""
    read = [records.decode_versioned(result, Result) for result in results]
    lines = [f"\n{len(read)} frames, by the work of the network and its reason:"]
    for looked, words in _LOOKED.items():
        matching = [result for result in read if result.looked == looked]
        reasons = ", ".join(sorted({result.reason.replace("_", " ") for result in matching}))
        lines.append(f"  {len(matching):4}  the network {words:24} ({reasons})")
    lines.append("\nThree results, as --json prints them:\n")
    lines += [json_line(results[n]).decode().rstrip() for n in _shown(read)]
    lines.append(f"\n{saved_video(folder, SOURCE)} shows them; a browser plays it.")
    return "\n".join(lines)


def _shown(results: list[Result]) -> list[int]:
    """Return, for each way to look, the last frame with the most tracks; in order of time."""

    def tracks(n: int) -> int:
        return sum(box.track is not None for box in results[n].objects)

    chosen = []
    for looked in _LOOKED:
        matching = [n for n, result in enumerate(results) if result.looked == looked]
        if matching:
            chosen.append(max(matching, key=lambda n: (tracks(n), -len(results[n].objects), n)))
    return sorted(chosen)


def _next(folder: Path) -> str:
    framegate = _framegate()
    commands = {
        f"results -d {folder / 'data'}": "all its results",
        "run FILE --save videos": "your own video",
        "run gate=rtsp://HOST/STREAM": "a camera, and a live page",
        "check FILE": "how many sources this machine can process",
    }
    lines = [f"  {framegate + ' ' + words:48} {about}" for words, about in commands.items()]
    return "\n".join(["\nNext:", *lines])


def _framegate() -> str:
    """Return the name by which this command was called, for typing it again."""
    called = Path(sys.argv[0]).absolute()
    if called.is_relative_to(Path.cwd()):
        return str(called.relative_to(Path.cwd()))
    return "framegate"


def _say(text: str) -> None:
    print(text, flush=True)
