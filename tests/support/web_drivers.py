"""Firefox and WebKit by WebDriver: what a person does on a page, beside Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until

FIREFOX: Final = shutil.which("firefox-esr") or shutil.which("firefox")
WEBKIT: Final = shutil.which("WebKitWebDriver")
XVFB: Final = shutil.which("Xvfb")
MINI_BROWSERS: Final = sorted(Path("/usr/lib").glob("*/webkit2gtk-*/MiniBrowser"))
ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"  # of the WebDriver standard
KEYS: Final = {"Enter": "\ue007", "ArrowDown": "\ue015", "ArrowRight": "\ue014", "Home": "\ue011"}


class Driven(ABC):
    """A browser with one page. `command` sends a WebDriver command of either dialect."""

    @abstractmethod
    def command(self, name: str, facts: Mapping[str, Any]) -> Any:
        """Send a command by its name in Marionette."""

    def go(self, url: str) -> None:
        self.command("WebDriver:Navigate", {"url": url})

    def look(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        script = {"script": f"return ({expression})", "args": []}
        return self.command("WebDriver:ExecuteScript", script)

    def until(self, expression: str) -> Any:
        """Wait until it is true."""
        return wait_until(expression, lambda: self.look(expression))

    def click(self, selector: str) -> None:
        self.command("WebDriver:ElementClick", {"id": self._find(selector)})

    def write(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        self.command("WebDriver:ElementClear", {"id": self._find(selector)})
        self.command("WebDriver:ElementSendKeys", {"id": self._find(selector), "text": text})

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        keys = [{"type": kind, "value": KEYS.get(key, key)} for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keys", "actions": keys}]
        self.command("WebDriver:PerformActions", {"actions": actions})

    def click_at(self, selector: str, x: float, y: float) -> None:
        """Click at shares of the width and the height of an element."""
        box = self.look(
            f"(b => [b.x, b.y, b.width, b.height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        place = {"x": round(box[0] + x * box[2]), "y": round(box[1] + y * box[3])}
        moves: list[dict[str, Any]] = [
            {"type": "pointerMove", "duration": 0, "origin": "viewport", **place},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "actions": moves}
        self.command("WebDriver:PerformActions", {"actions": [mouse]})

    def _find(self, selector: str) -> str:
        found = self.command("WebDriver:FindElement", {"using": "css selector", "value": selector})
        element: dict[str, str] = found.get("value", found)
        return element[ELEMENT]


class Firefox(Driven):
    """Speaks Marionette, the protocol to which geckodriver translates: [0, number, name, facts]."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._file = line.makefile("rb")
        self._number = 0
        self._read()
        self.command("WebDriver:NewSession", {})

    def command(self, name: str, facts: Mapping[str, Any]) -> Any:
        self._number += 1
        data = json.dumps([0, self._number, name, facts]).encode()
        self._line.sendall(b"%d:%b" % (len(data), data))
        _, _, error, value = self._read()
        assert error is None, (name, facts, error)
        if isinstance(value, dict) and set(value) == {"value"}:
            return value["value"]
        return value

    def _read(self) -> Any:
        length = b""
        while (digit := self._file.read(1)) != b":":
            assert digit, "Firefox ended"
            length += digit
        return json.loads(self._file.read(int(length)))


class WebKit(Driven):
    """Speaks WebDriver over HTTP with WebKitWebDriver."""

    _PATHS: Final = {
        "WebDriver:Navigate": "url",
        "WebDriver:ExecuteScript": "execute/sync",
        "WebDriver:FindElement": "element",
        "WebDriver:PerformActions": "actions",
        "WebDriver:ElementClick": "element/{id}/click",
        "WebDriver:ElementClear": "element/{id}/clear",
        "WebDriver:ElementSendKeys": "element/{id}/value",
        "WebDriver:SetWindowRect": "window/rect",
    }

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(timeout=DEADLINE_S)
        browser = {"binary": str(MINI_BROWSERS[-1]), "args": ["--automation"]}
        wanted = {"alwaysMatch": {"webkitgtk:browserOptions": browser}}
        answer = self._http.post(f"{url}/session", json={"capabilities": wanted}).json()
        assert "sessionId" in answer["value"], answer
        self._session = f"{url}/session/{answer['value']['sessionId']}"

    def command(self, name: str, facts: Mapping[str, Any]) -> Any:
        if name == "WebDriver:TakeScreenshot":
            return self._http.get(f"{self._session}/screenshot").json()["value"]
        path = self._PATHS[name].format(**facts)
        answer = self._http.post(f"{self._session}/{path}", json=dict(facts))
        value = answer.json()["value"]
        assert answer.status_code == 200, (name, facts, value)
        return value

    def close(self) -> None:
        with suppress(httpx.HTTPError):
            self._http.delete(self._session)
        self._http.close()


@contextmanager
def firefox(folder: Path) -> Iterator[Driven]:
    """Run Firefox without a screen. folder: of its profile, empty"""
    assert FIREFOX is not None
    folder.mkdir()
    preferences = {"marionette.port": 0, "media.autoplay.default": 0, "app.update.enabled": False}
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in preferences.items()]
    (folder / "user.js").write_text("\n".join(lines), encoding="utf-8")
    command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    environment = {**os.environ, "HOME": str(folder)}
    with _running(command, environment, folder / "log") as process:
        port = folder / "MarionetteActivePort"
        wait_until("Firefox listens", lambda: port.exists() or process.poll() is not None)
        with socket.create_connection(
            ("127.0.0.1", int(port.read_text(encoding="utf-8"))), DEADLINE_S
        ) as line:
            yield Firefox(line)


@contextmanager
def webkit(folder: Path) -> Iterator[Driven]:
    """Run WebKit on a screen in memory. folder: of its files, empty"""
    assert WEBKIT is not None
    assert XVFB is not None
    folder.mkdir()
    port, number = free_port(), os.getpid()
    screen = [XVFB, f":{number}", "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    environment = {
        **os.environ,
        "HOME": str(folder),
        "DISPLAY": f":{number}",
        "WEBKIT_DISABLE_COMPOSITING_MODE": "1",
        # Its sandbox needs namespaces that a container lacks.
        "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }
    command = [WEBKIT, f"--port={port}", "--host=127.0.0.1"]
    with (
        _running(screen, dict(os.environ), folder / "screen.log"),
        _running(command, environment, folder / "log"),
    ):
        wait_until("the screen is there", Path(f"/tmp/.X11-unix/X{number}").exists)
        wait_until("WebKitWebDriver answers", lambda: _answers(port))
        browser = WebKit(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()


def _answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/status", timeout=5.0).status_code == 200
    return False


@contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


OTHERS: Final[dict[str, tuple[bool, Callable[..., Any]]]] = {
    "firefox": (FIREFOX is not None, firefox),
    "webkit": (bool(WEBKIT and XVFB and MINI_BROWSERS), webkit),
}
"""The browsers beside Chromium: whether each is here, and how it runs."""
