"""A headless Chromium that remembers what went wrong in a page and what it asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.runs import DEADLINE_S

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")

needs_chromium = pytest.mark.skipif(
    shutil.which(CHROMIUM) is None, reason="no chromium here (Debian: apt-get install chromium)"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(QUIET), timeout=DEADLINE_S * 1000
        )
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page at an address.

    faults  what its console said as an error, and requests that failed
    asked   URLs of all requests
    """

    def __init__(self, browser: Any, url: str, width: int = 1280, height: int = 800) -> None:
        self.faults: list[str] = []
        self.asked: list[str] = []
        self._context = browser.new_context(viewport={"width": width, "height": height})
        self._context.set_default_timeout(DEADLINE_S * 1000)
        self.page = self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.goto(url)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _failed(self, request: Any) -> None:
        # A stream that the page itself ends, because other pictures are seen now, is no fault.
        if not ("/live?" in request.url and "ABORTED" in (request.failure or "")):
            self.faults.append(f"{request.url}: {request.failure}")

    def look(self, expression: str) -> Any:
        """The value of a JavaScript expression; the page's policy allows no eval in it."""
        return self.page.evaluate(expression)

    def until(self, expression: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait until it is true."""
        self.page.wait_for_timeout(0)
        for _ in range(int(deadline_s * 20)):
            if found := self.look(expression):
                return found
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not in {deadline_s} s: {expression}; {self.faults}")

    def close(self) -> None:
        self._context.close()
