"""Serve the HTML pages: files into which shared files are inserted when they are served.

The shared files are in this folder, and `player.js` beside the page of recordings. A page loads no
style and no script from an address, so its security policy can name both by their digests.
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

from framegate.pipeline.web.accounts.accounts import CALLER, Caller

_HERE: Final = Path(__file__).parent
_WEB: Final = _HERE.parent
_SHARED: Final = re.compile(
    r'@import "(look\.css)";|// (tools\.js|player\.js)(?=\n)|<!-- (head\.html|top\.html) -->'
)


def page(path: str, file: str, summary: str) -> Route:
    """Return a route that serves a page.

    file     the page, relative to `pipeline/web`
    summary  docstring of the route, for the documents
    """

    def serve(request: Request) -> Response:
        html = html_of(file)
        caller = request.scope.get(CALLER)
        if caller is not None:
            html = _for_caller(html, caller)
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": _policy(html)}
        return HTMLResponse(html, headers=headers)

    serve.__doc__ = summary
    return Route(path, serve)


def _for_caller(html: str, caller: Caller) -> str:
    """Return a page with the role of its reader, so that it does not request what is refused."""
    sees = "all"
    if caller.sources is not None:
        sees = "some"
    own = f'<html lang="en" data-role="{caller.role}" data-sees="{sees}">'
    html = html.replace('<html lang="en">', own, 1)
    if caller.name:  # a run with accounts
        html = html.replace("</nav>", f'<a href="login">{escape(caller.name)}</a></nav>', 1)
    return html


def html_of(file: str) -> str:
    """Return a page as it is served: with the shared files, and its own link marked."""

    def shared(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        own = source.with_name(name)
        return (own if own.exists() else _HERE / name).read_text("utf-8").strip()

    source = _WEB / file
    html = _SHARED.sub(shared, source.read_text("utf-8"))
    link = source.stem
    if file == "pictures/page.html":
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
