"""What is answered where there is no picture or map to give: plain text that says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import PlainTextResponse, Response

FRESH: Final = {"Cache-Control": "no-store"}
AGE: Final = "X-Framegate-Age"  # of a picture: seconds since it was published
STATE: Final = "X-Framegate-State"  # of its source, where that has a fault


def says(status: int, text: str, headers: Mapping[str, str] = FRESH) -> Response:
    """A line of text, never kept."""
    return PlainTextResponse(f"{text}\n", status, {**FRESH, **headers})


def unknown(names: list[str], known: Mapping[str, str]) -> Response:
    """There are no such sources; these there are."""
    asked = ", ".join(name[:32] or "without a name" for name in names)
    there = f"there are: {', '.join(sorted(known))}" if known else "the run has none"
    return says(404, f"no source {asked}; {there}")


def not_now(why: str) -> Response:
    """It may be there in a second."""
    return says(503, why, {"Retry-After": "1"})
