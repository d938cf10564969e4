"""What a word on the command line names."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.sources import derived_name, is_live, is_remote, named_sources
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.run.source_forms import run_source, source_spec

places = st.text("aZ9_-. :éЖ/@", min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("clip.mp4", "clip"),
        ("/a/b/Front Door (2).MKV", "front_door_2"),
        ("rtsp://user:pass@cam.example/stream1?x=1", "stream1"),
        ("http://cam.example/live/", "live"),
        ("rtsp://cam.example/user=admin&password=hunter22&channel=1&stream=0.sdp", "cam_example"),
        ("rtsp://10.0.0.7:554/live/token/hunter22", "live"),
        ("9lives.avi", "s_9lives"),
        ("видео.mp4", "s"),
        ("..", "s"),
        ("a" * 60 + ".mp4", "a" * 28),
    ],
)
def test_a_name_is_made_of_the_last_part(place: str, name: str) -> None:
    assert derived_name(place) == name


@given(places)
def test_a_made_name_is_a_name(place: str) -> None:
    assert is_name(derived_name(place))


def test_names_given_and_made() -> None:
    words = ["clip.mp4", "door=a/b.mp4", "rtsp://x/y?a=b", "other/clip.mkv", "clip.avi"]
    assert named_sources(words) == {
        "clip": "clip.mp4",
        "door": "a/b.mp4",
        "y": "rtsp://x/y?a=b",
        "clip_2": "other/clip.mkv",
        "clip_3": "clip.avi",
    }


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigFaults, match=r"a=other\.mp4: two sources have the name 'a'"):
        named_sources(["a=good.mp4", "a=other.mp4"])


def test_a_thousand_files_of_one_long_name_have_names() -> None:
    named = named_sources([f"{n}/{'a' * 28}.mp4" for n in range(1200)])
    assert len(named) == 1200
    assert all(map(is_name, named))


@pytest.mark.parametrize("scheme", ["RTSP", "rtsp", "Http", "HTTP", "https", "RTMP", "SRT"])
def test_a_scheme_may_be_in_capitals(scheme: str) -> None:
    place = f"{scheme}://cam.example/live"
    assert is_live(place)
    assert is_remote(place)
    assert not is_live("HTTP://cam.example/CLIP.MP4")


def test_globs(here: Path) -> None:
    for name in ("b.mp4", "a.mp4", "c.avi", "sub/d.mp4"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert named_sources(["*.mp4"]) == {"a": "a.mp4", "b": "b.mp4"}
    assert named_sources(["cam=*.mp4"]) == {"cam": "a.mp4", "cam_2": "b.mp4"}
    assert named_sources(["**/*.mp4"]) == {"a": "a.mp4", "b": "b.mp4", "d": "sub/d.mp4"}


def test_a_folder_gives_the_videos_in_it(here: Path) -> None:
    for name in ("in/b.MP4", "in/a.mkv", "in/notes.txt", "in/sub/c.mp4", "empty/notes.txt"):
        (here / name).parent.mkdir(exist_ok=True, parents=True)
        (here / name).touch()
    (here / "in" / "folder.mp4").mkdir()
    assert named_sources(["in"]) == {"in": "in"}
    assert named_sources(["in"], opens_folders=True) == {"a": "in/a.mkv", "b": "in/b.MP4"}
    named = named_sources(["cam=in/"], opens_folders=True)
    assert named == {"cam": "in/a.mkv", "cam_2": "in/b.MP4"}
    with pytest.raises(ConfigFaults, match=r"^empty: this folder has no video file; .*'empty/"):
        named_sources(["empty"], opens_folders=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_told(here: Path) -> None:
    (here / "closed").mkdir(mode=0)
    with pytest.raises(ConfigFaults, match=r"^closed: this folder cannot be read: Permission"):
        named_sources(["closed"], opens_folders=True)


@pytest.mark.parametrize("word", ["cameras.toml", "cam=cameras.toml"])
def test_a_configuration_is_no_source(word: str) -> None:
    with pytest.raises(
        ConfigFaults,
        match=r"cameras\.toml: this is a configuration; run: framegate run -c cameras\.toml",
    ):
        named_sources([word])
    assert is_live("rtsp://cam.example/cameras.toml")


def test_a_variable_is_no_path_of_a_run() -> None:
    assert named_sources(["gate=env:GATE"], takes_variables=True) == {"gate": "env:GATE"}
    with pytest.raises(ConfigFaults, match=r'url_env = "GATE" of \[sources\.gate\]') as refused:
        named_sources(["gate=env:GATE"])
    assert "framegate add gate=- reads a URL from standard input" in str(refused.value)


@pytest.mark.parametrize("name", ["[1].mp4", "what?.mp4", "x=y.mp4", "*"])
def test_a_file_with_a_strange_name_is_that_file(here: Path, name: str) -> None:
    (here / name).touch()
    (here / "1.mp4").touch()
    assert list(named_sources([name]).values()) == [name]


def test_a_name_that_cannot_be_written_down(here: Path) -> None:
    odd = os.fsdecode(b"b\xffad.mp4")
    (here / odd).touch()
    for word in (odd, "*.mp4"):
        with pytest.raises(ConfigFaults, match="the file name is not UTF-8; rename the file"):
            named_sources([word])


def test_all_faults_at_once() -> None:
    words = ["Door=a.mp4", "*.none", "x=a.mp4", "x=b.mp4", "good.mp4"]
    with pytest.raises(ConfigFaults) as refused:
        named_sources(words)
    assert [fault.split(":")[0] for fault in refused.value.faults] == [
        "Door=a.mp4",
        "*.none",
        "x=b.mp4",
    ]


@given(st.lists(places))
def test_every_word_gets_a_name_of_its_own(words: list[str]) -> None:
    sources = named_sources(words)
    assert list(sources.values()) == words
    assert all(is_name(name) for name in sources)


SECOND = "sources.door.look_at"


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ('url = "rtsp://cam/1"\nlook_at = "rtsp://cam/2"', ""),
        ('url = "rtsp://cam/1"\nlook_at = "rtsp://cam/1"', f"{SECOND}: is the same stream as url"),
        ('url = "rtsp://cam/1"\nlook_at = "a.mp4"', f"{SECOND}: must be the URL of a camera"),
        ('url = "a.mp4"\nlook_at = "rtsp://cam/2"', f"{SECOND}: only a camera has a second stream"),
        (
            'url = "rtsp://cam/1"\nlook_at = "rtsp://cam/2"\nlook_at_env = "HOME"',
            "sources.door: has look_at and look_at_env",
        ),
        (
            'url = "rtsp://cam/1"\nlook_at_env = "FRAMEGATE_NO_SUCH"',
            "sources.door.look_at_env = 'FRAMEGATE_NO_SUCH': this environment variable is not set",
        ),
    ],
)
def test_a_second_stream(keys: str, fault: str) -> None:
    text = f"[sources.door]\n{keys}\n"
    if not fault:
        assert read_config("pipeline.toml", text).sources["door"].look_at == "rtsp://cam/2"
        return
    with pytest.raises(ConfigFaults) as refused:
        read_config("pipeline.toml", text)
    assert len(refused.value.faults) == 1
    assert fault in refused.value.faults[0]


def test_the_urls_of_both_streams_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_SMALL", "rtsp://viewer:sword9fish@cam.example/small/7")
    keys = 'url = "rtsp://cam.example/large"\nlook_at_env = "DOOR_SMALL"'
    config = read_config("pipeline.toml", f"[sources.door]\n{keys}\n")
    source = run_source("door", config.sources["door"], "config")
    assert "sword9fish" not in msgspec.json.encode(source).decode()
    spec = source_spec(config, None, source)
    assert spec.look_at == "rtsp://viewer:sword9fish@cam.example/small/7"
    text = "cannot open cam.example/small/7 with sword9fish"
    assert redacted(text) == "cannot open cam.example/*** with ***"


EVENTS = "sources.door.events"
CAMERA = 'url = "rtsp://viewer:sword9fish@cam:8554/1"'


@pytest.mark.parametrize(
    ("keys", "service"),
    [
        (f'{CAMERA}\nevents = "onvif"', "http://cam/onvif/device_service"),
        (f'{CAMERA}\nevents = "http://cam:8000/onvif"', "http://cam:8000/onvif"),
        ('url = "rtsp://[fd00::7]/1"\nevents = "onvif"', "http://[fd00::7]/onvif/device_service"),
        ('url = "rtsp://a:b[c]d@cam/1"\nevents = "onvif"', "http://cam/onvif/device_service"),
        (CAMERA, ""),
    ],
)
def test_the_service_of_events_is_at_the_host_of_the_stream(keys: str, service: str) -> None:
    config = read_config("pipeline.toml", f"[sources.door]\n{keys}\n")
    source = run_source("door", config.sources["door"], "config")
    assert source_spec(config, None, source).events == service


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (f'{CAMERA}\nevents = "cam"', f'{EVENTS}: must be "onvif", or http://HOST/onvif'),
        (f'{CAMERA}\nevents = "http://u:p@cam/onvif"', f"{EVENTS}: has a login"),
        ('url = "a.mp4"\nevents = "onvif"', f"{EVENTS}: only a camera has events"),
        ('url = "webcam:0"\nevents = "onvif"', f"{EVENTS}: sources.door.url has no host"),
    ],
)
def test_events_need_a_camera_of_the_network(keys: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=fault) as caught:
        read_config("pipeline.toml", f"[sources.door]\n{keys}\n")
    assert "u:p" not in str(caught.value)
