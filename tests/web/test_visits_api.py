"""Visits are searched and marked over HTTP, and a region tells its changes."""

from __future__ import annotations

from pathlib import Path

import httpx
from jsonschema import Draft202012Validator

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import VisitEntry
from framegate.pipeline.recording.changed_parts import PART_BYTES
from framegate.pipeline.recording.changed_parts_writer import ChangedPartsWriter
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.review.visits import visit_routes
from tests.support.runs import DEADLINE_S
from tests.support.said import visit
from tests.support.web_server import serving


def test_changes_of_a_region(tmp_path: Path) -> None:
    writer = ChangedPartsWriter(tmp_path, 1 << 30)
    upper_left = bytes([0x80, *bytes(PART_BYTES - 1)])
    for seq in range(30):
        parts = upper_left if seq in (3, 4) else None
        writer.keep("door", Position(2, seq), 1_000_000_000 + seq, (640, 360), parts)
    writer.close()
    routes = [*api_routes("redis://unused", lambda: ["door"]), *visit_routes(tmp_path)]
    with (
        serving(routes) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S) as client,
    ):
        answer = client.get("/changes", params={"source": "door", "region": "0,0,0.1,0.1"})
        assert answer.json()["periods"] == [
            {"since": 1_000_000_003.0, "until": 1_000_000_004.0, "frames": 2, "first": "2-3"}
        ]
        whole = client.get("/openapi.json").json()
        said = whole["paths"]["/api/v1/changes"]["get"]["responses"]["200"]
        schema = said["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, **whole}).validate(answer.json())
        elsewhere = client.get("/changes", params={"source": "door", "region": "0.5,0.5,1,1"})
        assert elsewhere.json()["periods"] == []
        later = client.get(
            "/changes", params={"source": "door", "from": "1000000004", "apart": "1s"}
        )
        assert [period["frames"] for period in later.json()["periods"]] == [1]
        for unknown in ("yard", "../changes/door", "d" * 5000):
            assert client.get("/changes", params={"source": unknown}).status_code == 404
        for wrong in ({"region": "0,0"}, {"apart": "x"}, {"from": "soon"}):
            refused = client.get("/changes", params={"source": "door", **wrong})
            assert refused.status_code == 400, wrong
            assert "must be" in refused.json()["error"]


def test_visits_are_searched_and_marked(tmp_path: Path) -> None:
    projection = Projection(tmp_path / FILE)
    visits = tuple(visit(n, n + 10, n) for n in range(1, 9))
    at = Position(1, 50)
    projection.take([VisitEntry("door", at, START, visits)])
    projection.close()
    routes = [*api_routes("redis://unused", lambda: ["door"]), *visit_routes(tmp_path)]
    with (
        serving(routes) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S) as client,
    ):
        found = client.get("/visits", params={"words": "person, right", "limit": 3}).json()
        assert (len(found["found"]), found["matching"], found["searched"]) == (3, 8, 8)
        assert "feature" not in found["found"][0]["visit"]
        whole = client.get("/openapi.json").json()
        said = whole["paths"]["/api/v1/visits"]["get"]["responses"]["200"]
        schema = said["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, **whole}).validate(found)
        unknown = client.get("/visits", params={"words": "lef"})
        assert unknown.status_code == 404
        assert "did you mean left?" in unknown.json()["error"]
        few = client.get("/visits", params={"marks": "van", "trained": 1})
        assert "a likeness needs 5; mark 5 more" in few.json()["error"]
        for each in visits[:5]:
            said = {"name": "van", "visit": each.id, "alike": True}
            assert client.post("/visits/mark", json=said).status_code == 200
        assert client.get("/visits/marks").json() == [{"name": "van", "alike": 5, "others": 0}]
        tried = client.get("/visits/rule", params={"marks": "van"}).json()
        assert tried["toml"].splitlines()[0] == "[events.rules.van]"
        assert (tried["searched"], tried["alike"], tried["alike_reported"]) == (8, 5, 5)
        shown = [each["visit"]["id"] for each in tried["would_report"] + tried["just_below"]]
        assert sorted(shown) == sorted(each.id for each in visits)
        assert len(tried["would_report"]) == tried["reported"]
        said = whole["paths"]["/api/v1/visits/rule"]["get"]["responses"]["200"]
        schema = said["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, **whole}).validate(tried)
        trained = client.get("/visits", params={"marks": "van", "trained": 1}).json()
        assert [each["mark"] for each in trained["found"]].count(True) == 5
        nowhere = {"name": "van", "visit": "door/1-9/99", "alike": True}
        assert client.post("/visits/mark", json=nowhere).status_code == 404
