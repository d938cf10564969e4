"""Each route of the port, asked by each role, and by accounts that may not see a source."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.access import RECHECK_S, guarded
from framegate.pipeline.web.accounts.accounts import ROLES, AccountFile, digest_of
from framegate.pipeline.web.connections import RequestLimit
from framegate.pipeline.web.limits import LIMITS, Streamed
from framegate.pipeline.web.route_table import ROUTES, RouteWithoutRow, keys_of, with_doors
from tests.support.runs import DEADLINE_S
from tests.support.web_server import serving_app
from tests.support.whole_port import fill, whole_port

SEEN, HIDDEN, MISSING = "door", "attic", "ghost"
EPISODE = "SOURCE/visitor/1-10/0"
VISIT = "SOURCE/1-10/10"

Asked = tuple[str, Any]
"""Path with query, and the JSON body; SOURCE is replaced by the name of a source."""

REQUESTS: dict[str, Asked] = {
    "GET /healthz": ("/healthz", None),
    "GET /readyz": ("/readyz", None),
    "GET /metrics": ("/metrics", None),
    "GET /": ("/", None),
    "GET /review": ("/review", None),
    "GET /recordings": ("/recordings", None),
    "GET /unseen": ("/unseen", None),
    "GET /rules": ("/rules", None),
    "GET /visits": ("/visits", None),
    "GET /disagreements": ("/disagreements", None),
    "GET /login": ("/login", None),
    "POST /api/v1/login": ("/api/v1/login", {"name": "door", "password": "of no account"}),
    "POST /api/v1/logout": ("/api/v1/logout", {}),
    "GET /api/v1/account": ("/api/v1/account", None),
    "GET /api/v1/openapi.json": ("/api/v1/openapi.json", None),
    "GET /snapshot/{source}.jpg": ("/snapshot/SOURCE.jpg", None),
    "GET /stream/{source}.mjpg": ("/stream/SOURCE.mjpg", None),
    "GET /live": ("/live?sources=SOURCE", None),
    "GET /sensitivity/{source}.json": ("/sensitivity/SOURCE.json", None),
    "GET /sensitivity/{source}.png": ("/sensitivity/SOURCE.png", None),
    "GET /api/v1/sources": ("/api/v1/sources", None),
    "GET /api/v1/results": ("/api/v1/results?source=SOURCE", None),
    "GET /api/v1/results/stream": ("/api/v1/results/stream?start=earliest&source=SOURCE", None),
    "GET /api/v1/fleet/recordings": ("/api/v1/fleet/recordings", None),
    "GET /api/v1/fleet/targets": ("/api/v1/fleet/targets", None),
    "GET /api/v1/episodes": ("/api/v1/episodes?source=SOURCE", None),
    "GET /api/v1/episodes/live": ("/api/v1/episodes/live?start=earliest&source=SOURCE", None),
    "GET /api/v1/episodes/{id}": (f"/api/v1/episodes/{EPISODE}", None),
    "POST /api/v1/episodes/{id}/verdict": (
        f"/api/v1/episodes/{EPISODE}/verdict",
        {"verdict": None},
    ),
    "GET /api/v1/episodes/{id}/object": (f"/api/v1/episodes/{EPISODE}/object", None),
    "POST /api/v1/episodes/{id}/object/hidden": (
        f"/api/v1/episodes/{EPISODE}/object/hidden",
        {"hidden": False},
    ),
    "GET /api/v1/disagreements": ("/api/v1/disagreements?source=SOURCE", None),
    "GET /api/v1/counts": ("/api/v1/counts?from=1789990000&source=SOURCE", None),
    "GET /api/v1/seen": ("/api/v1/seen?from=1789990000", None),
    "GET /api/v1/unseen": ("/api/v1/unseen?from=1789990000&source=SOURCE", None),
    "GET /api/v1/verdicts": ("/api/v1/verdicts?from=1789990000", None),
    "GET /api/v1/verdicts/filter": ("/api/v1/verdicts/filter?rule=visitor&source=SOURCE", None),
    "POST /api/v1/verdicts/filter/on": (
        "/api/v1/verdicts/filter/on",
        {"source": "SOURCE", "rule": "visitor", "digest": None},
    ),
    "GET /api/v1/visits": ("/api/v1/visits?words=at SOURCE", None),
    "GET /api/v1/visits/marks": ("/api/v1/visits/marks", None),
    "POST /api/v1/visits/mark": (
        "/api/v1/visits/mark",
        {"name": "van", "visit": VISIT, "alike": True},
    ),
    "GET /api/v1/visits/rule": ("/api/v1/visits/rule?marks=van", None),
    "GET /api/v1/visits/rule/file": ("/api/v1/visits/rule/file?marks=van", None),
    "POST /api/v1/visits/rule/on": (
        "/api/v1/visits/rule/on",
        {"marks": "van", "like": None, "digest": ""},
    ),
    "GET /api/v1/changes": ("/api/v1/changes?source=SOURCE", None),
    "GET /api/v1/changes/{source}/activity": ("/api/v1/changes/SOURCE/activity", None),
    "POST /api/v1/rules/trial": (
        "/api/v1/rules/trial",
        {"events": {"rules": {"any": {"when": "inside"}}}, "source": "SOURCE"},
    ),
    "GET /api/v1/config": ("/api/v1/config", None),
    "POST /api/v1/config/change": ("/api/v1/config/change", {"digest": "", "changes": []}),
    "POST /api/v1/config/undo": ("/api/v1/config/undo", {"digest": ""}),
    "POST /api/v1/config/reload": ("/api/v1/config/reload", {}),
    "POST /api/v1/config/profile": ("/api/v1/config/profile", {"profile": ""}),
    "POST /api/v1/config/snooze": ("/api/v1/config/snooze", {"for_s": 0}),
    "GET /api/v1/filters": ("/api/v1/filters", None),
    "POST /api/v1/filters/{name}": ("/api/v1/filters/none", {"filter": None}),
    "GET /api/v1/recordings": ("/api/v1/recordings", None),
    "GET /api/v1/recordings/{source}": ("/api/v1/recordings/SOURCE", None),
    "GET /api/v1/recordings/{source}/playlist.m3u8": (
        "/api/v1/recordings/SOURCE/playlist.m3u8",
        None,
    ),
    "GET /api/v1/recordings/{source}/clip.mp4": (
        "/api/v1/recordings/SOURCE/clip.mp4?from=1&to=2",
        None,
    ),
    "GET /api/v1/recordings/{source}/picture.jpg": (
        "/api/v1/recordings/SOURCE/picture.jpg?at=1",
        None,
    ),
    "GET /api/v1/recordings/{source}/thumbnail.jpg": (
        "/api/v1/recordings/SOURCE/thumbnail.jpg?at=1",
        None,
    ),
    "GET /api/v1/recordings/{source}/init/{digest}.mp4": (
        "/api/v1/recordings/SOURCE/init/0a.mp4",
        None,
    ),
    "GET /api/v1/recordings/{source}/{epoch}/{day}/{name}.m4s": (
        "/api/v1/recordings/SOURCE/1/2026-11-27/a.m4s",
        None,
    ),
}
STREAMS = ("/live", "/stream/{source}.mjpg", "/api/v1/results/stream", "/api/v1/episodes/live")
LIMITED = [key for key, access in ROUTES.items() if access.filter != "open"]


def token_of(account: str) -> str:
    return f"the-token-of-{account}"


@pytest.fixture(scope="module")
def app(store: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starlette]:
    folder = tmp_path_factory.mktemp("data")
    fill(store, folder)
    with whole_port(store, folder) as made:
        yield made


@pytest.fixture(scope="module")
def base(app: Starlette, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port, with an account for each role, and one for each that sees only some sources."""
    file = tmp_path_factory.mktemp("accounts") / "accounts.toml"
    lines = []
    for role in ROLES:
        for name, sources in ((role, ""), (f"some_{role}", f'sources = ["{SEEN}", "{MISSING}"]')):
            token = digest_of(token_of(name).encode())
            lines += [f"[{name}]", f'role = "{role}"', f'token = "{token}"', sources]
    file.write_text("\n".join(lines), encoding="utf-8")
    listening = listening_at("127.0.0.1", 0)
    door = guarded(app, listening, "", (), AccountFile(file))
    with serving_app(door, listening) as port:
        yield f"http://127.0.0.1:{port}"


def ask(base: str, key: str, source: str, account: str | None) -> tuple[int, str]:
    """Return the status and the body; of a stream its first part, or "" if it has none."""
    assert key in REQUESTS, f'add a request for "{key}" to REQUESTS'
    path, body = REQUESTS[key]
    if body is not None:
        body = {name: _filled(value, source) for name, value in body.items()}
    headers = {}
    if account is not None:
        headers["Authorization"] = f"Bearer {token_of(account)}"
    method = key.partition(" ")[0]
    with (
        httpx.Client(base_url=base, timeout=DEADLINE_S, headers=headers) as client,
        client.stream(method, _filled(path, source), json=body) as answer,
    ):
        if key.endswith(STREAMS) and answer.status_code == 200:
            return 200, _first(answer)
        answer.read()
        return answer.status_code, answer.text


def _filled(value: Any, source: str) -> Any:
    return value.replace("SOURCE", source) if isinstance(value, str) else value


def _first(answer: httpx.Response) -> str:
    """The parts of an endless answer until the first event; "" of pictures, as there are none."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = ""
        for part in answer.iter_text():
            text += part
            if "data:" in text:
                return text
    return ""


def test_each_route_has_a_row_and_each_row_a_route(app: Starlette) -> None:
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert {key for route in routes for key in keys_of(route)} == set(ROUTES)
    assert len(routes) == len(app.routes), "only a Route has a door"


def test_a_path_or_method_that_nothing_serves_is_answered_in_json(base: str) -> None:
    login = {"Authorization": f"Bearer {token_of(ROLES[-1])}"}
    unknown = httpx.get(f"{base}/api/v1/sauces", headers=login)
    assert unknown.status_code == 404
    assert "there is no /api/v1/sauces; /api/v1/openapi.json" in unknown.json()["error"]
    refused = httpx.delete(f"{base}/api/v1/results", headers=login)
    assert refused.status_code == 405
    assert "GET" in refused.headers["Allow"]
    assert "/api/v1/results takes GET" in refused.json()["error"]
    page = httpx.get(f"{base}/nothing", headers=login)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/plain; charset=utf-8")


def test_a_route_without_a_row_is_refused_with_what_to_add() -> None:
    new = Route("/api/v1/new/{source:path}", PlainTextResponse("new"), methods=["POST"])
    with pytest.raises(RouteWithoutRow, match=r"add to ROUTES .* \"POST /api/v1/new/\{source\}\""):
        with_doors([new])


@pytest.mark.parametrize("key", ROUTES)
def test_a_route_needs_the_role_of_its_row(base: str, key: str) -> None:
    access = ROUTES[key]
    status, _ = ask(base, key, SEEN, None)
    assert (status == 401) == (access.filter != "open")
    for role in ROLES:
        status, text = ask(base, key, SEEN, role)
        may = ROLES.index(role) >= ROLES.index(access.role)
        assert (status in (401, 403)) == (not may), (role, status, text)
        if not may:
            assert f"has the role {role}; this needs {access.role}" in text


@pytest.mark.parametrize("key", LIMITED)
def test_a_route_shows_nothing_of_a_hidden_source(base: str, key: str) -> None:
    """Asked for the hidden source, for a missing one, for all, and for the visible one."""
    account = f"some_{ROLES[-1]}"
    if ROUTES[key].filter == "whole":
        status, text = ask(base, key, SEEN, account)
        assert status == 403
        assert "it is about all sources" in text
        return
    names_source = "SOURCE" in str(REQUESTS[key])
    if names_source:
        hidden = ask(base, key, HIDDEN, account)
        missing = ask(base, key, MISSING, account)
        assert hidden[0] in (400, 404), hidden
        assert HIDDEN not in missing[1]
        assert HIDDEN not in hidden[1].replace(f"source '{HIDDEN}'", "").replace(
            f"source {HIDDEN};", ""
        ).replace(f"at {HIDDEN}:", "")
    seen = ask(base, key, SEEN, account)
    assert HIDDEN not in seen[1]
    all_sources = ask(base, key, SEEN, "admin")
    assert seen[0] == all_sources[0]


NEEDS_ONE = ("GET /api/v1/changes", "GET /api/v1/verdicts/filter")  # one source, by name
ASKED_ABOUT = [key for key in LIMITED if "?" in REQUESTS[key][0] and key not in NEEDS_ONE]


@pytest.mark.parametrize("key", ASKED_ABOUT)
def test_without_a_source_only_visible_ones_are_shown(
    base: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = REQUESTS[key]
    for named in ("?sources=SOURCE", "&source=SOURCE", "?source=SOURCE", "?words=at SOURCE"):
        path = path.replace(named, "?" if named[0] == "?" else "")
    monkeypatch.setitem(REQUESTS, key, (path, body))
    status, text = ask(base, key, SEEN, f"some_{ROLES[-1]}")
    assert HIDDEN not in text
    if ROUTES[key].filter in ("query", "endpoint") and "/live" not in key:
        assert status == 200, text
        assert SEEN in text
    whole = ask(base, key, SEEN, "admin")
    if key in ("GET /api/v1/results", "GET /api/v1/episodes", "GET /api/v1/counts"):
        assert HIDDEN in whole[1]


def test_a_stream_of_all_sources_stays_within_the_visible_ones(base: str) -> None:
    headers = {"Authorization": f"Bearer {token_of('some_viewer')}"}
    with (
        httpx.Client(base_url=base, timeout=DEADLINE_S, headers=headers) as client,
        client.stream("GET", "/api/v1/results/stream?start=earliest") as answer,
    ):
        text = ""
        for part in answer.iter_text():
            text += part
            if text.count("data:") == 9:
                break
    assert f'"source":"{SEEN}"' in text
    assert HIDDEN not in text


@pytest.mark.parametrize(
    ("what", "content", "needs"),
    [
        ("change", {"changes": [{"path": "sinks.hook", "value": None}]}, "a change of sinks"),
        ("change", {"changes": [{"path": "privacy.masks.a", "value": []}]}, "a change of privacy"),
        ("undo", {"version": "00"}, "a change of whole file"),
        ("change", {"changes": [{"path": "events.view", "value": "new"}]}, ""),
    ],
)
def test_sinks_and_privacy_need_an_administrator(
    base: str, what: str, content: dict[str, Any], needs: str
) -> None:
    for account, is_refused in (("operator", bool(needs)), ("admin", False)):
        answer = httpx.post(
            f"{base}/api/v1/config/{what}",
            json={"digest": "", **content},
            headers={"Authorization": f"Bearer {token_of(account)}"},
            timeout=DEADLINE_S,
        )
        assert (answer.status_code == 403) == is_refused, answer.text
        if is_refused:
            assert f"{needs} needs the role admin" in answer.json()["error"]
        else:
            assert answer.status_code == 409, "only the digest is wrong"


ENDLESS = (
    "/live?sources=SOURCE",
    "/api/v1/results/stream?start=earliest&source=SOURCE",
    "/api/v1/episodes/live?start=earliest&source=SOURCE",
    "/endless",
)
TABLE = '[{name}]\nrole = "{role}"\nsources = {sources}\ntoken = "{token}"\n'
CHANGES = {
    "removed": "",
    "role": TABLE.format(name="it", role="viewer", sources=[SEEN], token=digest_of(b"it")),
    "narrowed": TABLE.format(name="it", role="operator", sources=[HIDDEN], token=digest_of(b"it")),
    "token": TABLE.format(name="it", role="operator", sources=[SEEN], token=digest_of(b"new")),
}


STAMP_BYTES = 16


async def _endless(request: Request) -> Streamed:  # noqa: ARG001
    """Send the time of each part, monotonic seconds in STAMP_BYTES."""

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"%*.3f" % (STAMP_BYTES, time.monotonic())
            await asyncio.sleep(0.01)

    return Streamed(parts(), "text/plain", contextlib.ExitStack())


@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_ends_when_its_account_changes(
    app: Starlette, tmp_path: Path, change: str
) -> None:
    """The stream of another account continues through two further checks."""
    file = tmp_path / "accounts.toml"
    tables = [
        TABLE.format(name=name, role="operator", sources=[SEEN], token=digest_of(name.encode()))
        for name in ("it", "other")
    ]
    file.write_text("".join(tables), encoding="utf-8")
    listening = listening_at("127.0.0.1", 0)
    whole = Starlette(routes=[Route("/endless", _endless), Mount("/", app)])
    limited = RequestLimit(whole, LIMITS.requests)  # else a connection ends after 10 s
    door = guarded(limited, listening, "", (), AccountFile(file))
    with (
        serving_app(door, listening) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
        contextlib.ExitStack() as held,
    ):
        streams = []
        for path in (*ENDLESS, "/endless"):
            name = "it" if len(streams) < len(ENDLESS) else "other"
            headers = {"Authorization": f"Bearer {name}"}
            asked = client.stream("GET", _filled(path, SEEN), headers=headers)
            streams.append(held.enter_context(asked))
            assert streams[-1].status_code == 200
        new = file.with_suffix(".new")
        new.write_text(CHANGES[change] + tables[1], encoding="utf-8")
        new.replace(file)
        *ended, other = streams
        for stream in ended:
            for _ in stream.iter_raw():  # until it ends
                pass
        last_check = time.monotonic() + 2 * RECHECK_S
        sent = map(float, other.iter_raw(STAMP_BYTES))
        assert any(stamp > last_check for stamp in sent), "it ended, too"
