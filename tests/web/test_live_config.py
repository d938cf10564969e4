"""The configuration of a run is shown and changed over HTTP."""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from framegate.pipeline.config.snooze import Snooze
from framegate.pipeline.contracts.errors import RequestRefused
from framegate.pipeline.contracts.live_config import ReloadConfig
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.control.live_config import config_routes
from tests.support.live_config import AnsweringConfig
from tests.support.runs import DEADLINE_S
from tests.support.web_server import serving

FILE = """\
# my cameras
[events.areas.porch]
points = [[0.1, 0.5], [0.6, 0.5], [0.6, 0.9]]  # the steps

[events.rules.visitor]  # rings
when = "inside"
area = "porch"

[events.profiles.home]
rules = []
[events.profiles.away]
rules = ["visitor"]

[sinks.hook]
kind = "webhook"
url = "http://me:s3cr3t@127.0.0.1:9/x"  # the office
"""
SQUARE = {"points": [[0.2, 0.5], [0.6, 0.5], [0.6, 0.9]]}


class Editor:
    """A client of the routes of a run with this file."""

    def __init__(self, port: int, file: Path) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=DEADLINE_S)
        self.file = file

    def see(self) -> dict[str, Any]:
        """Return the configuration, which is as the document of the API describes it."""
        answer = self.client.get("/config")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        whole = self.client.get("/openapi.json").json()
        described = whole["paths"]["/api/v1/config"]["get"]["responses"]["200"]
        schema = described["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, **whole}).validate(shown)
        return shown

    def change(self, digest: str, **changes: Any) -> httpx.Response:
        """Change paths, with __ for the dots."""
        listed = [{"path": k.replace("__", "."), "value": v} for k, v in changes.items()]
        return self.post("change", {"digest": digest, "changes": listed})

    def post(self, what: str, content: dict[str, Any]) -> httpx.Response:
        return self.client.post(f"/config/{what}", json=content)

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    file = tmp_path / "pipeline.toml"
    file.write_text(FILE, encoding="utf-8")
    ask = AnsweringConfig(file).ask
    with serving([*api_routes("redis://unused", lambda: ["door"]), *config_routes(ask)]) as port:
        editor = Editor(port, file)
        yield editor
        editor.client.close()


def test_several_changes_are_one_and_the_second_editor_is_refused(editor: Editor) -> None:
    first = editor.see()
    assert first["tables"]["events"]["rules"]["visitor"] == {"when": "inside", "area": "porch"}
    assert (list(first["versions"]), first["waits"], first["history"]) == (["visitor"], [], [])
    rule = {"when": "inside", "area": "porch", "severity": "alert"}
    answer = editor.change(
        first["digest"], events__areas__porch=SQUARE, events__rules__visitor=rule
    )
    assert answer.status_code == 200, answer.text
    after = answer.json()
    assert after == editor.see()
    assert editor.text == FILE.replace("[[0.1", "[[0.2").replace(
        'area = "porch"\n', 'area = "porch"\nseverity = "alert"\n'
    )
    assert after["versions"]["visitor"] != first["versions"]["visitor"]
    late = editor.change(first["digest"], events__rules__visitor=rule)
    assert late.status_code == 409
    assert "it was changed meanwhile; look at it, and try again" in late.json()["error"]
    assert [each["changes"] for each in after["history"]] == [
        ["events.areas.porch", "events.rules.visitor"]
    ]
    undone = editor.post("undo", {"digest": after["digest"]}).json()
    assert editor.text == FILE
    assert undone["versions"] == first["versions"]
    again = editor.post("undo", {"digest": undone["digest"], "version": after["digest"]})
    assert again.json()["versions"] == after["versions"]


def test_what_is_wrong_is_refused_and_nothing_is_written(editor: Editor) -> None:
    digest = editor.see()["digest"]
    fence = {"when": "crosses", "line": "fence"}
    for changes, fault in (
        ({"events__rules__visitor": fence}, "there is no [events.lines.fence]"),
        ({"events__areas__porch": None}, "there is no [events.areas.porch]"),
        ({"events__areas__b": SQUARE, "events__rules__c": {"when": "x"}}, "events.rules.c.when"),
        ({"events__rules__a": {"when": "inside", "labels": ["persn"]}}, "'persn' is not detected"),
        ({"store__url": "redis://x"}, "path = 'store.url': it cannot change during a run"),
        ({"events__rules__a b": fence}, "A name is"),
        ({"events__profile": "holiday"}, "there is no [events.profiles.holiday]"),
        ({"privacy__masks__door": [[0, 0]]}, "privacy.masks"),
        ({}, "must be 1 to 64, got 0"),
    ):
        refused = editor.change(digest, **changes)
        assert refused.status_code == 400, changes
        assert fault in refused.json()["error"]
    assert editor.post("undo", {"digest": digest}).status_code == 400
    assert editor.post("change", {"digest": digest}).status_code == 400
    assert editor.text == FILE
    assert [each.name for each in editor.file.parent.iterdir()] == ["pipeline.toml"]


def test_secrets_are_hidden_and_stay(editor: Editor) -> None:
    seen = editor.see()
    hook = seen["tables"]["sinks"]["hook"]
    assert "s3cr3t" not in str(seen)
    after = editor.change(seen["digest"], sinks__hook={**hook, "rules": ["visitor"]})
    assert after.status_code == 200, after.text
    assert editor.text == f'{FILE}rules = ["visitor"]\n'
    gone = editor.change(after.json()["digest"], sinks__hook=None).json()
    assert gone["tables"]["sinks"] == {}


@pytest.mark.parametrize("fault", ["", 'ruls = ["visitor"]\n'])
def test_the_receiver_of_a_service_is_hidden_in_an_edit_by_hand(editor: Editor, fault: str) -> None:
    chat = f'[sinks.chat]\nkind = "notify"\nurl = "ntfy://some-topic-{len(fault)}"\n{fault}'
    editor.file.write_text(f"{FILE}{chat}", encoding="utf-8")
    assert editor.see()["tables"]["sinks"]["chat"]["url"] == "ntfy://***"


def test_a_hidden_part_is_not_written_to_another_place(editor: Editor) -> None:
    chat = '[sinks.chat]\nkind = "notify"\nurl = "ntfy://some-topic"\n'
    editor.file.write_text(f"{FILE}{chat}", encoding="utf-8")
    seen = editor.see()
    refused = editor.change(seen["digest"], sinks__copy=seen["tables"]["sinks"]["chat"])
    assert refused.status_code == 400
    assert "sinks.copy: 'ntfy://***' has a hidden part" in refused.json()["error"]
    kept = editor.change(seen["digest"], sinks__chat=seen["tables"]["sinks"]["chat"])
    assert kept.status_code == 200, kept.text
    assert editor.text == f"{FILE}{chat}"


def test_a_file_with_values_in_the_place_of_tables_is_shown(editor: Editor) -> None:
    editor.file.write_text("privacy = 1\ngate = 2\nsinks = 3\nevents = 4\n", encoding="utf-8")
    shown = editor.see()
    assert shown["waits"][0].startswith("the file has faults")
    assert list(shown["versions"]) == ["visitor"]


def test_a_profile_is_switched_without_a_digest_or_an_entry_in_the_history(editor: Editor) -> None:
    away = editor.post("profile", {"profile": "away"}).json()
    assert (away["profile"], away["history"]) == ("away", [])
    assert editor.text == f'{FILE}\n[events]\nprofile = "away"\n'
    assert editor.post("profile", {"profile": ""}).json()["profile"] == ""
    refused = editor.post("profile", {"profile": "awy"})
    assert refused.status_code == 400
    assert "did you mean away?" in refused.json()["error"]


def test_a_snooze_is_written_made_shorter_ended_and_undone(editor: Editor) -> None:
    began = time.time()
    first = editor.see()
    answer = editor.post("snooze", {"rule": "visitor", "for_s": 1800})
    assert answer.status_code == 200, answer.text
    text = answer.json()["tables"]["events"]["rules"]["visitor"]["snoozed"]
    assert editor.text == FILE.replace('area = "porch"\n', f'area = "porch"\nsnoozed = "{text}"\n')
    snoozed = Snooze.read(text)
    assert began < snoozed.since <= time.time() + 3
    assert began + 1800 <= snoozed.until <= time.time() + 1801
    assert answer.json()["versions"] == first["versions"], "its episodes are those of the same rule"
    undone = editor.post("undo", {"digest": answer.json()["digest"]})
    assert editor.text == FILE, undone.text

    # An active snooze keeps its begin, so that a replay finds all of it.
    old = Snooze(math.floor(began) - 600.0, math.floor(began) + 600.0)
    editor.file.write_text(f'{FILE}[events]\nsnoozed = "{old.text}"  # lunch\n', encoding="utf-8")
    editor.post("snooze", {"for_s": 7200})
    longer = tomllib.loads(editor.text)["events"]["snoozed"]
    assert Snooze.read(longer).since == old.since
    assert Snooze.read(longer).until >= began + 7200
    editor.post("snooze", {"for_s": 0})
    ended = Snooze.read(tomllib.loads(editor.text)["events"]["snoozed"])
    assert ended.since == old.since
    assert began < ended.until <= time.time() + 3
    assert "# lunch" in editor.text
    before = editor.text
    assert editor.post("snooze", {"source": "door", "for_s": 0}).status_code == 200
    assert editor.text == before, "there is no snooze to end"
    editor.post("snooze", {"source": "door"})
    assert list(tomllib.loads(editor.text)["events"]["snoozed_sources"]) == ["door"]


@pytest.mark.parametrize(
    ("wish", "fault"),
    [
        ({"rule": "visitr"}, "has no such rule; did you mean visitor?"),
        ({"rule": "door"}, "has no such rule; it is a source"),
        ({"source": "yard"}, "the run has no such source; it has door"),
        ({"rule": "visitor", "source": "door"}, "name one of them"),
        ({"for_s": 0.5}, "it must end 3 s to 366 days from now"),
        ({"for_s": -1}, "for_s"),
        ({"for_s": 1e12}, "for_s"),
    ],
)
def test_a_wrong_snooze_is_refused(editor: Editor, wish: dict[str, Any], fault: str) -> None:
    refused = editor.post("snooze", wish)
    assert (refused.status_code, editor.text) == (400, FILE)
    assert fault in refused.json()["error"]


def test_an_edit_by_hand_waits_for_a_reload(editor: Editor) -> None:
    editor.file.write_text(f"{FILE}\n[live]\nstall_s = 9.0\n", encoding="utf-8")
    (wait,) = editor.see()["waits"]
    assert wait.startswith("[live] differs from the start of the run")
    editor.file.write_text(FILE.replace("[[0.1", "[[0.2"), encoding="utf-8")
    (wait,) = editor.see()["waits"]
    assert wait == "the file was edited by hand: framegate rules reload uses it"
    assert editor.post("reload", {}).json()["waits"] == []
    editor.file.write_text("[events", encoding="utf-8")
    broken = editor.see()
    assert "not TOML" in broken["waits"][0]
    assert list(broken["versions"]) == ["visitor"]
    assert editor.post("reload", {}).status_code == 400


def test_a_source_that_the_run_records_gets_no_privacy_mask(tmp_path: Path) -> None:
    """Also if the file no longer records it: the run does so until its next start."""
    file = tmp_path / "pipeline.toml"
    file.write_text('[record]\nsources = ["door", "yard"]\n', encoding="utf-8")
    ask = AnsweringConfig(file).ask
    mask = "[privacy.masks]\n{} = [[[0.1, 0.1], [0.6, 0.1], [0.6, 0.9]]]\n"
    record = '[record]\nsources = ["yard"]\n'
    file.write_text(record + mask.format("door"), encoding="utf-8")
    with pytest.raises(RequestRefused, match=r"areas that .* hides of door; remove these, then"):
        ask(ReloadConfig())
    file.write_text(record + mask.format("hall"), encoding="utf-8")
    ask(ReloadConfig())


def test_masks_of_lazy_sources_wait_for_the_next_start(editor: Editor) -> None:
    """Their decoders compare key frames by the masks that they began with."""
    sources = '[sources.{0}]\nurl = "rtsp://10.0.0.1/{0}"\n'
    lazy = sources.format("door") + 'decode = "lazy"\n'
    masks = "[gate.masks]\ndoor = [[[0, 0], [9, 0], [9, 9]]]\nyard = [[[0, 0], [9, 0], [9, 9]]]\n"
    editor.file.write_text(FILE + lazy + sources.format("yard") + masks, encoding="utf-8")
    waits = [wait for wait in editor.post("reload", {}).json()["waits"] if "gate.masks" in wait]
    assert len(waits) == 1
    assert waits[0].startswith("[gate.masks] door: the lazy decoder uses them from the next start")
