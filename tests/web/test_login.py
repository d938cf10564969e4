"""Browsers log in by a page or by a trusted proxy, and `framegate account` writes the accounts."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.access import TrustedProxies, guarded
from framegate.pipeline.web.accounts.accounts import AccountFile, digest_of, read_accounts
from framegate.pipeline.web.accounts.login import accounts_of, login_routes
from framegate.pipeline.web.accounts.sessions import (
    MAX_ACCOUNT_FAILURES,
    MAX_FAILURES,
    MAX_NETWORK_FAILURES,
    WINDOW_S,
    Failures,
    KnownBrowser,
    Sessions,
    limits_of,
)
from framegate.pipeline.web.connections import RequestLimit
from framegate.pipeline.web.limits import LIMITS, AtOnce, Refusal
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.route_table import with_doors
from tests.support.browsers import Visit, chromium, needs_chromium
from tests.support.commands import Ended, framegate
from tests.support.runs import DEADLINE_S
from tests.support.web_server import serving_app
from tests.support.whole_port import fill, whole_port

PASSWORD = "a long password"
RUN_TOKEN = "the-token-of-the-run"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two accounts with passwords, one with a token, and one for groups of a proxy."""
    folder = tmp_path_factory.mktemp("accounts")
    (folder / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    for words in (
        ("guard", "--role", "reviewer", "--password-file", "password"),
        ("porter", "--sources", "door", "--password-file", "password"),
        ("shift", "--role", "operator", "--groups", "cctv,night"),
        ("visitor", "--groups", "cctv,staff"),
    ):
        made = framegate(folder, "account", "add", *words)
        assert made.code == 0, made.err
    return folder / "accounts.toml"


@contextmanager
def served(file: Path, proxies: TrustedProxies | None = None) -> Iterator[httpx.Client]:
    """A port with these accounts and the pages that they log in to."""
    accounts = AccountFile(file)
    sessions = Sessions("a key", digest_of(RUN_TOKEN.encode()), accounts)
    app = Starlette(
        routes=with_doors([*login_routes(sessions), page("/", "pictures/page.html", "")])
    )
    listening = listening_at("127.0.0.1", 0)
    # The limit marks a connection as needed: without it, a login that takes 10 s is cut off.
    limited = RequestLimit(app, LIMITS.requests)
    token = digest_of(RUN_TOKEN.encode())
    door = guarded(limited, listening, token, (), accounts, sessions, proxies)
    with (
        serving_app(door, listening) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
    ):
        yield client


@pytest.fixture
def client(file: Path) -> Iterator[httpx.Client]:
    with served(file) as made:
        yield made


def login(client: httpx.Client, name: str, password: str) -> httpx.Response:
    return client.post("/api/v1/login", json={"name": name, "password": password})


def test_a_browser_is_sent_to_the_login_page_and_a_program_is_not(client: httpx.Client) -> None:
    sent = client.get("/?a=1", headers={"Accept": "text/html,*/*"})
    assert (sent.status_code, sent.headers["location"]) == (303, "login?next=")
    deep = client.get("/snapshot/door.jpg", headers={"Accept": "text/html"})
    assert deep.headers["location"] == "../login?next=snapshot/door.jpg"
    refused = client.get("/api/v1/account")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer"), "no dialog of the browser"


def test_tokens_of_accounts_need_no_package_for_logins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = framegate(tmp_path, "account", "add", "wall")
    assert made.code == 0, made.err
    for name in ("argon2", "itsdangerous"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    spec = WebSpec("", "", "", "INFO", "text", accounts=str(tmp_path / "accounts.toml"))
    accounts, sessions = accounts_of(spec)
    assert sessions is None
    assert "pip install argon2-cffi itsdangerous" in caplog.text
    listening = listening_at("127.0.0.1", 0)
    door = guarded(
        Starlette(routes=login_routes(None)),
        listening,
        digest_of(RUN_TOKEN.encode()),
        (),
        accounts,
        sessions,
        None,
    )
    bearer = {"Authorization": f"Bearer {made.out.strip()}"}
    with serving_app(door, listening) as port:
        url = f"http://127.0.0.1:{port}/api/v1/account"
        assert httpx.get(url, headers=bearer, timeout=DEADLINE_S).json()["name"] == "wall"
        assert httpx.get(url, timeout=DEADLINE_S).status_code == 401


def test_a_session_is_its_account_until_it_ends(client: httpx.Client) -> None:
    entered = login(client, "porter", PASSWORD)
    assert entered.status_code == 200
    cookie, known = entered.headers.get_list("set-cookie")
    assert re.fullmatch(
        r"framegate_[0-9a-f]{8}_known=[\w.-]+; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax",
        known,
    )
    assert re.fullmatch(
        r"framegate_[0-9a-f]{8}=[\w.-]+; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax", cookie
    )
    own = client.get("/api/v1/account").json()
    assert own == {"name": "porter", "role": "viewer", "sources": ["door"]}
    assert ">porter</a></nav>" in client.get("/").text
    same = {"Origin": str(client.base_url).rstrip("/")}
    for origin in ({}, {"Origin": "https://other.example"}, {"Origin": "null"}):
        refused = client.post("/api/v1/logout", json={}, headers=origin)
        assert refused.status_code == 403, "a page of another server sends the cookie too"
    left = client.post("/api/v1/logout", json={}, headers=same)
    assert "Max-Age=0" in left.headers["set-cookie"]
    assert client.get("/api/v1/account").status_code == 401


def test_a_changed_cookie_is_refused(client: httpx.Client) -> None:
    login(client, "porter", PASSWORD)
    (name, value), _known_browser = client.cookies.items()
    client.cookies.clear()
    for changed in (value[:-1], value[1:], value + "x", "", "a.b.c", "x" * 4000):
        answer = client.get("/api/v1/account", headers={"Cookie": f"{name}={changed}"})
        assert answer.status_code == 401, changed
    good = client.get("/api/v1/account", headers={"Cookie": f"{name}={value}"})
    assert good.status_code == 200


def test_the_token_of_the_run_logs_in_as_admin(client: httpx.Client) -> None:
    assert login(client, "guard", RUN_TOKEN).status_code == 403
    assert login(client, "admin", RUN_TOKEN).status_code == 200
    assert client.get("/api/v1/account").json()["role"] == "admin"


def test_failed_logins_are_slowed_down(client: httpx.Client) -> None:
    for name in ("guard", "nobody", "shift", "guard", "admin"):
        wrong = login(client, name, "a wrong password")
        assert (wrong.status_code, wrong.json()["error"]) == (
            403, "the name or the password is wrong",
        )  # fmt: skip
    slowed = login(client, "guard", PASSWORD)
    assert slowed.status_code == 429
    assert "try again in" in slowed.json()["error"]


def test_failures_count_by_address_network_and_account() -> None:
    failures = Failures()

    def wait_s(name: str, address: str, now: float) -> float:
        return failures.wait_s(limits_of(name, address, None), now)

    for second in range(MAX_FAILURES):
        failures.add(limits_of("guard", "2001:db8::1", None), float(second))
    assert wait_s("other", "2001:db8::ffff", 5.0) == WINDOW_S - 5.0, "of the same /64"
    assert wait_s("other", "2001:db8:0:1::1", 5.0) == 0.0
    assert wait_s("other", "2001:db8::1", WINDOW_S + 0.5) == 0.0
    for n in range(MAX_NETWORK_FAILURES - MAX_FAILURES):
        failures.add(limits_of("porter", f"2001:db8:0:{n + 1:x}::1", None), 4.0)
    assert wait_s("other", "2001:db8:0:ff::1", 5.0) == WINDOW_S - 5.0, "of the same /48"
    assert wait_s("other", "2001:db8:1::1", 5.0) == 0.0
    for n in range(MAX_ACCOUNT_FAILURES):
        failures.add(limits_of("guard", f"192.0.2.{n}", None), 10.0)
    assert wait_s("guard", "203.0.113.9", 20.0) == WINDOW_S - 10.0
    assert wait_s("porter", "203.0.113.9", 20.0) == 0.0, "the other accounts do not wait"
    known = limits_of("guard", "192.0.2.1", KnownBrowser("guard", "its id"))
    assert failures.wait_s(known, 20.0) == 0.0


def test_a_known_browser_and_a_token_are_not_locked_out(client: httpx.Client) -> None:
    """By those who guess at the same address."""
    assert login(client, "porter", PASSWORD).status_code == 200
    known = {name: value for name, value in client.cookies.items() if name.endswith("_known")}
    assert len(known) == 1
    client.cookies.clear()
    for _ in range(MAX_FAILURES):
        assert login(client, "porter", "a wrong password").status_code == 403
    assert login(client, "porter", PASSWORD).status_code == 429
    assert login(client, "admin", RUN_TOKEN).status_code == 200
    client.cookies.clear()
    client.cookies.update(known)
    assert login(client, "guard", PASSWORD).status_code == 429, "it is known for one account only"
    for _ in range(MAX_FAILURES):
        assert login(client, "porter", "a wrong password").status_code == 403
    assert login(client, "porter", PASSWORD).status_code == 429, "it has a limit too"


def test_one_address_takes_some_places_for_logins_only() -> None:
    places = AtOnce(3, "logins", of_address=2)
    with places.taken("192.0.2.1"), places.taken("192.0.2.1"):
        with pytest.raises(Refusal, match="2 logins of one address are in progress"):
            places.taken("192.0.2.1").__enter__()
        with places.taken("192.0.2.2"), pytest.raises(Refusal, match="3 logins are in progress"):
            places.taken("192.0.2.3").__enter__()
    with places.taken("192.0.2.1"):
        pass


def test_a_new_password_and_a_removed_account_end_sessions(tmp_path: Path, file: Path) -> None:
    own = tmp_path / "accounts.toml"
    text = file.read_text(encoding="utf-8")
    own.write_text(text, encoding="utf-8")
    with served(own) as client:
        login(client, "guard", PASSWORD)
        assert client.get("/api/v1/account").status_code == 200
        own.write_text("[guard]\nrole = ", encoding="utf-8")
        assert client.get("/api/v1/account").status_code == 200, "a faulty file changes nothing"
        assert framegate(tmp_path, "account", "list").code == 2
        own.write_text(text, encoding="utf-8")
        assert framegate(tmp_path, "account", "remove", "guard").code == 0
        assert client.get("/api/v1/account").status_code == 401


def test_a_trusted_proxy_names_the_user_and_others_do_not(file: Path) -> None:
    asked = {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "staff, night"}
    with served(file) as client:
        assert client.get("/api/v1/account", headers=asked).status_code == 401
    with served(file, TrustedProxies(("10.0.0.0/8",))) as client:
        assert client.get("/api/v1/account", headers=asked).status_code == 401
    with served(file, TrustedProxies(("127.0.0.1",))) as client:
        assert client.get("/api/v1/account", headers=asked).json()["name"] == "shift"
        only = client.get("/api/v1/account", headers={**asked, "X-Forwarded-Groups": "staff|x"})
        assert only.json()["role"] == "viewer"
        none = client.get("/api/v1/account", headers={**asked, "X-Forwarded-Groups": "sales"})
        assert none.status_code == 403
        assert "the user 'anna' has no group with an account" in none.json()["error"]
        assert client.get("/api/v1/account").status_code == 401
        foreign = {**asked, "Origin": "https://other.example"}
        assert client.post("/api/v1/logout", json={}, headers=foreign).status_code == 403
        ours = {**foreign, "X-Forwarded-Host": "other.example"}
        assert client.post("/api/v1/logout", json={}, headers=ours).status_code == 200
        secure = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7, 192.0.2.9"}
        entered = client.post(
            "/api/v1/login", json={"name": "guard", "password": PASSWORD}, headers=secure
        )
        assert entered.headers["set-cookie"].endswith("; Secure")


def test_only_a_trusted_proxy_names_the_host_of_its_pages(file: Path) -> None:
    page_of = {"Origin": "https://other.example", "X-Forwarded-Host": "other.example"}
    with served(file, TrustedProxies(("10.0.0.0/8",))) as client:
        login(client, "guard", PASSWORD)
        assert client.post("/api/v1/logout", json={}, headers=page_of).status_code == 403


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("10.0.0.9", ["203.0.113.7, 192.0.2.9"], "192.0.2.9"),
        ("10.0.0.9", ["203.0.113.7", "192.0.2.9"], "192.0.2.9"),
        ("::ffff:10.0.0.9", ["::ffff:192.0.2.9"], "192.0.2.9"),
        ("10.0.0.9", [], "10.0.0.9"),
        ("::ffff:203.0.113.7", ["192.0.2.9"], "203.0.113.7"),
        ("2001:db8::7", ["192.0.2.9"], "2001:db8::7"),
    ],
)
def test_the_address_of_a_browser_is_the_one_that_the_proxy_saw(
    peer: str, forwarded: list[str], address: str
) -> None:
    headers = Headers(raw=[(b"x-forwarded-for", each.encode()) for each in forwarded])
    proxies = TrustedProxies(("10.0.0.0/8",))
    assert proxies.client_of({"client": (peer, 1000)}, headers)[0] == address


# -- The command.


def test_an_account_is_added_listed_and_removed(tmp_path: Path) -> None:
    added = framegate(tmp_path, "account", "add", "wall", "--sources", "door,yard")
    token = added.out.strip()
    assert len(token) >= 40
    assert 'accounts_file = "accounts.toml"' in added.err
    written = tmp_path / "accounts.toml"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert token not in written.read_text(encoding="utf-8")
    assert read_accounts(written)["wall"].token == digest_of(token.encode())
    again = framegate(tmp_path, "account", "add", "wall")
    assert again.code == 2
    assert "framegate account remove wall" in again.err
    listed = framegate(tmp_path, "account", "list").out
    assert listed.split() == ["wall", "viewer", "token", "door,", "yard"]
    typo = framegate(tmp_path, "account", "remove", "wal")
    assert "did you mean wall?" in typo.err
    above = '# the wall in the hall\n[wall]  # at noon\n# only\nrole = "viewer"\n\n'
    below = '# the other\n\n# one\n[other]\nrole = "admin"\n'
    written.write_text(above + below, encoding="utf-8")
    assert framegate(tmp_path, "account", "remove", "wall").code == 0
    assert written.read_text(encoding="utf-8") == "# the wall in the hall\n" + below
    written.write_text(below + '\n[wall]\nrole = "viewer"', encoding="utf-8")
    assert framegate(tmp_path, "account", "remove", "wall").code == 0
    assert written.read_text(encoding="utf-8") == below + "\n"


def test_accounts_that_are_added_at_once_are_all_in_the_file(tmp_path: Path) -> None:
    names = [f"wall{n}" for n in range(6)]
    file = str(tmp_path / "accounts.toml")

    def add(name: str) -> Ended:
        folder = tmp_path / name
        folder.mkdir()
        return framegate(folder, "account", "add", name, "--file", file)

    with ThreadPoolExecutor(len(names)) as pool:
        added = list(pool.map(add, names))
    assert [each.code for each in added] == [0] * len(names), added
    accounts = read_accounts(Path(file))
    assert {name: account.token for name, account in accounts.items()} == {
        name: digest_of(each.out.strip().encode()) for name, each in zip(names, added, strict=True)
    }


def test_a_file_of_accounts_keeps_its_owner_and_its_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "accounts.toml"
    assert framegate(tmp_path, "account", "add", "wall", "--file", "real.toml").code == 0
    link.symlink_to(real)
    owner = os.geteuid()
    if owner == 0:  # root adds accounts to the file of the user that the run has
        owner = 12345
        os.chown(real, owner, owner)
    assert framegate(tmp_path, "account", "add", "guard").code == 0
    assert link.is_symlink()
    assert sorted(read_accounts(link)) == ["guard", "wall"]
    assert real.stat().st_uid == owner


def test_a_faulty_account_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    for words, reason in (
        (("add", "A wall"), "a name is"),
        (("add", "wall", "--role", "boss"), "'boss' is unknown; allowed are viewer"),
        (("add", "wall", "--sources", "The Door"), "is not a name"),
        (("add", "wall", "--sources", ","), "name a source, or leave"),
        (("add", "wall", "--password"), "no terminal to ask for the password"),
        (("list",), "No such file"),
    ):
        refused = framegate(tmp_path, "account", *words)
        assert refused.code == 2, words
        assert reason in refused.err
    file = tmp_path / "accounts.toml"
    for text, reason in (
        ('[wall]\nrole = "viwer"', "did you mean viewer?"),
        ('[wall]\nrole = "viewer"\ntoken = "the-token"', "64 hexadecimal digits"),
        ('[wall]\nrole = "viewer"\npassword = "secret"', "Argon2id hash"),
        ('[wall]\nrole = "viewer"\nsource = ["door"]', "its keys: role, sources"),
        ("wall = 3", "[wall]"),
    ):
        file.write_text(text, encoding="utf-8")
        refused = framegate(tmp_path, "account", "list")
        assert refused.code == 2
        assert reason in refused.err
        assert "the-token" not in refused.err


@needs_chromium
def test_a_person_logs_in_and_out_on_the_page(
    file: Path, store: EmbeddedStore, tmp_path: Path
) -> None:
    fill(store, tmp_path)
    accounts = AccountFile(file)
    sessions = Sessions("a key", digest_of(RUN_TOKEN.encode()), accounts)
    listening = listening_at("127.0.0.1", 0)
    with whole_port(store, tmp_path, sessions) as app:
        limited = RequestLimit(app, LIMITS.requests)
        door = guarded(limited, listening, digest_of(RUN_TOKEN.encode()), (), accounts, sessions)
        with serving_app(door, listening) as port, chromium() as browser:
            visit = Visit(browser, f"http://127.0.0.1:{port}/review")
            page = visit.page
            visit.until("!document.querySelector('#out').hidden")
            page.fill("#name", "porter")
            page.fill("#password", "a wrong password")
            page.click("#enter")
            visit.until("document.querySelector('#fault').textContent.includes('wrong')")
            page.fill("#password", PASSWORD)
            with page.expect_navigation():
                page.keyboard.press("Enter")
            visit.until("document.querySelector('nav').textContent.includes('porter')")
            seen = "document.body.innerText + document.querySelector('#tools').textContent"
            visit.until(f"({seen}).includes('door')")
            assert not visit.look(f"({seen}).includes('attic')")
            page.click("nav a[href=login]")
            visit.until("document.querySelector('#sources')?.textContent === 'door'")
            page.click("#leave")
            visit.until("!document.querySelector('#out').hidden")
            page.goto(f"http://127.0.0.1:{port}/")
            assert "/login" in page.url
