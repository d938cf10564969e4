"""Who may ask the HTTP port, how the token comes to it, and a run that asks for one."""

from __future__ import annotations

import asyncio
import base64
import socket
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.ports import origin_fault
from framegate.pipeline.web.accounts.access import guarded
from framegate.pipeline.web.port import TOKEN_ENV, TOKEN_FILE, find_token
from tests.support import footage
from tests.support.commands import Command, framegate, user_folder
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until

TOKEN = "of-eighteen-letters"


@pytest.fixture
def beyond() -> Iterator[socket.socket]:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        yield listening


@pytest.fixture
def here() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class Asking:
    """Asks the app without a network, as uvicorn would."""

    def __init__(self, listening: socket.socket, token: str, *origins: str) -> None:
        paths = ("/", "/metrics", "/healthz", "/readyz")
        app = Starlette(routes=[Route(path, PlainTextResponse("seen")) for path in paths])
        digest = sha256(token.encode()).hexdigest() if token else ""
        self._app = guarded(app, listening, digest, origins)

    def get(self, path: str, headers: Any = None) -> httpx.Response:
        return asyncio.run(self._ask("GET", path, headers))

    def options(self, path: str, headers: Any = None) -> httpx.Response:
        return asyncio.run(self._ask("OPTIONS", path, headers))

    async def _ask(self, method: str, path: str, headers: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=headers)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_who_shows_the_token_is_let_in(beyond: socket.socket, path: str) -> None:
    asking = Asking(beyond, TOKEN)
    refused = asking.get(path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert TOKEN not in refused.text
    for shown in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("any", TOKEN), basic("", TOKEN)):
        assert asking.get(path, headers={"Authorization": shown}).text == "seen"
    for shown in (
        "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN, basic(TOKEN, ""),
        "Basic %%%", "Basic", f"Digest {TOKEN}", "Bearer \u00fc".encode("latin-1"),
    ):  # fmt: skip
        assert asking.get(path, headers={"Authorization": shown}).status_code == 401


def test_health_is_told_without(beyond: socket.socket) -> None:
    asking = Asking(beyond, TOKEN)
    assert asking.get("/healthz").text == asking.get("/readyz").text == "seen"


def test_without_a_token_this_host_is_asked_by_its_own_names(here: socket.socket) -> None:
    asking = Asking(here, "")
    assert asking.get("/").text == "seen"
    assert asking.get("/", headers={"Host": "rebound.example"}).status_code == 400


def test_without_a_token_other_hosts_use_an_address_or_a_name_that_strangers_cannot_have(
    beyond: socket.socket,
) -> None:
    """In a container the port listens at all addresses, also if it is published on a loopback."""
    asking = Asking(beyond, "", "https://cameras.example")
    for host in (
        "127.0.0.1:8686", "192.0.2.7", "[2001:db8::1]:8686", "framegate:8686", "localhost",
        "cameras.example", "CAMERAS.example:443", "nas.local:8686", "NAS.home.arpa",
    ):  # fmt: skip
        assert asking.get("/", headers={"Host": host}).text == "seen", host
    for host in ("rebound.example", "rebound.example:8686", "local.example"):
        refused = asking.get("/", headers={"Host": host})
        assert refused.status_code == 400
        assert "[http] origins" in refused.text
    assert Asking(beyond, "", "*").get("/", headers={"Host": "any.example"}).text == "seen"
    shown = {"Authorization": f"Bearer {TOKEN}", "Host": "any.example"}
    assert Asking(beyond, TOKEN).get("/", headers=shown).text == "seen"


def test_pages_of_others_read_nothing_unless_they_are_named(here: socket.socket) -> None:
    page = {"Origin": "https://wall.example"}
    allowed = "access-control-allow-origin"
    assert allowed not in Asking(here, "").get("/", headers=page).headers
    named = Asking(here, TOKEN, "https://wall.example")
    before = {**page, "Access-Control-Request-Method": "GET"}
    before["Access-Control-Request-Headers"] = "authorization"
    preflight = named.options("/", headers=before)
    assert (preflight.status_code, preflight.headers[allowed]) == (200, page["Origin"])
    shown = {**page, "Authorization": f"Bearer {TOKEN}"}
    assert named.get("/", headers=shown).headers[allowed] == page["Origin"]
    other = named.get("/", headers={**shown, "Origin": "https://other.example"})
    assert other.headers.get(allowed) != "https://other.example"


def test_an_origin_is_a_scheme_and_a_host() -> None:
    for sound in ("https://wall.example", "http://192.0.2.7:8123", "http://[::1]:80", "*"):
        assert origin_fault(sound) is None
    for odd in ("wall.example", "https://wall.example/", "https://a@b", "", "null"):
        assert "https://HOST" in (origin_fault(odd) or "")


def test_a_token_is_from_a_file_or_the_environment_or_the_folders_own(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    environment = {TOKEN_ENV: "another-of-some-letters", "HOME": "/"}
    token = find_token(str(file), environment, tmp_path, make=True)
    assert token is not None
    assert token.secret == TOKEN
    assert TOKEN not in repr(token)
    assert environment == {"HOME": "/"}, "children do not inherit it"
    told = find_token(None, {TOKEN_ENV: TOKEN}, tmp_path, make=True)
    assert told is not None
    assert told.digest == sha256(TOKEN.encode()).hexdigest()
    assert find_token(None, {}, tmp_path, make=False) is None
    assert find_token("off", {TOKEN_ENV: TOKEN}, tmp_path, make=True) is None
    assert find_token(None, {TOKEN_ENV: "off"}, tmp_path, make=True) is None
    made = find_token(None, {}, tmp_path, make=True)
    assert made is not None
    assert made == find_token(None, {}, tmp_path, make=True), "it stays"
    assert len(made.secret) >= 40
    assert stat.S_IMODE((tmp_path / TOKEN_FILE).stat().st_mode) == 0o600
    with pytest.raises(
        ConfigFaults, match=r"in the variable .* has 5 characters; it needs at least 16"
    ):
        find_token(None, {TOKEN_ENV: "short"}, tmp_path, make=True)
    with pytest.raises(ConfigFaults, match=r"http.token_file = .*: .*No such file"):
        find_token(str(tmp_path / "none"), {}, tmp_path, make=True)


@pytest.mark.whole_run
def test_a_run_that_others_can_reach_asks_for_its_token(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "door.mp4", footage.steady(100, fps=8))
    port = free_port()
    words = ("door.mp4", "-d", "data", "--pace", "realtime", "--http", f"0.0.0.0:{port}")
    base = f"http://127.0.0.1:{port}"
    with (
        Command(folder, "run", *words) as run,
        httpx.Client(base_url=base, timeout=DEADLINE_S) as anybody,
    ):
        run.says("asks for the token in the file")
        token = (folder / "data" / TOKEN_FILE).read_text(encoding="utf-8").strip()
        assert anybody.get("/healthz").status_code == 200
        for path in ("/", "/metrics", "/api/v1/sources", "/api/v1/results/stream"):
            assert anybody.get(path).status_code == 401
        # The command looks for runs where this user's are noted.
        (tmp_path / "state").symlink_to(folder / "state")
        asks = ("snapshot", "door", "-d", "user/data", "--overwrite")
        wait_until("a picture", lambda: framegate(tmp_path, *asks).code == 0)
        login = {"Authorization": f"Bearer {token}"}
        streamed = anybody.get("/api/v1/results/stream?start=earliest", headers=login).text
        assert run.wait().code == 0
    assert streamed.count('"outcome":"detected"') == 100, "also what came last"
    assert 'event: end\ndata: {"source":"door","frames":100,"fault":null}' in streamed
    assert token not in run.err
