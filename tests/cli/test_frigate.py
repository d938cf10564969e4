"""`framegate init --frigate`: what a configuration of Frigate becomes, and what is left out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from framegate.cli.frigate.frigate_file import read_frigate
from framegate.cli.frigate.frigate_tables import PictureSizes, tables_of
from framegate.cli.setup.config_file import Imported
from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.read_options import variables_in
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from tests.support.commands import framegate

CONFIG = """
version: 0.15-1
mqtt:
  host: broker.example
  user: "{FRIGATE_MQTT_USER}"
  password: "{FRIGATE_MQTT_PASSWORD}"
detectors:
  coral: {type: edgetpu, device: usb}
go2rtc:
  streams:
    front:
      - rtsp://viewer:{FRIGATE_RTSP_PASSWORD}@127.0.0.1:1/main
    front_sub: ffmpeg:rtsp://viewer:{FRIGATE_RTSP_PASSWORD}@127.0.0.1:1/sub#audio=aac
objects:
  track: [person, car, package]
  filters:
    person: {min_ratio: 0.25, max_ratio: 2.0, threshold: 0.75}
record:
  enabled: true
  retain: {days: 7, mode: motion}
  alerts:
    pre_capture: 3
    retain: {days: 30}
cameras:
  Front-Door:
    ffmpeg:
      inputs:
        - path: rtsp://127.0.0.1:8554/front
          roles: [record]
        - path: rtsp://127.0.0.1:8554/front_sub
          roles: [detect]
    detect: {width: 640, height: 360, fps: 5}
    motion:
      mask: 0,0,320,0,320,36,0,36
    zones:
      porch:
        coordinates: 64,180,384,180,384,360,64,360
        loitering_time: 4
        objects: person
      street:
        coordinates: 0.0,0.1,1.0,0.1,1.0,0.3,0.0,0.3
    review:
      alerts:
        required_zones: [porch]
    objects:
      mask:
        - 0,0,64,0,64,36,0,36
  yard:
    enabled: false
    ffmpeg: {inputs: [{path: "rtsp://camera.example", roles: [detect]}]}
  garage:
    ffmpeg:
      inputs:
        - path: rtsp://127.0.0.1:1/garage
          roles: [detect]
    record: {enabled: false}
    audio: {enabled: true, listen: [bark, glass]}
"""
VALUES = {
    "FRIGATE_RTSP_PASSWORD": "a/b",
    "FRIGATE_MQTT_USER": "home",
    "FRIGATE_MQTT_PASSWORD": "p:w",
}
SIZES = {
    "front_door": PictureSizes((1920, 1080), (640, 360)),
    "garage": PictureSizes((640, 480), (640, 480)),
}
TABLES = {
    "events": {
        "areas": {
            "porch": {
                "source": "front_door",
                "points": [[0.1, 0.5], [0.6, 0.5], [0.6, 1.0], [0.1, 1.0]],
            },
            "street": {
                "source": "front_door",
                "points": [[0.0, 0.1], [1.0, 0.1], [1.0, 0.3], [0.0, 0.3]],
            },
        },
        "rules": {
            "porch_alert": {
                "when": "inside",
                "area": "porch",
                "for_s": 4.0,
                "labels": ["person"],
                "severity": "alert",
                "clip": {"before_s": 3.0, "after_s": 5.0},
            },
            "front_door_detection": {
                "when": "inside",
                "source": "front_door",
                "labels": ["person", "car", "truck"],
                "severity": "detection",
                "clip": {"before_s": 5.0, "after_s": 5.0},
            },
            "garage_alert": {
                "when": "inside",
                "source": "garage",
                "labels": ["person", "car", "truck"],
                "severity": "alert",
            },
            "garage_heard": {
                "when": "state",
                "state": "heard",
                "source": "garage",
                "labels": ["Bark"],
                "until_s": 30.0,
            },
        },
    },
    "filters": {
        "front_door_mask": {
            "sources": ["front_door"],
            "area": [[0.0, 0.0], [0.1, 0.0], [0.1, 0.1], [0.0, 0.1]],
        },
        "person": {"labels": ["person"], "min_aspect": 0.5, "max_aspect": 4.0},
    },
    "gate": {"masks": {"front_door": [[[0, 0], [960, 0], [960, 108], [0, 108]]]}},
    "sound": {"sources": ["garage"]},
}


def written(tmp_path: Path, text: str = CONFIG) -> Path:
    file = tmp_path / "config.yml"
    file.write_text(text, encoding="utf-8")
    return file


def tables(imported: Imported) -> dict[str, Any]:
    return tomllib.loads("\n".join(imported.tables))


def test_zones_masks_objects_sounds_and_recordings_become_tables(tmp_path: Path) -> None:
    frigate = read_frigate(written(tmp_path), VALUES)
    imported = tables_of(frigate, SIZES, "")
    assert tables(imported) == TABLES
    assert imported.classes == ("person", "car", "truck")
    assert imported.record == ("days = 7.0", "clip_days = 30.0")
    front, garage = frigate.cameras
    assert (front.name, front.url) == ("front_door", "rtsp://viewer:a%2Fb@127.0.0.1:1/main")
    assert front.small == "rtsp://viewer:a%2Fb@127.0.0.1:1/sub", "not through go2rtc"
    assert (garage.small, garage.records, front.records) == ("", False, True)
    assert frigate.broker() == "mqtt://home:p%3Aw@broker.example:1883"


def test_each_key_that_was_not_taken_over_is_listed_with_a_reason(tmp_path: Path) -> None:
    frigate = read_frigate(written(tmp_path), VALUES)
    tables_of(frigate, SIZES, "")
    frigate.broker()
    keys = [key for those in frigate.left().values() for key in those]
    assert sorted(keys) == [
        "audio.listen: glass",
        "cameras.yard",
        "detect.fps",
        "detectors",
        "go2rtc",
        "objects.filters.person.threshold",
        "objects.track: package",
        "record.retain.mode",
    ]


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ("64,180,384,180,384,360,64,360", "64,180,384", "three or more points x,y,x,y"),
        ("coordinates: 64,180", "coordinates: left,180", "three or more points"),
        ("width: 640, height: 360, ", "", "the size of the picture is not known"),
    ],
)
def test_a_polygon_that_cannot_be_taken_over_is_a_fault(
    tmp_path: Path, said: str, instead: str, fault: str
) -> None:
    frigate = read_frigate(written(tmp_path, CONFIG.replace(said, instead, 1)), VALUES)
    with pytest.raises(ConfigFaults, match=fault) as refused:
        tables_of(frigate, {}, "")
    assert "cameras.Front-Door.zones.porch.coordinates" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cameras: [", "not valid YAML"),
        ("go: 1", "no table cameras; is it a configuration of Frigate?"),
        ("cameras: {}", "no camera that is enabled"),
        ("cameras: {a: {ffmpeg: {}}}", r"cameras\.a\.ffmpeg\.inputs: no path with the role detect"),
        (CONFIG, "cameras.Front-Door: set the variable FRIGATE_RTSP_PASSWORD"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=fault):
        read_frigate(written(tmp_path, text), {})


def test_masks_with_names_as_newer_versions_write_them(tmp_path: Path) -> None:
    text = CONFIG.replace(
        "      mask:\n        - 0,0,64,0,64,36,0,36\n",
        "      mask:\n        tree: {coordinates: '0,0,0.1,0,0.1,0.1,0,0.1'}\n"
        "        wall: {coordinates: '0,0,1,0,1,1', enabled: false}\n",
    )
    imported = tables_of(read_frigate(written(tmp_path, text), VALUES), SIZES, "")
    assert tables(imported)["filters"] == TABLES["filters"]


def test_the_command_writes_a_configuration_that_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cameras are off, as during a move; their URLs are kept nevertheless."""
    written(tmp_path)
    values = [f"{name}={value}" for name, value in VALUES.items()]
    ended = framegate(tmp_path, "init", "--frigate", "config.yml", before=["env", *values])
    assert ended.code == Exit.SOURCE_FAILED, ended
    secrets = variables_in((tmp_path / "secrets.env").read_text(encoding="utf-8"))
    assert list(secrets) == ["MQTT_URL", "FRONT_DOOR_URL", "FRONT_DOOR_SMALL_URL"]
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    assert list(read_config("pipeline.toml", text).sources) == ["front_door", "garage"]
    expected = {"sources": ["front_door"], "days": 7.0, "clip_days": 30.0}
    assert tomllib.loads(text)["record"] == expected
    assert "a%2Fb" not in text
    assert "Not taken over from config.yml" in ended.out
    assert "no shipped network knows it" in ended.out


BEFORE_0_14 = """
mqtt: {enabled: false, host: broker.example}
birdseye: {enabled: true, mode: continuous}
logger: {logs: {frigate.ptz.onvif: debug}}
record:
  enabled: true
  retain: {days: 3, mode: motion}
  events:
    pre_capture: 8
    objects: [person]
    retain: {default: 14, mode: motion}
cameras:
  1:
    ffmpeg: {inputs: [{path: "rtsp://127.0.0.1:1/yard", roles: [record]}]}
    detect: {width: 1280, height: 720}
    zones: {porch: {coordinates: "0,0,640,0,640,720,0,720"}}
    record: {events: {required_zones: [porch, street]}}
  hall:
    ffmpeg: {inputs: [{path: "rtsp://127.0.0.1:1/hall"}]}
    zones:
"""


def test_a_file_of_before_0_14_is_read_as_newer_versions_rewrite_it(tmp_path: Path) -> None:
    file = tmp_path / "frigate.yml"
    file.write_text(BEFORE_0_14, encoding="utf-8")
    frigate = read_frigate(file, {})
    assert [(each.name, each.records) for each in frigate.cameras] == [
        ("camera_1", True), ("hall", True),
    ]  # fmt: skip
    assert frigate.broker() == ""
    imported = tables_of(frigate, {}, "")
    rules = tomllib.loads("\n".join(imported.tables))["events"]["rules"]
    assert rules["porch_alert"] == {
        "when": "inside", "area": "porch", "labels": ["person"], "severity": "alert",
        "clip": {"before_s": 8.0, "after_s": 5.0},
    }  # fmt: skip
    assert rules["camera_1_detection"]["labels"] == ["person"]
    assert rules["hall_alert"]["source"] == "hall"
    assert list(imported.record) == ["days = 3.0", "clip_days = 14.0"]
    left = {key: reason for reason, keys in frigate.left().items() for key in keys}
    assert set(left) == {
        "birdseye", "logger", "record.retain.mode", "record.events.retain.mode",
        "record.events.objects", "camera_1: required_zones: street",
    }  # fmt: skip
    assert left["camera_1: required_zones: street"] == "there is no such zone, or it is disabled"
    assert left["birdseye"] == "the live page shows all cameras"


def test_a_key_beside_converted_ones_is_named_whole_and_a_long_name_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "frigate.yml"
    file.write_text(
        """
cameras:
  the_camera_above_the_back_door:
    ffmpeg: {inputs: [{path: "rtsp://127.0.0.1:1/yard"}]}
    detect: {enabled: false, width: 640, height: 360}
    audio: {enabled: true, listen: [bark]}
    zones: {porch: {friendly_name: Porch, coordinates: "0,0,1,0,1,1"}}
    record: {enabled: true, events: {retain: {default: 3, objects: {person: 9}}}}
    unknown: {below: {it: 1}}
""",
        encoding="utf-8",
    )
    frigate = read_frigate(file, {})
    imported = tables_of(frigate, {}, "")
    assert list(tomllib.loads("\n".join(imported.tables))["events"]["rules"]) == [
        "the_camera_above_the_back_do", "the_camera_above_the_b_heard",
    ]  # fmt: skip
    left = [key for keys in frigate.left().values() for key in keys]
    assert sorted(left) == [
        "detect.enabled", "record.events.retain.objects", "unknown", "zones.porch.friendly_name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("days: 3", "days: three", "record.retain.days = 'three': must be a number"),
        ("pre_capture: 8", "pre_capture: [8]", "record.events.pre_capture = [8]: must be a number"),
        ("width: 1280", "width: wide", "detect.width = 'wide': must be a number"),
        ("0,0,640,0", "0,640,0", "zones.porch.coordinates"),
        ('"rtsp://127.0.0.1:1/yard"', "[rtsp]", "inputs[0].path = ['rtsp']: must be a string"),
        ("days: 3", "days: .inf", "must be a number"),
        ("birdseye: {", "birdseye: &b {a: *b, ", "contain themselves"),
        ("days: 3", "days: 2026-13-01", "not valid YAML: month must be in 1..12"),
        ("0,0,640,0", "nan,0,640,0", "zones.porch.coordinates"),
    ],
)
def test_a_wrong_value_is_a_fault_and_no_traceback(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    file = tmp_path / "frigate.yml"
    file.write_text(BEFORE_0_14.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigFaults) as caught:
        tables_of(read_frigate(file, {}), {}, "")
    assert fault in str(caught.value)
    assert str(caught.value).startswith(str(file))
