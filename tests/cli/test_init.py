"""`framegate init` with and without a terminal, of cameras that are on, off and locked."""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from framegate.cli.main import main
from framegate.cli.setup import init
from framegate.cli.setup.config_file import Camera, Secrets, free_name, written
from framegate.cli.setup.init import with_login
from framegate.cli.setup.onvif import OnvifStream, chosen
from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.read_options import variables_in
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.telemetry.detector_choice import larger_inputs
from tests.support import footage
from tests.support.cameras.background import Background
from tests.support.cameras.gstreamer import Login
from tests.support.cameras.http import HttpCamera
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.commands import framegate
from tests.support.runs import DEADLINE_S, environment

OFF = "rtsp://viewer:hunter2@127.0.0.1:1/stream"
LOGIN = Login("viewer", "sword fish/9'")
PATIENCE_S = 10.0
LARGE = (1312, 738)
# The command, but each of its measurements takes a moment only.
BRIEFLY = """
from framegate.cli.setup import measured_rates
from framegate.cli.setup import init
from framegate.cli.main import main
from framegate.pipeline.system.process import leave

measured_rates.MEASURE_S = init.MEASURE_S = 0.05
leave(main())
"""
FRAMEGATE = [sys.executable, "-c", BRIEFLY]


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`locked` has a password."""
    folder = tmp_path_factory.mktemp("cameras")
    options = {"bf": "0", "g": "10", "preset": "ultrafast"}
    for name, size in (("stream1", LARGE), ("stream2", (640, 360))):
        footage.write_scene(
            folder / f"{name}.mkv", footage.steady(25), size, codec="libx264", options=options
        )
    pictures = footage.write_scene(folder / "pictures.avi", footage.steady(25), codec="mjpeg")
    video = footage.write_scene(
        folder / "video.mp4", footage.steady(50), codec="libx264", options=options
    )
    with (
        closing(Background()) as background,
        closing(ToolkitCamera(background, folder)) as toolkit,
        closing(HttpCamera(background, folder, pictures, video, LOGIN)) as locked,
    ):
        yield {
            "large": f"rtsp://127.0.0.1:{toolkit.port}{toolkit.path('stream1.mkv')}",
            "small": f"rtsp://127.0.0.1:{toolkit.port}{toolkit.path('stream2.mkv')}",
            "locked": f"http://127.0.0.1:{locked.port}/cam.mjpg",
        }


class Terminal:
    """A command on a terminal of its own, and who sits at it."""

    def __init__(self, folder: Path, *words: str, before: Sequence[str] = ()) -> None:
        """before: what stands before the command itself."""
        self.line, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*before, *FRAMEGATE, *words],
            cwd=folder,
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        self._decoded = codecs.getincrementaldecoder("utf-8")().decode

    def until(self, words: str, seconds: float = DEADLINE_S) -> None:
        """Wait for words that it shows next; a line may break between them."""
        pattern = re.compile(re.escape(words).replace("\\ ", "\\s+"))
        end = time.monotonic() + seconds
        while not pattern.search(self.shown) and time.monotonic() < end:
            if select.select([self.line], [], [], 0.5)[0]:
                try:
                    self.shown += self._decoded(os.read(self.line, 4096))
                except OSError:  # it has ended
                    break
        found = pattern.search(self.shown)
        assert found is not None, self.shown
        self.shown = self.shown[found.end() :]

    def types(self, words: str) -> None:
        os.write(self.line, f"{words}\n".encode())

    def interrupted(self, words: str) -> None:
        """Press Ctrl-C until it shows them: between its question and its wait for a key, which are
        two calls, one is only noticed with the next key.
        """
        end = time.monotonic() + DEADLINE_S
        while words not in self.shown and time.monotonic() < end:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(AssertionError):
                return self.until(words, PATIENCE_S)
        raise AssertionError(self.shown)

    def ends(self) -> int:
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            os.close(self.line)


@pytest.fixture
def measures_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process begin in the test's folder, and measure for a moment only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init, "MEASURE_S", 0.05)


@pytest.mark.usefixtures("measures_briefly")
def test_a_camera_that_is_on_is_written_and_nothing_is_asked_without_a_terminal(
    tmp_path: Path, cameras: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", f"yard={cameras['small']}"]) == 0
    out = capsys.readouterr().out
    assert "yard: h264 640x360, 25 frames/s" in out
    assert "They use " in out
    assert " cores while nothing moves" in out
    assert "Next:    framegate run -d data\n" in out
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    config = read_config("pipeline.toml", text)
    assert config.sources["yard"].url == cameras["small"]
    first, second = text.splitlines()[:2]
    assert first == "#:schema ./pipeline.schema.json"
    assert second == f"# Written by framegate init, {version('framegate')}."
    assert (tmp_path / "pipeline.schema.json").read_text(encoding="utf-8").startswith("{")
    assert not (tmp_path / "secrets.env").exists()
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.whole_run
@pytest.mark.usefixtures("measures_briefly")
def test_the_detector_of_a_large_stream_is_chosen_by_its_size(
    tmp_path: Path, cameras: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", f"yard={cameras['large']}"]) == 0
    said = capsys.readouterr().out
    assert "smaller stream" not in said  # no path is guessed
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["sources"]["yard"] == {"url": cameras["large"]}
    detector = tomllib.loads(text)["stages"]["detect"]["detector"]
    assert detector in ("light", *larger_inputs(LARGE[0]))  # by the time that this machine has
    assert "Detector of yard:\n  1312x738: " in said
    assert ("# 1312x738: nanodet-plus-" in text) is (detector != "light")


@pytest.mark.whole_run
def test_passwords_go_into_a_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    """Of a camera that is off: it is written all the same."""
    (tmp_path / "secrets.env").write_text("OTHER='kept'\n", encoding="utf-8")
    (tmp_path / "secrets.env").chmod(0o600)
    ended = framegate(tmp_path, "init", f"entrance={OFF}")
    assert ended.code == 1
    assert "entrance: " in ended.out
    assert "Next:    framegate run --env-file secrets.env -d data" in ended.out
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    assert "# It did not answer when this file was written: unreachable" in text
    assert tomllib.loads(text)["sources"]["entrance"] == {"url_env": "ENTRANCE_URL"}
    said = variables_in((tmp_path / "secrets.env").read_text(encoding="utf-8"))
    assert said == {"OTHER": "kept", "ENTRANCE_URL": OFF}
    assert "hunter2" not in text + ended.out + ended.err
    checked = framegate(tmp_path, "check", "--env-file", "secrets.env")
    assert "entrance: " in checked.out
    assert "hunter2" not in checked.out
    forgotten = framegate(tmp_path, "check")
    assert "variable is not set; secrets.env has it: add --env-file secrets.env" in forgotten.err


def test_the_detector_of_each_camera_that_does_not_have_the_default_one(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "secrets.env", {})
    gate = Camera("gate", "gate.mp4")
    yard = Camera("yard", "yard.mp4", detector="nanodet-plus-640", because="1920x1080: why")
    read = tomllib.loads(text := written([gate, yard], secrets))
    assert read["stages"]["detect"] == {"detector": "light"}
    assert read["models"]["sources"] == {"yard": {"model": "nanodet-plus-640"}}
    assert '[models.sources.yard]\n# 1920x1080: why\nmodel = "nanodet-plus-640"\n' in text
    read_config("pipeline.toml", text)
    read = tomllib.loads(text := written([yard], secrets))
    assert read["stages"]["detect"] == {"detector": "nanodet-plus-640"}
    assert "models" not in read
    assert '[stages.detect]\n# 1920x1080: why\ndetector = "nanodet-plus-640"\n' in text
    assert written([gate], secrets).count("detector = ") == 1


def test_the_file_of_passwords_is_new_and_nobody_elses(tmp_path: Path) -> None:
    assert framegate(tmp_path, "init", f"entrance={OFF}").code == 1
    assert stat.S_IMODE((tmp_path / "secrets.env").stat().st_mode) == 0o600


def test_an_existing_file_of_passwords_is_continued_with_a_line_and_closed_to_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "secrets.env"
    file.write_text("MQTT_PASSWORD=x", encoding="utf-8")
    file.chmod(0o644)
    assert framegate(tmp_path, "init", f"entrance={OFF}").code == 1
    said = variables_in(file.read_text(encoding="utf-8"))
    assert said == {"MQTT_PASSWORD": "x", "ENTRANCE_URL": OFF}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text("# mine\n", encoding="utf-8")
    ended = framegate(tmp_path, "init", f"entrance={OFF}")
    assert ended.code == 2
    assert "pipeline.toml: the file exists, and init replaces no file" in ended.err
    assert (tmp_path / "pipeline.toml").read_text(encoding="utf-8") == "# mine\n"
    assert not (tmp_path / "secrets.env").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no camera; name one, for example: framegate init entrance=rtsp://camera.example\n"),
        (("a=env:FRAMEGATE_NO_SUCH",), "a=env:FRAMEGATE_NO_SUCH: the environment has no such"),
        (("a=-",), "a: standard input had no URL"),
        (("Door=rtsp://camera.example/1",), "'Door': not the name of a source"),
        (("-c", "nowhere/pipeline.toml"), "the folder nowhere does not exist"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    ended = framegate(tmp_path, "init", *words)
    assert ended.code == 2
    assert says in ended.err
    assert {path.name for path in tmp_path.iterdir()} <= {"out.txt", "err.txt"}


@pytest.mark.whole_run
def test_who_is_asked_gives_a_wrong_password_and_then_the_right_one(
    tmp_path: Path, cameras: dict[str, str]
) -> None:
    person = Terminal(tmp_path, "init")
    person.until("Look for ONVIF cameras on this network? [Y/n]: ")
    person.types("n")
    person.until("Camera (empty: no more cameras): ")
    person.types(cameras["small"].replace("stream2", "straem2"))
    person.until("Its name [straem2]: ")
    person.types("yard")
    person.until("Keep yard, and correct the file later? [Y/n]: ")
    person.types("n")
    person.until("Camera (empty: no more cameras): ")
    person.types(cameras["small"])
    person.until("Its name [stream2]: ")
    person.types("Big yard")
    person.until("a name is a lower-case letter")
    person.until("Its name [stream2]: ")
    person.types("yard")
    person.until("yard: h264 640x360")
    person.until("Camera (empty: no more cameras): ")
    person.types(cameras["locked"])
    person.until("Its name [cam]: ")
    person.types("")
    person.until("it refuses this user name and password, or needs one")
    for password in ("wrong", LOGIN.password):
        person.until("User of cam (empty: no login): ")
        person.types(LOGIN.user)
        person.until("Password: ")
        person.types(password)
    person.until("cam: mjpeg 96x64")
    person.until("Camera (empty: no more cameras): ")
    person.types("")
    person.until("Next:    framegate run --env-file secrets.env -d data")
    assert person.ends() == 0
    sources = tomllib.loads((tmp_path / "pipeline.toml").read_text(encoding="utf-8"))["sources"]
    assert sources == {"yard": {"url": cameras["small"]}, "cam": {"url_env": "CAM_URL"}}
    words = [*FRAMEGATE, "check", "--env-file", "secrets.env"]
    checked = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert "cam: mjpeg 96x64" in checked.stdout, checked.stdout


@pytest.mark.parametrize("when", ["while it asks", "while it looks"])
def test_ctrl_c_writes_nothing(tmp_path: Path, when: str) -> None:
    with closing(Silent()) as silent:
        words = [f"a=rtsp://127.0.0.1:{silent.port}/x"] if when == "while it looks" else []
        person = Terminal(tmp_path, "init", *words)
        if words:
            silent.sees_somebody()
        else:
            person.until("Look for ONVIF cameras")
        person.interrupted("init: stopped; nothing was written")
        assert person.ends() == 130
    assert list(tmp_path.iterdir()) == []


class Silent:
    """A camera that takes a connection and says nothing."""

    def __init__(self) -> None:
        import socket

        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def sees_somebody(self) -> None:
        self._listening.settimeout(DEADLINE_S)
        self._connection, _ = self._listening.accept()

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def onvif_camera(tmp_path: Path) -> list[str]:
    """A command before others: in a network of their own, with a camera that answers by ONVIF.
    Skips where that is not allowed.
    """
    isolated = ["unshare", "--net"]
    try:
        veth = "ip link add cam0 type veth peer name net0"
        subprocess.run([*isolated, *veth.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs network namespaces (unshare, ip, and the right to use them)")
    folder = tmp_path / "streams"
    folder.mkdir()
    options = {"bf": "0", "g": "10", "preset": "ultrafast"}
    for name, size in (("main", (1600, 1200)), ("sub", (640, 360))):
        footage.write_scene(
            folder / f"{name}.mkv", footage.steady(25), size, codec="libx264", options=options
        )
    module = [sys.executable, "-m", "tests.support.onvif_camera"]
    return [*isolated, *module, str(folder), "viewer", "swordfish9"]


@pytest.mark.whole_run
@pytest.mark.parametrize(("password", "code"), [("swordfish9", 0), ("wrong", 2)])
def test_a_camera_of_the_network_is_found_by_onvif(
    tmp_path: Path, onvif_camera: list[str], password: str, code: int
) -> None:
    words = [*onvif_camera, *FRAMEGATE, "init", "--discover", "--user", "viewer"]
    words += ["-c", str(tmp_path / "pipeline.toml")]
    env = {**environment(), "FRAMEGATE_CAMERA_PASSWORD": password}
    ended = subprocess.run(
        words, env=env, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    if code:
        assert (
            "Found: Front Door at 10.77.0.1: the camera refuses this user and password"
            in ended.stdout
        )
        assert not (tmp_path / "pipeline.toml").exists()
        return
    assert "Found: Front Door at 10.77.0.1\n" in ended.stdout
    assert "front_door: h264 1600x1200, 25 frames/s" in ended.stdout
    assert "front_door: its smaller stream is h264 640x360" in ended.stdout
    said = variables_in((tmp_path / "secrets.env").read_text(encoding="utf-8"))
    assert set(said) == {"FRONT_DOOR_URL", "FRONT_DOOR_SMALL_URL"}
    assert all(url.startswith("rtsp://viewer:swordfish9@10.77.0.1:") for url in said.values())
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    assert '\nurl_env = "FRONT_DOOR_URL"' in text
    assert '\nlook_at_env = "FRONT_DOOR_SMALL_URL"' in text
    assert re.search(r'\nevents = "http://10\.77\.0\.1:\d+/onvif/device_service"', text)
    assert '\n# [record]\n# sources = ["front_door"]\n' in text


@pytest.mark.whole_run
def test_who_is_asked_takes_a_camera_that_was_found(
    tmp_path: Path, onvif_camera: list[str]
) -> None:
    person = Terminal(tmp_path, "init", before=onvif_camera)
    for asked, answer in (
        ("Look for ONVIF cameras on this network? [Y/n]: ", ""),
        ("User of the cameras (empty: none): ", "viewer"),
        ("Password: ", "swordfish9"),
        ("Add this camera? [Y/n]: ", ""),
        ("Camera (empty: no more cameras): ", ""),
        ("Look at the smaller stream, and record the larger one? [Y/n]: ", "y"),
    ):
        person.until(asked)
        person.types(answer)
    person.until("Next:    framegate run --env-file secrets.env -d data")
    assert person.ends() == 0
    said = variables_in((tmp_path / "secrets.env").read_text(encoding="utf-8"))
    assert "/main.mkv" in said["FRONT_DOOR_URL"]
    assert "/sub.mkv" in said["FRONT_DOOR_SMALL_URL"]
    text = (tmp_path / "pipeline.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["record"] == {"sources": ["front_door"]}


# -- The pure parts.


def test_the_pair_of_a_camera_has_one_lens() -> None:
    streams = [
        OnvifStream("rtsp://h/1", 2560, 1440, "left"),
        OnvifStream("rtsp://h/2", 1920, 1080, "left"),
        OnvifStream("rtsp://h/3", 640, 360, "left"),
        OnvifStream("rtsp://h/4", 352, 240, "left"),
        OnvifStream("rtsp://h/5", 704, 576, "right"),
        OnvifStream("rtsp://h/6", 0, 0, "left"),
    ]
    pair = chosen("h", "Door", streams)
    assert (pair.main, pair.small) == ("rtsp://h/1", "rtsp://h/3")
    assert chosen("h", "Door", streams[:2]).small == ""
    assert chosen("h", "Door", []).fault == "the camera has no stream"


@pytest.mark.parametrize(
    ("url", "user", "password", "made"),
    [
        ("rtsp://h/1", "u", "p@ss/'", "rtsp://u:p%40ss%2F%27@h/1"),
        ("rtsp://old:pass@h:554/1", "u", "p", "rtsp://u:p@h:554/1"),
        ("rtsp://old:pass@h/1", "", "", "rtsp://h/1"),
    ],
)
def test_another_login(url: str, user: str, password: str, made: str) -> None:
    assert with_login(url, user, password) == made


def test_names_of_what_is_found() -> None:
    assert free_name("Front Door", ()) == "front_door"
    assert free_name("Front Door", ("front_door", "front_door_2")) == "front_door_3"
    assert free_name("1080p!", ()) == "camera_1080p"
    assert free_name("入口", ()) == "camera"


def test_variables_of_one_name_and_quotes_in_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_URL", "another")
    secrets = Secrets(tmp_path / "secrets.env", {"A_URL_2": "one more"})
    quoted = 'rtsp://u:it\'s $HOME & "more"@h/1'
    text = written([Camera("a", quoted), Camera("b", "rtsp://h/2")], secrets)
    assert secrets.new == {"A_URL_3": quoted}
    assert 'url_env = "A_URL_3"' in text
    assert 'url = "rtsp://h/2"' in text
    secrets.write()
    plain = quoted.replace("'", "%27")
    assert variables_in(secrets.file.read_text(encoding="utf-8")) == {"A_URL_3": plain}
    shell = f'. "{secrets.file}" && printf %s "$A_URL_3"'
    assert (
        subprocess.run(["sh", "-c", shell], capture_output=True, text=True, encoding="utf-8").stdout
        == plain
    )


def test_a_file_of_variables() -> None:
    text = "# more\n\nA=1\n export B='x y'\nC=\"q\"\nD=a=b#c\nE=\n"
    assert variables_in(text) == {"A": "1", "B": "x y", "C": "q", "D": "a=b#c", "E": ""}
    with pytest.raises(ConfigFaults, match="line 2: must be NAME=VALUE") as refused:
        variables_in("A=1\nhunter2\n")
    assert "hunter2" not in str(refused.value)
