"""A rule about marked visits is switched on and off over HTTP, in the configuration file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from framegate.pipeline.config.config_file import read_config_file
from framegate.pipeline.contracts.errors import NoReply
from framegate.pipeline.contracts.likeness import NUMBERS, Likeness
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.control.like_rules import like_routes
from tests.support.live_config import AnsweringConfig
from tests.support.runs import DEADLINE_S
from tests.support.web_server import serving

LIKE = Likeness((0.0,) * NUMBERS, 1.0, (5, 0)).text()
OTHER = Likeness((0.0,) * NUMBERS, 2.0, (6, 0)).text()
RULES = '[events.rules.dark]\nwhen = "state"\nstate = "lost"\n'


class Asker:
    """The routes of a run with this file, and its client."""

    def __init__(self, port: int, file: Path) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S)
        self.file = file

    def see(self, marks: str = "van") -> dict[str, Any]:
        """Return the rule in the file."""
        answer = self.client.get("/visits/rule/file", params={"marks": marks})
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        whole = self.client.get("/openapi.json").json()
        described = whole["paths"]["/api/v1/visits/rule/file"]["get"]["responses"]["200"]
        schema = described["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, **whole}).validate(said)
        return said

    def switch(
        self, like: str | None, digest: str, marks: str = "van", **headers: str
    ) -> httpx.Response:
        """Ask to switch the rule."""
        content = {"marks": marks, "like": like, "digest": digest}
        return self.client.post("/visits/rule/on", json=content, headers=headers)


@pytest.fixture
def asker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Asker]:
    file = tmp_path / "pipeline.toml"
    file.write_text(request.param, encoding="utf-8")
    routes = [
        *api_routes("redis://unused", lambda: ["door"]),
        *like_routes(str(file), AnsweringConfig(file).ask),
    ]
    with serving(routes) as port:
        asking = Asker(port, file)
        yield asking
        asking.client.close()


@pytest.mark.parametrize("asker", [RULES], indirect=True)
def test_the_run_takes_up_a_rule_at_once_and_drops_it(asker: Asker) -> None:
    off = asker.see()
    assert (off["like"], off["is_running"], off["fault"]) == ("", True, None)
    on = asker.switch(LIKE, off["digest"]).json()
    assert on == asker.see()
    assert (on["like"], on["is_running"], on["waits"]) == (LIKE, True, "")
    assert f'like = "{LIKE}"' in asker.file.read_text(encoding="utf-8")
    late = asker.switch(OTHER, off["digest"])
    assert late.status_code == 409
    assert "it was changed meanwhile" in late.json()["error"]
    replaced = asker.switch(OTHER, on["digest"]).json()
    assert (replaced["like"], replaced["is_running"]) == (OTHER, True)
    assert asker.switch(None, replaced["digest"]).json() == off
    assert asker.file.read_text(encoding="utf-8") == RULES


ALERT = f"""\
{RULES}
[events.rules.van]  # the bakery's
when = "like"
severity = "alert"  # Eva is called
like = "{LIKE}"
clip.after_s = 9.0
"""


@pytest.mark.parametrize("asker", [ALERT], indirect=True)
def test_a_rule_keeps_what_was_added_by_hand(asker: Asker) -> None:
    digest = asker.see()["digest"]
    on = asker.switch(OTHER, digest).json()
    assert (on["like"], on["is_running"]) == (OTHER, True)
    assert asker.file.read_text(encoding="utf-8") == ALERT.replace(LIKE, OTHER)
    refused = asker.switch(None, on["digest"])
    assert refused.status_code == 400
    assert "rule van: it also has severity, clip, which" in refused.json()["error"]
    assert asker.see() == on


def test_a_run_that_does_not_answer_does_not_hide_that_the_file_was_changed(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(RULES, encoding="utf-8")

    def ask(_: ConfigRequest) -> EditableConfig:
        raise NoReply("no reply from the supervisor in 5 s")

    with serving(like_routes(str(file), ask)) as port:
        url = f"http://127.0.0.1:{port}/api/v1/visits/rule/on"
        for like in (LIKE, None):
            content = {"marks": "van", "like": like, "digest": read_config_file(file).digest}
            answer = httpx.post(url, json=content, timeout=DEADLINE_S)
            assert answer.status_code == 200, answer.text
            assert (answer.json()["like"], answer.json()["is_running"]) == (like or "", None)
            assert "no reply from the supervisor" in answer.json()["waits"]
    assert file.read_text(encoding="utf-8") == RULES


@pytest.mark.parametrize("asker", ["# no rules\n"], indirect=True)
def test_a_run_without_rules_takes_it_up_at_once(asker: Asker) -> None:
    on = asker.switch(LIKE, asker.see()["digest"]).json()
    assert (on["like"], on["is_running"]) == (LIKE, True)
    off = asker.switch(None, on["digest"]).json()
    assert (off["like"], off["is_running"]) == ("", True)
    assert asker.file.read_text(encoding="utf-8") == "# no rules\n"


@pytest.mark.parametrize("asker", [RULES], indirect=True)
def test_what_is_no_such_rule_is_refused(asker: Asker) -> None:
    digest = asker.see()["digest"]
    assert asker.switch(LIKE, digest, origin="http://elsewhere").status_code == 403
    for marks, like, fault in (
        ("van", "like2:x", "cannot be read"),
        ("a b", LIKE, "cannot name a rule"),
        ("dark", LIKE, "has a rule dark"),
        ("dark", None, "has a rule dark"),
    ):
        refused = asker.switch(like, digest, marks)
        assert refused.status_code == 400
        assert fault in refused.json()["error"]
    assert "another rule of the name dark" in asker.see("dark")["fault"]
    asker.file.write_text("[gate\n", encoding="utf-8")
    assert "not TOML" in asker.see()["fault"]
    assert asker.switch(LIKE, digest).status_code == 400
    assert asker.file.read_text(encoding="utf-8") == "[gate\n"


def test_a_run_without_a_file_gives_the_reason() -> None:
    def ask(_: ConfigRequest) -> EditableConfig:
        raise NoReply("there is no supervisor")

    with serving(like_routes("", ask)) as port:
        url = f"http://127.0.0.1:{port}/api/v1/visits/rule/file?marks=van"
        assert "start the run with -c FILE" in httpx.get(url, timeout=DEADLINE_S).json()["fault"]
