"""What the gate saw, over HTTP: drawn into snapshots; its sensitivity in numbers and drawn."""

from __future__ import annotations

import json

import numpy as np

from framegate.pipeline.contracts.results import GateView
from tests.support.studio import FORM, SLOTS, Studio, decoded
from tests.support.web_server import get

COLUMNS, ROWS = 20, 12  # of 16 pixels; the last row reaches over the border
LEVELS = [40 + 5 * (place % COLUMNS) for place in range(COLUMNS * ROWS)]


def gate(levels: bytes = bytes(LEVELS)) -> GateView:
    hot = np.zeros((ROWS, COLUMNS), np.bool_)
    hot[2, 15] = True
    return GateView(COLUMNS, ROWS, 16, np.packbits(hot).tobytes(), ((192, 0, 320, 96),), levels)


def test_a_snapshot_shows_what_changed(studio: Studio, port: int) -> None:
    studio.decode(0)
    studio.publish(0, looked="part", reason="changed", gate=gate())
    drawn, plain = (decoded(get(port, "/snapshot/door.jpg" + q).content) for q in ("", "?plain=1"))
    blue, _, red = drawn[36:44, 244:252].reshape(-1, 3).mean(0)
    assert red > blue + 30  # amber
    assert plain.std() < 2


def test_sensitivity_is_told_in_grey_levels_and_drawn(studio: Studio, port: int) -> None:
    studio.decode(0)
    studio.publish(0, gate=gate())
    studio.show(1)
    studio.publish(2, gate=gate(b""))  # one that tells none
    told = json.loads(get(port, "/sensitivity/door.json").content)
    assert (told["epoch"], told["seq"], told["tile"]) == (1, 0, 16)
    assert (told["width"], told["height"]) == (FORM.width, FORM.height)
    assert np.array(told["levels"]).tolist() == [[4 + c / 2 for c in range(COLUMNS)]] * ROWS
    answer = get(port, "/sensitivity/door.png")
    assert answer.headers["content-type"] == "image/png"
    drawn = decoded(answer.content)
    assert drawn.shape == (FORM.height, FORM.width, 3)
    luma = drawn[40, 8::32] @ (0.114, 0.587, 0.299)
    assert np.diff(luma).min() > 0  # brighter where less is seen
    for seq in range(3, 3 + SLOTS):
        studio.decode(seq)  # over its pixels
    assert decoded(get(port, "/sensitivity/door.png").content).shape == drawn.shape


def test_where_no_result_tells_it_the_answer_says_what_to_do(studio: Studio, port: int) -> None:
    studio.show(0)
    for kind in ("json", "png"):
        none, strange = (get(port, f"/sensitivity/{name}.{kind}") for name in ("door", "window"))
        assert (none.status, "run with --draw gate" in none.text) == (503, True)
        assert (strange.status, "there are: door, yard" in strange.text) == (404, True)
