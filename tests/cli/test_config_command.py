"""`framegate config`, and what the command line says of words that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.pipeline.config.config import DEFAULTS, packaged_text, read_config
from framegate.pipeline.config.settings import in_force

MINE = """[sources.entrance]
url = "rtsp://viewer:hunter2@camera.example/1"
frames = { max_fps = 5 }

[gate]
object_age_s = 2

[gate.masks]
entrance = [[[0, 0], [9, 0], [9, 9]]]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, or complains of."""
    assert main(words) == code
    told = capfd.readouterr()
    return told.err if code else told.out


def test_the_defaults(capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, "config", "--default") == packaged_text()


def test_what_is_in_force(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "pipeline.toml").write_text(MINE, encoding="utf-8")
    told = said(capfd, "config", "--resolved", "--detector", "heavy")
    assert said(capfd, "config", "--detector", "heavy") == told
    lines = {line.partition(" = ")[0]: " ".join(line.split()) for line in told.splitlines()}
    assert lines["object_age_s"] == "object_age_s = 2 # pipeline.toml"
    assert lines["still_age_s"] == "still_age_s = 10.0 # default"
    assert lines["detector"] == 'detector = "heavy" # command line'
    assert "hunter2" not in told
    assert 'url = "rtsp://camera.example/***"' in told


def test_what_is_in_force_is_a_configuration_that_means_the_same(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "pipeline.toml").write_text(
        MINE.replace("viewer:hunter2@camera.example/1", "camera.example"), encoding="utf-8"
    )
    told = said(capfd, "config")
    mine = read_config("pipeline.toml", (folder / "pipeline.toml").read_text(encoding="utf-8"))
    again = read_config("again", told)
    assert [(one.table, one.key, one.value) for one in in_force(again)] == [
        (one.table, one.key, one.value) for one in in_force(mine)
    ]
    assert again.placement == mine.placement


def test_one_key_is_explained(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "other.toml").write_text(MINE, encoding="utf-8")
    told = said(capfd, "config", "explain", "gate.object_age_s", "-c", "other.toml")
    assert told.splitlines() == [
        "gate.object_age_s: a number, 0.05 to 60; default 1.0",
        "  Seconds of media time after which the network looks at an object again at",
        "  the latest",
        "  Value: 2 (other.toml: gate)",
    ]
    assert said(capfd, "config", "-c", "other.toml", "explain", "object_age_s") == told


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("gate", "gate.view: true or false; default false"),
        ("sources.yard.frames", 'sources.yard.frames: a string, or a table; default "all"'),
        ("sources.yard.frames.every", "sources.yard.frames.every: a whole number; default 1"),
        (
            "models.sources.yard.model",
            'models.sources.yard.model: "light" or "heavy", or a string; ',
        ),
        ("stages.detect.detector", 'stages.detect.detector: a string; default "light"'),
        ("transport", 'sources.NAME.transport: "tcp" or "udp"; default "tcp"'),
        ("on_lag", 'stages.NAME.on_lag: "drop", "wait" or "files"; default "drop"'),
        ("live", "live.retry_most_s: a number, 0.1 to 3600; default 30.0"),
    ],
)
def test_keys_and_tables(key: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    told = said(capfd, "config", "explain", key)
    assert says in told
    assert max(map(len, told.splitlines())) <= 80


def test_a_key_is_explained_though_the_file_is_wrong(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "pipeline.toml").write_text("[gate]\nobject_age_s = 'long'\n", encoding="utf-8")
    assert "number, 0.05 to 60" in said(capfd, "config", "explain", "gate.object_age_s")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("gate.object_age", "gate.object_age_s"),
        ("gat", "gate"),
        ("objct_age_s", "gate.object_age_s"),
    ],
)
def test_a_key_that_is_none(key: str, meant: str, capfd: pytest.CaptureFixture[str]) -> None:
    told = said(capfd, "config", "explain", key, code=2)
    assert told.endswith(f"pipeline.toml has no such key or table; did you mean {meant}?\n")


def test_the_schema(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "pipeline.toml").write_text(
        "[stages.a]\nuse = 'framegate.pipeline.contracts.stage:Stage'\n", encoding="utf-8"
    )
    made = json.loads(said(capfd, "config", "schema"))
    assert "a" in made["properties"]["stages"]["properties"]
    assert made["properties"]["live"]["properties"]["stall_s"]["minimum"] == 0.5


# -- Words of the command line.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rn", "clip.mp4"), "'rn' is unknown; allowed are demo, init, check, run, "),
        (("rn", "clip.mp4"), "; did you mean run?"),
        (("run", "--jsn", "clip.mp4"), "framegate run: error: unrecognized arguments: --jsn; did "),
        (("run", "clip.mp4", "--detectr=heavy"), "; did you mean --detector?"),
        (("run", "clip.mp4", "--pace", "real"), "allowed are realtime, fast; did you mean realt"),
        (("models", "lst"), "; did you mean list?"),
        (("config", "explan", "gate"), "; did you mean explain?"),
        (("models", "use", "light", "door"), "models use: error: unrecognized arguments: door"),
        (("tune", "a", "--from", "a.mp4", "--frames", "9", "b"), "unrecognized arguments: b"),
        (("fleet", "move", "a", "b", "--store", "x", "box2"), "unrecognized arguments: box2"),
        (
            ("run", "--xyzzy=rtsp://u:hunter2@cam/1"),
            "unrecognized arguments: --xyzzy=rtsp://cam/***",
        ),
    ],
)
def test_a_word_that_is_none(
    words: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("run", "a.mp4", "-c", "pipline.toml"),
            "this file does not exist; did you mean pipeline.t",
        ),
        (("run", "a.mp4", "--classes", "persn"), "persn: unknown; must be any of "),
        (("run", "a.mp4", "--classes", "persn"), "; did you mean person?"),
        (("run", "a.mp4", "--frames", "some"), '--frames some: must be "all", "keyframes", '),
        (
            ("run", "--frames", "every=2"),
            "--frames: these options are for sources of the command line",
        ),
    ],
)
def test_a_value_that_is_none(
    words: tuple[str, ...], says: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "pipeline.toml").write_text(MINE.replace("hunter2", "pass"), encoding="utf-8")
    assert says in said(capfd, *words, code=2)


def test_how_sources_of_the_command_line_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("check", "cam=rtsp://127.0.0.1:1/a", "--frames", "every=3", "--transport", "udp")
    main([*words, "--no-live"])
    assert "cam: " in capfd.readouterr().out  # understood, and off
    config = read_config(DEFAULTS, "", {"sources": {"a": {"url": "x", "frames": "every=3"}}})
    assert config.sources["a"].frames == "every=3"


def test_a_configuration_among_the_sources_is_taken_for_it(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user who names cameras.toml alone means the configuration, not a video."""
    (folder / "pipeline.toml").write_text("[gate]\nobject_age_s = 3\n", encoding="utf-8")
    (folder / "cameras.toml").write_text(
        '[sources.cam]\nurl = "rtsp://127.0.0.1:1/a"\n', encoding="utf-8"
    )
    main(["check", "cameras.toml"])
    told = capfd.readouterr()
    assert "cam: " in told.out
    assert "connecting" not in told.err
    assert main(["check", "cameras.toml", "-c", "pipeline.toml"]) == 2
    assert "pipeline.toml, cameras.toml: there are several" in capfd.readouterr().err
    assert main(["check", "absent.toml"]) == 2
    assert "configuration absent.toml: this file does not exist" in capfd.readouterr().err
