"""The pages in Firefox and in WebKit, the engine of Safari: each is walked as a person does."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.access import guarded
from framegate.pipeline.web.accounts.accounts import AccountFile, digest_of
from framegate.pipeline.web.accounts.sessions import Sessions
from tests.support.runs import DEADLINE_S
from tests.support.said import BEGAN
from tests.support.web_drivers import OTHERS, Driven
from tests.support.web_server import serving_app
from tests.support.whole_port import fill, whole_port

TOKEN = "the-token-of-the-run"


@pytest.fixture(scope="module")
def url(store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a run with a token, two sources, recordings, episodes and visits."""
    folder = tmp_path_factory.mktemp("data")
    fill(store, folder)
    listening = listening_at("127.0.0.1", 0)
    digest = digest_of(TOKEN.encode())
    accounts = AccountFile(folder / "accounts.toml")
    sessions = Sessions("a key", digest, accounts)
    with ExitStack() as stack:
        app = stack.enter_context(whole_port(store, folder, sessions))
        door = guarded(app, listening, digest, (), accounts, sessions)
        port = stack.enter_context(serving_app(door, listening))
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=sorted(OTHERS))
def browser(
    request: pytest.FixtureRequest, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driven]:
    """A browser in which a person has logged in on the page."""
    is_here, run = OTHERS[request.param]
    if not is_here:
        pytest.skip(f"no {request.param} here (Debian: firefox-esr; webkit2gtk-driver, xvfb)")
    with run(tmp_path_factory.mktemp("browser") / "profile") as made:
        made.go(f"{url}/review#span=3600")
        made.until("document.querySelector('#out') && !document.querySelector('#out').hidden")
        made.write("#name", "admin")
        made.write("#password", TOKEN)
        made.click("#enter")
        made.until("document.title.startsWith('Review') && location.hash.includes('3600')")
        yield made


def is_silent(browser: Driven) -> None:
    """No page may state a fault."""
    shown = "[...document.querySelectorAll('#trouble, #fault, #faults, #message')]"
    assert browser.look(f"{shown}.filter(it => !it.hidden).map(it => it.textContent)") == []


def test_live_lists_the_sources(browser: Driven, url: str) -> None:
    browser.go(f"{url}/")
    browser.until("document.querySelectorAll('#cards article').length === 2")
    browser.write("#filter", "attic")
    browser.until("document.querySelectorAll('#cards article:not([hidden])').length === 1")
    is_silent(browser)


def test_a_recording_is_played_sought_and_exported(browser: Driven, url: str) -> None:
    asked = httpx.get(
        f"{url}/api/v1/recordings",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=DEADLINE_S,
    )
    [since] = [each["since"] for each in asked.json() if each["source"] == "door"]
    day = datetime.date.fromtimestamp(since)
    browser.go(f"{url}/recordings#day={day}&source=door&at={since}")
    browser.until("document.querySelectorAll('#lanes .lane').length === 2")
    browser.until("document.querySelector('video').readyState >= 2")
    browser.until("document.querySelector('#film img').naturalWidth > 0")
    is_silent(browser)
    video = "document.querySelector('video')"
    begin = browser.look(f"{video}.currentTime")
    browser.click("#toggle")
    browser.until(f"{video}.currentTime > {begin} + 0.3")
    browser.until(f"{video}.paused")
    browser.click("#film button:has(img)")
    browser.until(f"!{video}.seeking && {video}.currentTime < {begin} + 1")
    browser.until(f"{video}.readyState >= 2")
    browser.look("document.querySelector('#lanes .lane').focus()")
    browser.press("Home")
    reason = "document.activeElement.getAttribute('aria-valuetext')"
    assert browser.look(reason).startswith("00:00:00, ")
    browser.click("#save")
    browser.until("document.querySelector('#saved').textContent.startsWith('Exported')")


def test_an_episode_is_judged(browser: Driven, url: str) -> None:
    browser.go(f"{url}/review#span=86400&until={BEGAN + 3600}")
    browser.until("document.querySelectorAll('#list button').length > 1")
    browser.click("#list button")
    browser.until("document.querySelector('[data-verdict=true]')")
    browser.click("[data-verdict=true]")
    pressed = "document.querySelector('[data-verdict=true]').getAttribute('aria-pressed')"
    browser.until(f"{pressed} === 'true'")
    is_silent(browser)


def test_a_rule_is_drawn_moved_and_saved(browser: Driven, url: str) -> None:
    browser.go(f"{url}/rules#source=door")
    browser.until("!document.querySelector('#saved').hidden")
    for x, y in ((0.3, 0.2), (0.7, 0.2), (0.7, 0.8)):
        browser.click_at("#still", x, y)
    browser.until("document.querySelectorAll('.corner').length === 3")
    place = "document.querySelector('.corner').style.top"
    before = browser.look(place)
    browser.look("document.querySelector('.corner').focus()")
    browser.press("ArrowDown")
    browser.until(f"{place} !== '{before}'")
    browser.look("document.querySelector('#still svg').focus()")
    browser.press("Enter")  # without a mouse: a point in the middle
    browser.until("document.querySelectorAll('.corner').length === 4")
    browser.write("#name", f"drawn_{type(browser).__name__.lower()}")
    saved = browser.look("document.querySelectorAll('#rules li').length")
    browser.click("#save")
    browser.until(f"document.querySelectorAll('#rules li').length === {saved} + 1")
    is_silent(browser)


@pytest.mark.parametrize(
    ("page", "ready"),
    [
        ("visits", "document.querySelectorAll('#found li').length > 0"),
        ("unseen#span=2592000", "document.querySelector('#verdict').textContent !== ''"),
        ("disagreements#", "!document.querySelector('#none').hidden || "
         "!document.querySelector('#hours').hidden"),
    ],
)  # fmt: skip
def test_other_pages_show_their_content(browser: Driven, url: str, page: str, ready: Any) -> None:
    browser.go(f"{url}/{page}")
    browser.until(ready)
    is_silent(browser)


def test_a_login_that_ends_leads_to_the_login_page_and_back(browser: Driven, url: str) -> None:
    browser.go(f"{url}/unseen#span=604800")
    browser.until("document.querySelector('#verdict').textContent !== ''")
    post = "{ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' }"
    leave = f"fetch('api/v1/logout', {post}).then(() => {{ document.title = 'left'; }})"
    browser.look(f"({leave}, null)")
    browser.until("document.title === 'left'")
    browser.look("document.querySelector('#span').dispatchEvent(new Event('change'))")
    browser.until("location.pathname.endsWith('/login')")
    browser.until("document.querySelector('#out') && !document.querySelector('#out').hidden")
    browser.write("#name", "admin")
    browser.write("#password", TOKEN)
    browser.click("#enter")
    browser.until("location.pathname.endsWith('/unseen') && location.hash.includes('604800')")
