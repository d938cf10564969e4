"""Snapshots and the page over HTTP: what is had, and what is said where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.stages.draw.pictures import Pictures
from tests.support.studio import FORM, Studio, decoded
from tests.support.web_server import get, serving


def test_a_snapshot_is_the_frame_with_its_boxes_or_plain(studio: Studio, port: int) -> None:
    studio.show(7)
    drawn, plain = (get(port, "/snapshot/door.jpg" + query) for query in ("", "?plain=1"))
    assert drawn.headers["content-type"] == "image/jpeg"
    assert drawn.headers["cache-control"] == "no-store"
    assert drawn.headers["x-framegate-position"] == "1-7"
    assert decoded(drawn.content).shape == (FORM.height, FORM.width, 3)
    assert decoded(plain.content).std() < 2 < decoded(drawn.content).std()
    assert decoded(get(port, "/snapshot/door.jpg?width=64").content).shape[1] == 64


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/snapshot/window.jpg", 404, "no source window; there are: door, yard"),
        ("/snapshot/dor.jpg", 404, "no source dor; there are: door, yard; did you mean door?"),
        ("/stream/window.mjpg", 404, "no source window; there are: door, yard"),
        ("/live?sources=a,b", 404, "no source a, b; there are: door, yard"),
        ("/live", 404, "no source without a name"),
        ("/snapshot/yard.jpg", 503, "source yard: no frame yet; connecting: connection refused"),
        ("/snapshot/door.jpg", 503, "source door: no frame yet"),
        ("/snapshot/door.jpg?width=9", 400, "width: '9'; allowed: 16 to 16384"),
        ("/snapshot/door.jpg?width=-20", 400, "width: '-20'"),
        ("/snapshot/door.jpg?width=99999999999999999999", 400, "width"),
        ("/snapshot/door.jpg?width=%C2%B2", 400, "width"),
    ],
)
def test_what_cannot_be_shown_is_said(port: int, path: str, status: int, words: str) -> None:
    answer = get(port, path)
    assert (answer.status, words in answer.text) == (status, True), answer.text


def test_pixels_that_are_gone_and_a_store_that_is_away_are_said(
    studio: Studio, port: int, tmp_path: Path
) -> None:
    studio.publish(0)
    gone = get(port, "/snapshot/door.jpg")
    assert (gone.status, "source door: the pixels" in gone.text) == (503, True)
    nowhere = f"unix://{tmp_path}/none.sock"
    routes = Pictures(studio.frame_store, nowhere, lambda: {"door": ""}).routes()
    with serving(routes) as other:
        away = get(other, "/snapshot/door.jpg")
    assert (away.status, "cannot be reached" in away.text) == (503, True)


def test_the_page_is_small_and_may_only_ask_where_it_came_from(port: int) -> None:
    page = get(port, "/")
    assert page.headers["content-type"].startswith("text/html")
    assert len(page.content) < 36 * 1024  # with the script that all pages share
    assert "innerHTML" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'self'" in policy
