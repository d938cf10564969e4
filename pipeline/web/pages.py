"""Serve the HTML pages: files into which shared files are inserted when they are served.

The shared files are `look.css`, `head.html`, `top.html` and `tools.js`, and for recordings
`player.js`. A page loads no style and no script from an address, so its security policy can name
both by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from framegate.pipeline.web.accounts import CALLER

_HERE: Final = Path(__file__).parent
_SHARED: Final = re.compile(
    r'@import "(look\.css)";|// (tools\.js|player\.js)(?=\n)|<!-- (head\.html|top\.html) -->'
)


def page(path: str, file: str, summary: str) -> Route:
    """Return a route that serves a page. summary: docstring of the route, for the documents."""

    def serve(request: Request) -> Response:
        html = html_of(file)
        caller = request.scope.get(CALLER)
        if caller is not None and caller.name:  # a run with accounts
            html = html.replace("</nav>", f'<a href="login">{escape(caller.name)}</a></nav>', 1)
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": _policy(html)}
        return HTMLResponse(html, headers=headers)

    serve.__doc__ = summary
    return Route(path, serve)


def html_of(file: str) -> str:
    """Return a page as it is served: with the shared files, and its own link marked."""

    def shared(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        return (_HERE / name).read_text("utf-8").strip()

    html = _SHARED.sub(shared, (_HERE / file).read_text("utf-8"))
    link = file.removesuffix(".html")
    if file == "page.html":
        link = "./"
    return html.replace(f'<a href="{link}">', f'<a href="{link}" aria-current="page">')


def _policy(html: str) -> str:
    """Return a policy that allows only the page's own script and style, and its own server."""
    script = _hash_of("script", html)
    style = _hash_of("style", html)
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    )


def _hash_of(tag: str, html: str) -> str:
    content = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
