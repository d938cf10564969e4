"""The page of first steps, typed by a person's hand as far as a test has one: its commands as they
stand there, in a terminal of 80 columns, with two RTSP cameras and a browser.

`FRAMEGATE_RECORD=FILE` keeps what the terminals showed: docs/first-steps.txt is made so.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.cameras.background import Background
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.runs import wait_until
from tests.support.terminals import DEADLINE_S, Terminal

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "first-steps.md").read_text(encoding="utf-8")
RECORDED = DOCS / "first-steps.txt"
PORT = "8686"
BIN = Path(sys.executable).parent


def blocks(language: str, text: str) -> list[str]:
    """The lines of all code of that language."""
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def commands(title: str) -> list[str]:
    """The shell commands of a section, in order."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(title)]
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.split("\n")
        if line
    ]


def program() -> str:
    """The Python of the page."""
    return "\n".join(blocks("python", PAGE))


@pytest.fixture
def cameras(tmp_path: Path) -> Iterator[dict[str, str]]:
    """URLs of two cameras by the variable that holds each."""
    served = tmp_path / "served"
    served.mkdir()
    data = os.environ.get("FRAMEGATE_DATA")
    clips = ["one-by-one-person-detection.mp4", "car-detection.mp4"]
    for name, clip in zip(("entrance.mp4", "yard.mp4"), clips, strict=True):
        real = Path(data or "/none", "clips", clip)
        if real.is_file():
            shutil.copy(real, served / name)
        else:
            footage.write_scene(served / name, footage.steady(250), (320, 240), "libx264")
    background = Background()
    camera = ToolkitCamera(background, served)
    host = f"rtsp://127.0.0.1:{camera.port}"
    yield {
        "ENTRANCE_URL": host + camera.path("entrance.mp4"),
        "YARD_URL": host + camera.path("yard.mp4"),
    }
    camera.close()
    background.close()


class Shell(Terminal):
    """A terminal whose prompt is `$ `, in a folder; each command is waited for."""

    def __init__(self, folder: Path, at: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        state = f"export XDG_STATE_HOME={folder.parent / 'state'}"  # of one user
        self.type(f"unset -f framegate; PATH={BIN}:$PATH; {state}; cd {at}; clear; PS1='$ '")
        self.until_prompt(1)

    def run(self, command: str) -> list[str]:
        """Type it, wait until the prompt is back; all lines then."""
        before = self.prompts()
        self.type(command)
        return self.until_prompt(before + 1)

    def prompts(self) -> int:
        """How often the prompt stands there."""
        return sum(line == "$" or line.startswith("$ ") for line in self.shows())

    def until_prompt(self, times: int) -> list[str]:
        """Wait until the prompt stands there so often."""
        wait_until(f"the prompt: {self.shows}", lambda: self.prompts() >= times, DEADLINE_S)
        return self.shows()

    def told(self) -> str:
        """What it shows from the first prompt to the last, each line as wide as it is."""
        lines = [line.rstrip() for line in self._tmux("capture-pane", "-p", "-S", "-").splitlines()]
        first = next(n for n, line in enumerate(lines) if line.startswith("$ "))
        return "\n".join(lines[first:]).rstrip("$\n ")


def test_no_command_is_longer_than_80_characters() -> None:
    lines = [
        line
        for block in re.findall(r"```\w+\n(.*?)```", PAGE, re.DOTALL)
        for line in block.split("\n")
    ]
    assert max(map(len, lines)) <= 80


def test_what_was_recorded_is_of_the_page_as_it_is() -> None:
    text = RECORDED.read_text(encoding="utf-8")
    typed = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    for title in ("Configure", "Read", "Stop"):
        for command in commands(title):
            assert any(same(command, line) for line in typed), command
    assert max(map(len, text.splitlines())) <= 80


def same(command: str, typed: str) -> bool:
    """Whether a line of a terminal is this command: a port may differ, and what a URL is."""
    return re.sub(r"127\.0\.0\.1:\d+", "", re.sub(r"='rtsp://.*", "", command)) == re.sub(
        r"127\.0\.0\.1:\d+", "", re.sub(r"='rtsp://.*", "", typed)
    )


@needs_chromium
@pytest.mark.whole_run
def test_the_page_can_be_typed(cameras: dict[str, str], tmp_path: Path) -> None:
    (at := tmp_path / "home").mkdir()
    with ExitStack() as stack:
        first = stack.enter_context(Shell(tmp_path / "first", at))
        *before, start = commands("Configure")
        for command in before:
            [url] = [url for name, url in cameras.items() if f" {name}=" in command] or [""]
            first.run(command.partition("=")[0] + f"='{url}'" if url else command)
        assert "all is well" in "\n".join(first.shows()), first.shows()
        assert (at / "cameras" / "pipeline.toml").is_file()
        port = started(first, start)
        with chromium() as browser:
            visit = Visit(browser, f"http://127.0.0.1:{port}/")
            visit.until("[...document.images].filter(i => i.naturalWidth).length === 2")
            visit.until("document.querySelectorAll('.connected').length === 2")
            visit.close()

        second = stack.enter_context(Shell(tmp_path / "second", at / "cameras"))
        (at / "cameras" / "read.py").write_text(program(), encoding="utf-8")
        for command in commands("Read"):
            if shutil.which(command.split()[0]) or command.startswith(("framegate", "python")):
                second.run(command.replace(f":{PORT}", f":{port}"))
        said = "\n".join(second.shows())
        assert len(re.findall(r"^data: \{", said, re.MULTILINE)) == 3, said
        assert '"source":"entrance"' in said.replace(" ", ""), said
        assert len(re.findall(r"^\d+ \[", said, re.MULTILINE)) == 5, said

        stopped(first)
        look, again = commands("Stop")
        assert "entrance" in "\n".join(second.run(look)[-4:]), second.shows()
        started(first, again)
        stopped(first)
        if kept := os.environ.get("FRAMEGATE_RECORD"):
            heads = ("The first terminal", first), ("The second terminal", second)
            told = [f"# {head}\n\n{one.told()}" for head, one in heads]
            Path(kept).write_text("\n\n".join(told) + "\n", encoding="utf-8")


def started(shell: Shell, command: str) -> int:
    """Start a run, wait until both cameras are seen; the port of its page."""
    shell.type(command)

    def told() -> list[str]:
        lines = shell.shows()
        return lines[max(n for n, line in enumerate(lines) if line.startswith("$ ")) :]

    wait_until(f"the command is typed: {shell.shows}", lambda: command in told()[0], DEADLINE_S)
    wait_until(
        f"two cameras run: {shell.shows}",
        lambda: sum(" running " in line for line in told()) == 2,
        DEADLINE_S,
    )
    found = re.findall(r"live page at http://127\.0\.0\.1:(\d+)", "\n".join(told()))
    return int(found[-1])


def stopped(shell: Shell) -> None:
    """End what goes on there, as a person does."""
    before = shell.prompts()
    shell.interrupt()
    shell.until_prompt(before + 1)
