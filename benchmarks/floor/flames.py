"""Draw where the processes of a run spend their time, as flame graphs in docs/: floor-*.svg.

    python -m benchmarks.floor.flames --data FOLDER [--cameras 8] [--seconds 30] [--profiler PATH]
                                      [--before CHECKOUT]

The stacks are py-spy's (`pip install py-spy`), which reads them from outside. A width is a share of
the samples in which a thread did something: those that wait are left out, but for those that wait
for a core or for Python's lock. What OpenVINO, FFmpeg and OpenCV do has no names of its own: it is
the width of the line that called them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

from benchmarks.floor import CLIPS, SETTLED, START_S, config_text, played, series_of, source
from benchmarks.floor.cameras import make_cameras
from benchmarks.harness.engine_run import REPOSITORY, EngineRun

RATE: Final = 100  # samples a second
SHOWN: Final = 0.004  # of the whole width: what is narrower is left out
_WIDTH, _ROW, _LETTER, _TOP = 960, 16, 6.2, 24
_WAITS: Final = re.compile(r"^(wait|select|poll|_receive|recv_fds|_poll|accept|run_forever) \(")
_BEFORE: Final = re.compile(
    r"(\(<frozen|\(threading\.py|^main \(|^<module> |^_serve |^run_connected)"
)
_COLOURS: Final = {"pipeline": "#f2b866", "stages": "#e98a6d", "models": "#d9738a", "": "#d8cfc0"}

Stack = tuple[str, ...]


def stacks_of(raw: str) -> Counter[Stack]:
    """Samples by stack, the outermost first, from py-spy's lines `process;frame;frame COUNT`."""
    found: Counter[Stack] = Counter()
    for line in raw.splitlines():
        words, _, count = line.rpartition(" ")
        first, *frames = _frames(words)
        if frames and not _WAITS.match(frames[-1]):
            inner = [each for each in frames if not _BEFORE.search(each)]
            found[(first, *inner)] += int(count)
    return found


def _frames(words: str) -> Iterator[str]:
    """The name of the last process, and its frames without the number of their line."""
    *_, last = (each for each in words.split(";") if each.startswith("process "))
    worker = re.search(r"framegate\.pipeline\.run\.worker(?:_main)? (\S+)", last)
    yield worker[1] if worker else "supervisor"
    for each in words.split(";"):
        if not each.startswith("process "):
            yield re.sub(r"framegate/|:\d+(?=\)$)", "", each)


@dataclass(slots=True)
class _Node:
    samples: int = 0
    below: dict[str, _Node] = field(default_factory=dict)


def svg_of(stacks: Mapping[Stack, int], title: str) -> str:
    """A flame graph: what called is under what it called, by name from left to right."""
    root = _Node(sum(stacks.values()))
    for stack, count in stacks.items():
        at = root
        for frame in stack:
            at = at.below.setdefault(frame, _Node())
            at.samples += count
    boxes = list(_boxes(root, 0.0, 0, max(1, root.samples)))
    rows = 1 + max((depth for *_, depth in boxes), default=0)
    height = _TOP + rows * _ROW
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fffdf8"/>',
        f'<text x="4" y="16" font-size="13">{escape(title)}</text>',
    ]
    drawn += (_drawn(*box, height) for box in boxes)
    return "\n".join([*drawn, "</svg>", ""])


def _boxes(
    node: _Node, left: float, depth: int, whole: int
) -> Iterator[tuple[str, float, float, int]]:
    for name, one in sorted(node.below.items()):
        share = one.samples / whole
        if share >= SHOWN:
            yield name, left, share, depth
            yield from _boxes(one, left, depth + 1, whole)
        left += share


def _drawn(name: str, left: float, share: float, depth: int, height: int) -> str:
    x, y, width = left * _WIDTH, height - (depth + 1) * _ROW, share * _WIDTH
    place = name.rpartition("(")[2]
    colour = next(c for package, c in _COLOURS.items() if place.startswith(package))
    letters = int((width - 4) / _LETTER)
    short = name.partition(" (")[0]
    shown = name if len(name) <= letters else short[:letters] if letters >= 4 else ""
    text = f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(shown)}</text>' if shown else ""
    return (
        f"<g><title>{escape(name)}: {share:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}" height="{_ROW - 1}" '
        f'fill="{colour}"/>{text}</g>'
    )


def profiled(
    clip: Path, word: str, seconds: int, profiler: str, checkout: Path = REPOSITORY
) -> Counter[Stack]:
    """Samples of a whole run with the one number of cameras that the series names."""
    series = series_of(word)
    (cameras,) = series.cameras
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made)
        make_cameras(clip, folder, series.height, series.fps, cameras, seconds + 60)
        names = [source(number) for number in range(cameras)]
        with (
            played(folder, series) as urls,
            EngineRun(config_text(urls, "packaged"), names, checkout=checkout) as run,
        ):
            run.wait_for_each(SETTLED, START_S)
            out = folder / "stacks"
            told = {"-d": seconds, "-r": RATE, "-f": "raw", "-p": run.pid, "-o": out}
            options = (str(each) for pair in told.items() for each in pair)
            subprocess.run(
                (profiler, "record", "--nonblocking", "--subprocesses", *options),
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return stacks_of(out.read_text(encoding="utf-8"))


def main(words: Iterable[str] | None = None) -> int:
    """Profile and draw both loads, and of another checkout the quiet one; 77 where the clips or
    the profiler are not here.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor.flames",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("FRAMEGATE_DATA"))
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--profiler", default=shutil.which("py-spy"), help="py-spy's path")
    parser.add_argument(
        "--before", type=Path, help="a checkout with its own .venv: floor-before.svg"
    )
    given = parser.parse_args(None if words is None else list(words))
    if given.data is None or given.profiler is None:
        print("needs --data (or FRAMEGATE_DATA) and py-spy (or --profiler)", file=sys.stderr)
        return 77
    drawn = [("floor-quiet", "quiet", REPOSITORY), ("floor-busy", "busy", REPOSITORY)]
    if given.before is not None:
        drawn.append(("floor-before", "quiet", given.before.resolve()))
    for name, load, checkout in drawn:
        clip = Path(given.data) / "clips" / f"{CLIPS[load]}.mp4"
        word, machine = f"{load}-432-10:{given.cameras}", os.getloadavg()[0]
        stacks = profiled(clip, word, given.seconds, given.profiler, checkout)
        samples = sum(stacks.values())
        title = (
            f"{given.cameras} {load} cameras, 768x432, 10 frames/s each, gate on: "
            f"{samples} samples of a whole run, load average before it {machine:.1f}"
        )
        (REPOSITORY / "docs" / f"{name}.svg").write_text(svg_of(stacks, title), encoding="utf-8")
        print(f"docs/{name}.svg: {samples} samples", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
