"""Apache with mod_auth_openidc before the port, as docs/accounts.md has it, and a provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from starlette.applications import Starlette

from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.access import TrustedProxies, guarded
from framegate.pipeline.web.accounts.accounts import AccountFile
from framegate.pipeline.web.accounts.login import login_routes
from framegate.pipeline.web.connections import RequestLimit
from framegate.pipeline.web.limits import LIMITS
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.route_table import with_doors
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.web_server import serving_app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accounts.md"
MODULES = Path("/usr/lib/apache2/modules")
NEEDED = ("mpm_event", "authn_core", "authz_core", "authz_user", "auth_openidc", "headers", "proxy")
SECRET = "a secret of the provider and Apache"
ACCOUNTS = """\
[shift]
role = "operator"
groups = ["cctv-operators"]

[boss]
role = "admin"
groups = ["heads"]
"""
has_apache = shutil.which("apache2") is not None and (MODULES / "mod_auth_openidc.so").exists()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not has_apache, reason="Debian: apt-get install apache2 libapache2-mod-auth-openidc"
    ),
]


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signed(claims: dict[str, object]) -> str:
    """An ID token (RFC 7519), signed with HMAC-SHA-256."""
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(hmac.digest(SECRET.encode(), text.encode(), hashlib.sha256))}"


class Provider(BaseHTTPRequestHandler):
    """A provider of OpenID Connect that logs everybody in as anna, of the group cctv-operators."""

    nonce = ""

    def do_GET(self) -> None:
        """Describe the provider, or send the browser back with a code."""
        own = f"http://{self.headers['Host']}"
        asked = urlsplit(self.path)
        if asked.path == "/authorize":
            words = {name: values[0] for name, values in parse_qs(asked.query).items()}
            Provider.nonce = words["nonce"]
            back = urlencode({"code": "a-code", "state": words["state"]})
            self.send_response(302)
            self.send_header("Location", f"{words['redirect_uri']}?{back}")
            self.end_headers()
            return
        self._answer(
            {
                "issuer": own,
                "authorization_endpoint": f"{own}/authorize",
                "token_endpoint": f"{own}/token",
                "jwks_uri": f"{own}/keys",
                "response_types_supported": ["code"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    def do_POST(self) -> None:
        """Give a token for the code."""
        self.rfile.read(int(self.headers["Content-Length"]))
        now = int(time.time())
        claims = {
            "iss": f"http://{self.headers['Host']}",
            "sub": "1",
            "aud": "framegate",
            "iat": now,
            "exp": now + 300,
            "nonce": Provider.nonce,
            "preferred_username": "anna",
            "groups": ["staff", "cctv-operators"],
        }
        id_token = _signed(claims)
        self._answer({"access_token": "x", "token_type": "Bearer", "id_token": id_token})

    def _answer(self, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a run that believes the proxies of this host."""
    file = tmp_path / "accounts.toml"
    file.write_text(ACCOUNTS, encoding="utf-8")
    app = Starlette(routes=with_doors([*login_routes(None), page("/", "pictures/page.html", "")]))
    listening = listening_at("127.0.0.1", 0)
    limited = RequestLimit(app, LIMITS.requests)
    proxies = TrustedProxies(("127.0.0.1",))
    door = guarded(limited, listening, "", (), AccountFile(file), None, proxies)
    with serving_app(door, listening) as number:
        yield number


def documented_site(provider: str, apache: str, port: int) -> str:
    """The site of the page, with the addresses of this test."""
    (site,) = re.findall(r"```apache\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for example, own in {
        "https://login.example": provider,
        "https://cameras.example": apache,
        "http://127.0.0.1:8686": f"http://127.0.0.1:{port}",
        '"..."': f'"{SECRET}"',
    }.items():
        assert example in site
        site = site.replace(example, own)
    return str(site)


@contextmanager
def running_apache(folder: Path, listen: int, site: str) -> Iterator[str]:
    """Apache with a site; its address."""
    lines = [f"Listen 127.0.0.1:{listen}", "ServerName 127.0.0.1"]
    lines += [f'{name} "{folder}"' for name in ("ServerRoot", "DefaultRuntimeDir")]
    lines += [f'PidFile "{folder}/apache.pid"', f'ErrorLog "{folder}/error.log"']
    for name in (*NEEDED, "proxy_http"):
        lines.append(f"LoadModule {name}_module {MODULES}/mod_{name}.so")
    if os.geteuid() == 0:
        lines += ["User www-data", "Group www-data"]
    file = folder / "apache.conf"
    file.write_text("\n".join([*lines, site]), encoding="utf-8")
    command = ["apache2", "-f", str(file), "-D", "FOREGROUND"]
    plain = {"PATH": os.environ["PATH"], "LANG": "C"}  # no proxy for requests to the provider
    with subprocess.Popen(command, env=plain) as process:
        try:
            wait_until("Apache listens", lambda: (folder / "apache.pid").exists())
            yield f"http://127.0.0.1:{listen}"
        finally:
            process.terminate()


def test_apache_logs_users_in_and_passes_on_what_they_may(
    tmp_path: Path, provider: str, port: int
) -> None:
    listen = free_port()
    url = f"http://127.0.0.1:{listen}"
    forged = {"X-Forwarded-User": "eve", "X-Forwarded-Groups": "heads"}
    with (
        running_apache(tmp_path, listen, documented_site(provider, url, port)),
        httpx.Client(base_url=url, follow_redirects=True, timeout=DEADLINE_S) as client,
    ):
        stranger = httpx.get(f"{url}/api/v1/account", headers=forged)
        assert stranger.status_code == 302
        assert stranger.headers["location"].startswith(f"{provider}/authorize?")
        live = client.get("/")
        assert live.status_code == 200
        assert str(live.url) == f"{url}/"
        assert "shift</a></nav>" in live.text
        own = client.get("/api/v1/account", headers=forged).json()
        assert own == {"name": "shift", "role": "operator", "sources": None}
        changed = client.post("/api/v1/logout", json={}, headers={"Origin": url})
        assert changed.status_code == 200, "a change of a page that came through Apache"
        foreign = client.post("/api/v1/logout", json={}, headers={"Origin": "http://x.example"})
        assert foreign.status_code == 403
