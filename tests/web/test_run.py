"""A run seen from outside: nothing for nobody, a page that goes on, a picture by command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.commands import Command, framegate, user_folder
from tests.support.footage import steady, write_scene
from tests.support.runs import children, wait_until

TIMES = steady(600, fps=5)  # two minutes at its own pace: longer than any test here looks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips beside a graph whose detector is quick."""
    made = user_folder(tmp_path / "user")
    write_scene(made / "door.mp4", TIMES, (320, 180))
    write_scene(made / "yard.mp4", TIMES, (160, 120))
    return made


@pytest.fixture
def run(folder: Path) -> Iterator[Command]:
    words = ("run", "door.mp4", "yard.mp4", "-d", "data", "--pace", "realtime")
    with Command(folder, *words, "--http", "127.0.0.1:0") as command:
        command.says("live page at http://")
        yield command
        command.interrupt()
        command.interrupt()
        command.process.wait()


def page_of(run: Command) -> str:
    found = re.search(r"live page at (http://\S+)", run.err)
    assert found is not None
    return found[1] + "/"


def web_processes(run: Command) -> list[int]:
    found = children(run.process.pid).items()
    return [pid for pid, command in found if "framegate.pipeline.web.server" in command]


@pytest.mark.whole_run
def test_a_picture_is_had_from_the_command_line_and_costs_nothing_before(
    folder: Path, run: Command
) -> None:
    run.says("door: running")
    assert web_processes(run) == []

    def shown() -> bool:
        return framegate(folder.parent, "snapshot", "door", "-d", "user/data").code == 0

    # The command looks for runs where this user's are noted.
    (folder.parent / "state").symlink_to(folder / "state")
    wait_until("a picture", shown)
    assert cv2.imread(str(folder.parent / "door.jpg")).shape == (180, 320, 3)
    assert len(web_processes(run)) == 1
    strange = framegate(folder.parent, "snapshot", "window")
    assert (strange.code, strange.err) == (
        2,
        "framegate: no source window; there are: door, yard\n",
    )


@needs_chromium
@pytest.mark.whole_run
def test_the_page_of_a_run_goes_on(run: Command) -> None:
    with chromium() as browser:
        visit = Visit(browser, page_of(run))
        widths = "[...document.images].map(i => i.naturalWidth).join()"
        visit.until(f"{widths} === '320,160'")
        first = _numbers(visit)
        source = visit.look("document.images[0].src")
        visit.until(f"document.images[0].src !== {source!r}")
        visit.until(f"{_PUBLISHED}.every((n, i) => n > {first}[i])")
        states = visit.look("[...document.querySelectorAll('.state')].map(s => s.innerText)")
        assert [state.split()[0] for state in states] == ["running", "running"]
        assert "person" in visit.look("document.querySelector('.chips').innerText")
        assert visit.faults == []
        assert [
            url for url in visit.asked if not url.startswith((page_of(run), "blob:", "data:"))
        ] == []
        visit.close()


_PUBLISHED = (
    "[...document.querySelectorAll('[data-of=published]')]"
    ".map(e => Number(e.textContent.replaceAll(',', '')))"
)


def _numbers(visit: Visit) -> Any:
    return visit.until(f"{_PUBLISHED}.every(n => n > 0) && {_PUBLISHED}")
