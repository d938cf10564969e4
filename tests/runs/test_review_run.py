"""A rule is drawn on what a run saw, tried, switched on; what it tells is judged and exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.commands import Command, framegate, user_folder

pytestmark = pytest.mark.whole_run

FRAMES = 4500  # three minutes: longer than this looks, on a busy machine too


@needs_chromium
def test_a_rule_goes_from_a_drawing_to_a_verdict(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    clip = footage.write_scene(tmp_path / "clip.mp4", footage.steady(250))
    footage.repeat(clip, folder / "door.mp4", FRAMES // 250)
    plain = (folder / "pipeline.toml").read_text(encoding="utf-8")
    words = ("run", "door=door.mp4", "--http", "127.0.0.1:0", "--pace", "realtime")
    with chromium() as browser:
        with Command(folder, *words, "-d", "first") as run:
            visit = Visit(browser, _address(run) + "/rules")
            visit.until("document.querySelector('#source').value === 'door'")
            box = visit.page.locator("#still").bounding_box()
            for x, y in ((0.01, 0.02), (0.97, 0.02), (0.97, 0.96), (0.01, 0.96)):
                visit.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            visit.page.fill("#labels", "car")
            visit.page.fill("#for_s", "0.2")
            for _ in range(300):
                visit.page.click("#try")
                visit.until("document.getElementById('told').checkVisibility()")
                if visit.page.inner_text("#verdict") == "It would have fired once":
                    break
            assert visit.page.inner_text("#verdict") == "It would have fired once"
            rule = visit.page.inner_text("#toml")
            visit.close()
        (folder / "pipeline.toml").write_text(f"{rule}\n{plain}", encoding="utf-8")
        with Command(folder, *words, "-d", "second") as run:
            visit = Visit(browser, _address(run) + "/review")
            # Where the page takes long, the box has left and come again: another episode.
            visit.until("document.querySelectorAll('#list button').length >= 1")
            visit.page.keyboard.press("j")
            visit.page.keyboard.press("t")
            visit.until(
                "[...document.querySelectorAll('#list .said')].some(e => e.innerText === 'true')"
            )
            with visit.page.expect_download() as download:
                visit.page.click("#export")
            listed = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
            (exported,) = (one for one in listed if one["verdict"] is not None)
            visit.close()
            run.interrupt()
            run.wait()
    assert (exported["rule"], exported["label"], exported["verdict"]) == ("visitor", "car", "true")
    lines = framegate(folder, "events", "-d", "second", "--json").out.splitlines()
    kept = {one["id"]: one for one in map(json.loads, lines)}
    assert kept[exported["id"]]["verdict"] == "true"
    going_on = [one for one in kept.values() if one["ended_by"] is None]
    assert going_on, "the run was stopped, and may go on with it"


def _address(run: Command) -> str:
    run.says("live page at http://")
    found = re.search(r"live page at (http://\S+)", run.err)
    assert found is not None
    return found[1]
