"""Each page, opened by each role: it requests nothing that its reader may not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.access import guarded
from framegate.pipeline.web.accounts.accounts import ROLES, AccountFile, digest_of
from framegate.pipeline.web.connections import RequestLimit
from framegate.pipeline.web.limits import LIMITS
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.runs import DEADLINE_S
from tests.support.said import BEGAN
from tests.support.web_server import serving_app
from tests.support.whole_port import fill, whole_port

pytestmark = [pytest.mark.whole_run, needs_chromium]

PAGES = ("", "review", "recordings", "rules", "visits", "unseen", "disagreements")
ACCOUNTS = [f"{which}_{role}" for role in ROLES for which in ("every", "some")]
STREAMS = ("/live?", "/stream", "/episodes/live")
# No pixels, or no recording of a visit; another program made a network interface.
OTHER = ("status of 503", "status of 404", "ERR_NETWORK_CHANGED")
QUIET_LOOKS = 6  # 50 ms apart, without a request under way: a page requests one thing after another


@pytest.fixture(scope="module")
def base(store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    fill(store, folder)
    lines = []
    for account in ACCOUNTS:
        which, role = account.split("_")
        lines += [f"[{account}]", f'role = "{role}"']
        lines.append(f'token = "{digest_of(account.encode())}"')
        if which == "some":
            lines.append('sources = ["door"]')
    file = tmp_path_factory.mktemp("accounts") / "accounts.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    listening = listening_at("127.0.0.1", 0)
    with whole_port(store, folder) as app:
        door = guarded(RequestLimit(app, LIMITS.requests), listening, "", (), AccountFile(file))
        with serving_app(door, listening) as port:
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


class Watched:
    """The requests of a page under way, and the refused ones."""

    def __init__(self, page: Any) -> None:
        self.open: set[Any] = set()
        self.refused: list[str] = []
        self.answered = 0
        page.on("request", lambda request: self.open.add(request))
        page.on("requestfinished", lambda request: self.open.discard(request))
        page.on("requestfailed", lambda request: self.open.discard(request))
        page.on("response", self._note)

    def _note(self, response: Any) -> None:
        self.answered += "/api/" in response.url
        is_stream = any(stream in response.url for stream in STREAMS)
        if is_stream or response.status >= 400:  # a page does not read the body of these
            self.open.discard(response.request)
        if response.status in (401, 403):
            self.refused.append(f"{response.status} {response.url}")


@pytest.mark.parametrize("account", ACCOUNTS)
def test_no_page_requests_what_its_reader_may_not_have(
    base: str, browser: Any, account: str
) -> None:
    for path in PAGES:
        visit = Visit(browser, "about:blank")
        watched = Watched(visit.page)
        visit.page.set_extra_http_headers({"Authorization": f"Bearer {account}"})
        visit.page.goto(f"{base}/{path}")
        quiet = 0
        for _ in range(int(DEADLINE_S * 20)):
            visit.page.wait_for_timeout(50)
            quiet = 0 if watched.open or not watched.answered else quiet + 1
            if quiet == QUIET_LOOKS:
                break
        assert quiet == QUIET_LOOKS, (path, watched.open)
        assert not watched.refused, path
        assert [fault for fault in visit.faults if not any(each in fault for each in OTHER)] == []
        visit.close()


@pytest.mark.parametrize("account", [f"every_{role}" for role in ROLES])
def test_pages_offer_what_their_reader_may_change(base: str, browser: Any, account: str) -> None:
    may_judge = account != "every_viewer"
    visit = Visit(browser, "about:blank")
    visit.page.set_extra_http_headers({"Authorization": f"Bearer {account}"})
    visit.page.goto(f"{base}/review#span=2592000&until={BEGAN + 3600}")
    visit.until("document.querySelector('#list button')")
    visit.page.locator("#list button").first.click()
    visit.until("document.querySelector('#chosen .judge')")
    assert visit.page.is_visible("#chosen .judge") == may_judge
    assert visit.page.is_visible("#judge_keys") == may_judge
    visit.page.keyboard.press("f")
    visit.page.goto(f"{base}/visits")
    visit.until("document.querySelector('#found li')")
    assert visit.page.locator("#found .yes").count() == 2 * may_judge
    visit.page.goto(f"{base}/rules")
    visit.until("document.querySelector('#when').options.length")
    visit.page.select_option("#when", "ignore")
    may_operate = account in ("every_operator", "every_admin")
    assert visit.page.is_visible("#ignore") == may_operate
    assert not [fault for fault in visit.faults if "403" in fault]
    visit.close()
