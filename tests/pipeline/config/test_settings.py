"""What is told of each key, and the JSON Schema, held to by somebody else's validator."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from framegate.pipeline.config.config import DEFAULTS, packaged_text, read_config, shipped_graph
from framegate.pipeline.config.settings import in_force, schema, tables_of
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.machine import cores

GRAPH = {name: entry["use"] for name, entry in shipped_graph()["stages"].items()}
SCHEMA = schema(list(GRAPH.items()), GRAPH)
CAMERA = "[sources.entrance]\nurl = 'rtsp://camera.example/1'\n"
OWN = "[stages.people]\nuse = 'framegate.pipeline.contracts.stage:Stage'\n"


def wrong(text: str, of: dict[str, Any] = SCHEMA) -> list[str]:
    """Where a validator finds something."""
    validator = jsonschema.Draft7Validator(of)
    return [error.json_path for error in validator.iter_errors(tomllib.loads(text))]


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        packaged_text(),
        CAMERA,
        CAMERA + "frames = 'keyframes'\nlive = true\ntransport = 'udp'\npace = 'fast'\n",
        CAMERA + "frames = { max_fps = 5 }\n[live]\nstall_s = 3\n",
        CAMERA + "frames = { every = 3, keyframes = true }\n",
        OWN,
        OWN + "input = 'detect'\non_lag = 'wait'\n",
        "[stages.detect]\nclasses = ['person']\nmin_scores = { person = 0.5 }\n",
        "[stages.detect]\nuse = 'framegate.pipeline.contracts.stage:Stage'\n",
        "[stages.cache]\ninput = 'detect'\n",
        "[gate.masks]\nentrance = [[[0, 0], [9, 0], [9, 9.5]]]\n",
        "[privacy.masks]\nentrance = [[[0, 0], [0.5, 0], [0.5, 1]]]\n",
        "[models.sources.entrance]\nmodel = 'heavy'\nclasses = ['car']\n",
        "[models.sources.entrance]\nmin_scores = { car = 0.4 }\n",
        "[promise]\nalpha = 0.05\n[escalate]\nplace = 'local'\n",
        "[placement]\nlook = ['detect']\n",
    ],
)
def test_what_we_take_it_takes(text: str) -> None:
    read_config("t", text)
    assert wrong(text) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[nonsense]\na = 1\n", "$"),
        ("[store]\nulr = 'x'\n", "$.store"),
        ("[store]\nfsync = 'never'\n", "$.store.fsync"),
        ("[store]\nreplicas = -1\n", "$.store.replicas"),
        ("[credit]\nfile = 'many'\n", "$.credit.file"),
        ("[credit]\nlive = 1025\n", "$.credit.live"),
        ("[live]\nstall_s = 0.1\n", "$.live.stall_s"),
        ("[sources]\na = 'a.mp4'\n", "$.sources.a"),
        ("[sources.A]\nurl = 'a.mp4'\n", "$.sources"),
        ("[sources.a]\n", "$.sources.a"),
        ("[sources.a]\nurl = 'x'\nurl_env = 'HOME'\n", "$.sources.a"),
        ("[sources.a]\nurl = 'x'\nframes = 'some'\n", "$.sources.a.frames"),
        ("[sources.a]\nurl = 'x'\nframes = { every = 0 }\n", "$.sources.a.frames"),
        ("[sources.a]\nurl = 'x'\ntransport = 'sctp'\n", "$.sources.a.transport"),
        ("[stages.detct]\nmin_score = 0.5\n", "$.stages.detct"),
        ("[stages.detect]\nmin_scor = 0.5\n", "$.stages.detect"),
        ("[stages.detect]\nmin_score = 1.5\n", "$.stages.detect"),
        ("[stages.people]\nuse = 'x:Y'\non_lag = 'later'\n", "$.stages.people.on_lag"),
        ("[gate]\nobject_age_s = 'long'\n", "$.gate.object_age_s"),
        ("[gate.masks]\na = [[[0, 0], [9, 0]]]\n", "$.gate.masks.a[0]"),
        ("[privacy.masks]\na = [[[0, 0], [1, 0], [1, 9]]]\n", "$.privacy.masks.a[0][2][1]"),
        ("[privacy.masks]\na = []\n", "$.privacy.masks.a"),
        ("[models.sources.a]\nmodle = 'light'\n", "$.models.sources.a"),
        ("[placement]\na = 'decode'\n", "$.placement.a"),
    ],
)
def test_what_it_refuses_we_refuse(text: str, where: str) -> None:
    assert set(wrong(text)) == {where}
    with pytest.raises(ConfigFaults):
        read_config("t", text)


def test_a_stage_of_ones_own_is_in_the_schema_of_ones_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "zone_stages.py").write_text(
        "from dataclasses import dataclass, field\nfrom framegate import Stage\n"
        "@dataclass(frozen=True)\nclass ZoneOptions:\n"
        '    """The table `[zone]`.\n\n    least  people, at least\n    """\n'
        "    least: int = field(default=1, metadata={'least': 1})\n"
        "@dataclass(frozen=True)\nclass Options:\n"
        "    side: str\n"
        "    zone: ZoneOptions = field(default_factory=ZoneOptions, metadata={'table': True})\n"
        "class Zone(Stage):\n    Options = Options\n",
        encoding="utf-8",
    )
    text = "[stages.zone]\nuse = 'zone_stages:Zone'\nside = 'left'\n[zone]\nleast = 2\n"
    config = read_config("t", text)
    own = schema([(stage.name, stage.use) for stage in config.stages], GRAPH)
    assert wrong(text, own) == []
    assert wrong(text) == ["$"], "the shipped schema does not know the table [zone]"
    assert wrong(text.replace("least = 2", "least = 0"), own) == ["$.zone.least"]
    assert wrong(text.replace("side", "sied"), own) == ["$.stages.zone"]


def test_every_key_has_a_text() -> None:
    untold = [
        f"{table.path}.{setting.name}"
        for table in tables_of(GRAPH.items())
        for setting in table.settings
        if not setting.text
    ]
    assert untold == []


def test_what_is_in_force_and_from_where() -> None:
    text = (
        CAMERA
        + "[gate]\nobject_age_s = 2.0\n[promise]\nalpha = 0.05\n[escalate]\nplace = 'local'\n"
    )
    config = read_config(
        "mine.toml", text, {"log": {"level": "DEBUG"}}, {"detector": "heavy", "classes": ["car"]}
    )
    found = {f"{one.table}.{one.key}": (one.value, one.origin) for one in in_force(config)}
    assert found["gate.object_age_s"] == (2.0, "mine.toml")
    assert found["gate.still_age_s"] == (10.0, "")
    assert found["sources.entrance.url"] == ("rtsp://camera.example/1", "mine.toml")
    assert found["sources.entrance.transport"] == ("tcp", "")
    assert found["log.level"] == ("DEBUG", "command line")
    assert found["stages.detect.detector"] == ("heavy", "command line")
    assert found["stages.escalate.classes"] == (["car"], "command line")
    assert found["stages.detect.input"] == ("decode", "")
    assert found["promise.measure"] == ("counts", ""), "where there is the table, it promises"
    assert found["placement.shard"][1] == ""
    assert found["workers.shards"] == (cores(), "")
    usual = {f"{one.table}.{one.key}": one.value for one in in_force(read_config(DEFAULTS, ""))}
    assert usual["promise.measure"] == "off"


def test_what_a_variable_holds_is_not_in_force_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAVY", "redis://u:hunter2@heavy.example:6379/0")
    monkeypatch.setenv("CAM", "rtsp://u:hunter2@camera.example/1")
    text = "[escalate]\nplace = 'workers'\nurl_env = 'HEAVY'\n[sources.a]\nurl_env = 'CAM'\n"
    found = in_force(read_config("t", text))
    assert not [one for one in found if "hunter2" in str(one.value)]
    assert [one.value for one in found if one.key == "url_env"] == [None, "CAM", "HEAVY"]
