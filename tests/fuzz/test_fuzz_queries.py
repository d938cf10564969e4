"""Any words in a query of the HTTP port are answered or refused: never 500, nor a path of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.system.loading import load_builtin
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.openapi import document
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.recordings.recordings import recording_routes
from framegate.pipeline.web.review.episodes import episode_routes
from framegate.stages.draw.pictures import recorded_jpeg
from tests.fuzz.budget import fuzz
from tests.support.published import Publisher
from tests.support.recorded import record, segments, write_both
from tests.support.runs import DEADLINE_S
from tests.support.servers import server
from tests.support.web_server import serving

HUGE = 10**20
NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(0, HUGE).map(str),
    st.floats().map(str),
    st.integers(1, 5000).map(lambda count: "9" * count),
    st.integers(1, 5000).map(lambda count: "0" * count + "1"),
    st.text("0123456789.eE+-_:,= \u0661\u00b2", max_size=30),
)
UNITS = st.sampled_from(["", "s", "m", "h", "d", "-1", "-0", ",door/x/1-0/0"])
TIMES = st.datetimes().map(lambda moment: moment.isoformat())
VALUES = st.one_of(
    st.builds(lambda number, unit: number + unit, NUMBERS, UNITS),
    NUMBERS.map(lambda number: f"gate={number}-{number}"),
    TIMES,
    st.text(max_size=20),
)


class Asked:
    """A server with all paths that only read, and what there is to ask."""

    def __init__(self, client: httpx.Client, told: dict[str, list[str]], begin: float) -> None:
        self.client, self.told, self.begin = client, told, begin


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        record(folder / "data", write_both(folder / "gate.mp4", 2.0))
        Projection(folder / "data" / FILE).close()
        with server(folder / "store") as store:
            publisher = Publisher(store)
            publisher.results("gate", 1, range(5))
            publisher.client.close()
            routes = [
                *api_routes(store.url, lambda: ["gate"]),
                *episode_routes(folder / "data", store.url),
                *recording_routes(
                    folder / "data",
                    load_builtin("write_clip"),
                    RecordedPictures(folder / "data", recorded_jpeg),
                ),
            ]
            told = {
                path.replace("{source}", "gate"): [p["name"] for p in methods["get"]["parameters"]]
                for path, methods in document(routes)["paths"].items()
                if "parameters" in methods.get("get", {}) and not path.endswith(("stream", "live"))
            }
            with (
                serving(routes) as port,
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client,
            ):
                yield Asked(client, told, segments(folder / "data")[0].captured)


def test_any_query_is_answered_or_refused(asked: Asked) -> None:
    paths = sorted(asked.told)
    picture = "/api/v1/recordings/gate/picture.jpg"
    clip = "/api/v1/recordings/gate/clip.mp4"

    @fuzz(300)
    @given(
        st.sampled_from(paths).flatmap(
            lambda path: st.tuples(
                st.just(path),
                st.dictionaries(st.sampled_from(asked.told[path]), VALUES, min_size=1, max_size=3),
            )
        )
    )
    @example((picture, {"epoch": str(HUGE), "pts": "1"}))
    @example((picture, {"epoch": "1", "pts": "nan"}))
    @example((picture, {"at": "9" * 400}))
    @example(("/api/v1/results", {"after": f"gate={HUGE}-1"}))
    @example(("/api/v1/results", {"limit": "0000000001" + "0" * 20}))
    @example(("/api/v1/counts", {"bucket": "9" * 400 + "d"}))
    @example(("/api/v1/results", {"from": "0001-01-01"}))
    @example((clip, {"from": str(asked.begin), "to": str(asked.begin + 60), "part": "9" * 5000}))
    def ask(request: tuple[str, dict[str, str]]) -> None:
        path, words = request
        query = "&".join(f"{name}={quote(word, safe='')}" for name, word in words.items())
        answer = asked.client.get(f"{path}?{query}")
        assert answer.status_code in (200, 400, 404), (path, words, answer.status_code, answer.text)
        assert tempfile.gettempdir() not in answer.text

    ask()
