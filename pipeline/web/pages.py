"""The pages for a browser: a file each, with what they share (`look.css`, `head.html` and
`top.html`) put in where it is named, as they are served.

A page is whole in itself: it loads no style and no script from anywhere, so that its policy can
name both by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_HERE: Final = Path(__file__).parent
_SHARED: Final = re.compile(r'@import "(look\.css)";|<!-- (head\.html|top\.html) -->')


def page(path: str, file: str, summary: str) -> Route:
    """A route that serves the page of a file beside this one. summary: what one does there."""

    def serve(request: Request) -> Response:  # noqa: ARG001
        html = html_of(file)
        policy = {"Content-Security-Policy": _only_itself(html)}
        return HTMLResponse(html, headers={"Cache-Control": "no-store", **policy})

    serve.__doc__ = summary
    return Route(path, serve)


def html_of(file: str) -> str:
    """A page as it is served."""
    html = _SHARED.sub(
        lambda named: (_HERE / (named[1] or named[2])).read_text("utf-8").strip(),
        (_HERE / file).read_text("utf-8"),
    )
    here = "./" if file == "page.html" else file.removesuffix(".html")
    return html.replace(f'<a href="{here}">', f'<a href="{here}" aria-current="page">')


def _only_itself(html: str) -> str:
    """What the page may do: run its own script and style, and ask only where it came from."""
    script, style = (_hash_of(tag, html) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    )


def _hash_of(tag: str, html: str) -> str:
    inside = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
