"""`framegate check` finds what would stop a run, and changes nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from framegate.cli import doctor
from framegate.cli.main import main
from framegate.cli.setup import check as checking
from framegate.cli.setup import measured_rates
from framegate.cli.setup.capacity import Capacity, Heavy, MadeFrame
from framegate.cli.setup.check import check
from framegate.cli.setup.measured_rates import promise_costs
from framegate.cli.setup.probes import event_remarks, pair_doubts, request_of
from framegate.cli.setup.report import Report
from framegate.pipeline.config.by_source import PrivacyConfig, RecordConfig
from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.contracts.errors import Exit, FrameStoreFull
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import Asking, NoState, Stage
from framegate.pipeline.heavy import queue
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.run.source_forms import run_source, source_spec
from framegate.pipeline.shared_memory.frame_store import frame_store_bytes
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.stages.decode.file import Probe
from tests.support.cameras.onvif_events import EventService
from tests.support.footage import Track, steady, write_scene, write_sounding
from tests.support.servers import server
from tests.support.user_stages import Sized


class Refusing(Stage[NoState]):
    """Raises when it is opened."""

    Options = Sized.Options

    def __init__(self, *_: object) -> None:
        raise OSError("its file is not there")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:  # noqa: ARG001
    """Measure briefly, in a folder for temporary files that must be empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:  # short: sockets lie in it
        monkeypatch.setattr(measured_rates, "MEASURE_S", 0.05)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        monkeypatch.undo()
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "clip.mp4", steady(30), (64, 48))


CROWD = '[stages.detect]\nuse = "tests.support.user_stages:Crowd"\n'
"""A stage in detect's place: no network is compiled where a test is about something else."""


def configured(
    clip: Path, store: str = "embedded", text: str = CROWD, **stages: dict[str, object]
) -> Config:
    changes = {
        "sources": {"door": {"url": str(clip)}},
        "store": {"url": store},
        "stages": stages,
    }
    return read_config("pipeline.toml", text, changes)


def test_a_sound_configuration(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two files, which are measured to their ends. A red box moves, which is no object."""
    monkeypatch.setattr(measured_rates, "MEASURE_S", 60.0)
    road = write_scene(clip.with_name("road.mp4"), steady(60), (320, 240))
    assert main(["check", f"door={clip}", f"road={road}"]) == Exit.DONE
    said = capsys.readouterr().out
    for part in ("└─ detect", "door: mpeg4 64x48, 25 frames/s, 30 frames", "starts and answers",
                 "nanodet-plus-416", "decode ", "detect ", "all is well",
                 "64x48: 10 to 24 of 255 grey levels"):  # fmt: skip
        assert part in said
    advices = [line for line in said.splitlines() if line.startswith("detector ")]
    assert len(advices) == 1, said
    assert "road: changes in " in advices[0]
    assert "% of 60 frames, but 100% of the looks at them found nothing" in advices[0]
    assert "\npromise " not in said


def test_masks_are_told_and_those_of_no_source(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    door = replace(configured(clip, text=""), privacy=PrivacyConfig({
        "door": [[[0, 0], [0.5, 0], [0.5, 1]]], "dor": [[[0, 0], [0.5, 0], [0.5, 1]]]
    }))  # fmt: skip
    quiet = {"door": [[[0, 0], [9, 0], [9, 9]], [[0, 0], [0.5, 0], [0.5, 1]]]}
    stages = [
        replace(one, options={**one.options, "gate": {"masks": quiet}}) if one.uses_models else one
        for one in door.stages
    ]
    assert check(replace(door, stages=tuple(stages))) is Exit.DONE
    said = capsys.readouterr().out
    for part in ("masks              door: 1 area is blackened before any stage reads the picture",
                 "door: 2 areas are ignored: changes there are no reason to look",
                 "pixels of the picture, 64x48",
                 "privacy.masks: 'dor' is no source of this run yet; did you mean door?",
    ):  # fmt: skip
        assert part in said


def test_files_are_not_recorded_as_cameras_are_and_that_is_said(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = 'record.sources = true: all cameras, and there is none; ["door"] records files'
    for sources, told in ((True, True), (("door",), False)):
        check(replace(configured(clip), record=RecordConfig(sources)))
        assert (said in " ".join(capsys.readouterr().out.split())) is told


@pytest.mark.parametrize(("sources", "is_doubted"), [("", True), ("sources = true\n", False)])
def test_limits_of_recordings_without_recordings_are_doubted(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sources: str,
    is_doubted: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.toml").write_text(f"[record]\n{sources}days = 3.0\n", encoding="utf-8")
    main(["check", str(clip)])
    told = " ".join(capsys.readouterr().out.split())
    assert ("record.days: nothing is recorded; sources = true" in told) is is_doubted


def test_labels_of_rules_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = '[events.rules.near]\nwhen = "near"\ncloser = 1\nlabels = ["persn"]\n'
    heard = '[events.rules.glass]\nwhen = "state"\nstate = "heard"\nlabels = ["Glas"]\n'
    (tmp_path / "pipeline.toml").write_text(
        f"[sound]\nsources = true\n{rule}{heard}", encoding="utf-8"
    )
    assert main(["check"]) == Exit.USAGE
    said = " ".join(capsys.readouterr().out.split())
    assert "FAULT: events.rules.near.labels: 'persn' is not detected" in said
    assert "did you mean person?" in said
    assert "FAULT: events.rules.glass.labels: 'Glas' is not reported" in said
    assert "did you mean Glass?" in said


def test_without_a_source_a_made_picture_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == Exit.DONE
    said = capsys.readouterr().out
    assert "a generated picture of 1280x720: detect" in said
    assert "1280x720: 10 to 24 of 255 grey levels" in said
    [speed] = re.findall(r"detect (\d+) frames/s", said)
    assert int(speed) < 1000, said  # a look takes milliseconds


def test_a_made_picture_is_another_one_each_time() -> None:
    """Else the gate has nothing to look at, and a hundred cameras seem to fit."""
    pictures = written(MadeFrame(Form(64, 48, "bt709")))
    assert len({*pictures}) == 3
    assert len({tuple(sorted(one)) for one in pictures}) == 1


def test_a_still_picture_is_the_same_each_time() -> None:
    """Else `init` takes cameras in front of which nothing moves for busy ones."""
    assert len({*written(MadeFrame(Form(64, 48, "bt709"), still=True))}) == 1


def written(frame: MadeFrame) -> list[bytes]:
    """Write the picture three times."""
    pictures = []
    for _ in range(3):
        slot = bytearray(frame.nbytes)
        frame.write(memoryview(slot))
        pictures.append(bytes(slot))
    return pictures


def test_all_faults_are_told_at_once(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video", encoding="utf-8")
    words = [f"door={clip}", f"notes={text}", f"gone={tmp_path / 'gone.mp4'}"]
    absent = f"unix://{tmp_path}/absent.sock"
    assert main(["check", *words, "--store", absent]) == Exit.STORE
    said = capsys.readouterr().out
    for part in ("FAULT: notes: ", "FAULT: gone: ", "cannot be reached", "3 faults", "door: mpeg4"):
        assert part in said


def test_a_source_that_is_not_there_is_exit_1(tmp_path: Path) -> None:
    assert main(["check", str(tmp_path / "gone.mp4")]) == Exit.SOURCE_FAILED


def test_a_given_store_is_only_asked(clip: Path, tmp_path: Path) -> None:
    with server(tmp_path / "store") as store, client_of(store) as client:
        assert check(configured(clip, store.url)) == Exit.DONE
        assert client.dbsize() == 0
        assert client.function_list() == []


def test_an_evicting_store_is_a_fault(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path / "store") as store, client_of(store) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert check(configured(clip, store.url)) == Exit.STORE
    assert "allowed is noeviction" in capsys.readouterr().out


def test_a_source_of_another_run_is_a_fault(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path / "store") as store, client_of(store) as client:
        client.hset("fg:{door}:own", mapping={"run": "r1", "epoch": 1})
        client.hset("fg:sources", "door", "r1 (host gate)")
        assert check(configured(clip, store.url)) == Exit.USAGE
    assert "source door is owned by run r1 (host gate)" in capsys.readouterr().out


def test_no_password_is_shown(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_STORE", "redis://user:planted@127.0.0.1:1/0")
    changes = {
        "sources": {"door": {"url": str(clip)}},
        "store": {"url_env": "SECRET_STORE"},
    }
    assert check(read_config("pipeline.toml", CROWD, changes)) == Exit.STORE
    shown = capsys.readouterr()
    assert "127.0.0.1" in shown.out
    assert "planted" not in shown.out + shown.err


def test_no_part_of_a_password_in_a_url_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET_STORE", "redis://user:pla#nted@127.0.0.1:1/0")
    assert main(["check", "--store", "env:SECRET_STORE"]) == Exit.USAGE
    shown = capsys.readouterr()
    assert "store.url_env = 'SECRET_STORE': it is not the URL of a Redis" in shown.err
    assert "pla" not in shown.out + shown.err


def test_a_stage_that_does_not_open_is_a_fault(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use = f"{__name__}:Refusing"
    refusing = {"use": use, "input": "decode"}
    config = configured(clip, refusing=refusing, detect={"input": "refusing"})
    assert check(config) == Exit.USAGE
    assert "FAULT: OSError: its file is not there" in capsys.readouterr().out


@pytest.mark.parametrize("has_own_redis", [False, True])
def test_that_nobody_would_answer_is_a_warning(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    has_own_redis: bool,
) -> None:
    monkeypatch.setattr(queue, "ANSWER_S", 1.0)  # for whom it waits at last: it never answers
    sources = {"sources": {"door": {"url": str(clip)}}}
    with server(tmp_path / "store") as store, client_of(store) as client:
        escalate = {"place": "workers"} | ({"url": store.url} if has_own_redis else {})
        config = read_config("pipeline.toml", CROWD, {**sources, "escalate": escalate})
        assert check(config) == Exit.DONE
        said = capsys.readouterr().out
        start = f"--redis {store.url}" if has_own_redis else "-d DATA"
        assert "WARNING: escalate: nothing answers its questions: no heavy worker is at" in said
        assert f"framegate worker --heavy {start}" in said
        assert said.rstrip().endswith("1 warning: see WARNING above")
        if has_own_redis:
            client.set("fg:heavy:alive", "somebody")
            assert check(config) == Exit.DONE
            assert "all is well" in capsys.readouterr().out


def test_the_heavy_pass_counts_in_what_fits(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a place that answers and a promise: what it costs is measured, and models are named."""
    origin, text = find_config(None)
    changes = {
        "sources": {"door": {"url": str(clip)}},
        "escalate": {"place": "local"},
        "promise": {"measure": "counts", "frames": 36_000},
    }
    assert check(read_config(origin, text, changes)) == Exit.DONE
    said = capsys.readouterr().out
    assert "models: none" not in said
    found = re.search(r"heavy pass ([\d.]+) looks/s \(asked at most 2 times a second and so", said)
    assert found, said
    assert "4 of all cameras, and 0.0" in said


def test_what_a_promise_would_cost_is_told_where_none_is_made(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"door={clip}", "--promise"]) == Exit.DONE
    said = capsys.readouterr().out
    assert re.search(
        r"\npromise +door: a period is \d+ frames, .* at 25 frames/s; \d+ of them are audited "
        r"\([\d.]+%\), and the heavy model is asked about at most \d+\n"
        r" +door: audits take [\d.]+% of this machine's CPU, and questions up to \d+%, at "
        r"[\d.]+ s a heavy pass; up to [\d.]+ frames/s of one such source remain\n",
        said,
    ), said


def test_what_a_promise_costs() -> None:
    """2 cores, .3 s of one a heavy pass, 10 frames/s: 1 % audits .1 a second, 2 questions."""
    heavy = Heavy(0.3, 0.3, 1, Asking(2.0, 4.0, 0.01))
    capacity = Capacity(100, {"detect": 0.1}, 1.0, heavy)
    promise = Promise(frames=36_000, audited=0.01)
    told = promise_costs("door", promise, capacity, 10.0, {"infer": ["detect"]}, 2)
    assert told == [
        "door: a period is 36000 frames, 60 min at 10 frames/s; 360 of them are audited (1.00%), "
        "and the heavy model is asked about at most 7200",
        "door: audits take 1.5% of this machine's CPU, and questions up to 30%, at 0.3 s a heavy "
        "pass; up to 76.9 frames/s of one such source remain",
    ]
    slow = replace(capacity, heavy=replace(heavy, look_s=0.5))
    assert promise_costs("door", promise, slow, 10.0, {"infer": ["detect"]}, 2)[-1].endswith(
        "counts as wrong: set [escalate] per_s to 1.5 or less"
    )
    nobody = Capacity(100, {"detect": 0.1}, 1.0)
    assert promise_costs("door", promise, nobody, 10.0, {"infer": ["detect"]}, 2) == []


def test_looks_of_the_heavy_pass_take_room_from_frames() -> None:
    """One core; a frame costs 10 ms of it, a look 300 ms: at 10 frames/s, 2 looks a second."""
    measured = {"window": 0.1, "detect": 0.1, "cache": 0.1}
    workers = {"infer": ["window", "detect"], "publish": ["cache"]}

    def fit(per_s: float, all_per_s: float, share: float, cores: int = 1) -> float:
        heavy = Heavy(0.3, 0.3, 1, Asking(per_s, all_per_s, share))
        capacity = Capacity(frames=100, stage_s=measured, cpu_s=1.0, heavy=heavy)
        return capacity.live_sources(10.0, workers, cores)

    assert fit(0, 0, 0) == pytest.approx(0.8 / 0.1)
    assert fit(2, 100, 0) == pytest.approx(0.8 / 0.7)
    assert fit(2, 1, 0) == pytest.approx((0.8 - 0.3) / 0.1)  # all cameras share one look a second
    assert fit(0, 0, 0.1) == pytest.approx(0.8 / 0.4)
    assert fit(2, 100, 0, cores=8) == pytest.approx(0.8 / 0.6)  # one lane looks


def test_only_frames_that_are_wanted_count(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for frames, fps in (({"max_fps": 5}, "at 5 frames/s"), ({"every": 2}, "at 12.5 frames/s")):
        sources = {"door": {"url": str(clip), "frames": frames}}
        config = read_config("pipeline.toml", CROWD, {"sources": sources})
        assert check(config) == Exit.DONE
        said = capsys.readouterr().out
        assert fps in said or fps.replace("at", "with") in said, said


def test_a_camera_needs_as_much_shared_memory_as_the_run_takes() -> None:
    """Sixteen cameras of 1080p: 4 frames of credit each and one that HTTP keeps, not 32."""
    origin, text = find_config(None)
    sources = {f"cam{n}": {"url": f"rtsp://cam/{n}"} for n in range(16)}
    config = read_config(origin, text, {"sources": sources})
    probe = Probe("h264", 1920, 1080, 25.0, None, None, "yuv420p", 0, live=True)
    said = checking._shared_memory(config, dict.fromkeys(sources, probe))
    source = run_source("cam0", config.sources["cam0"], "config")
    taken = source_spec(config, None, source).slots
    needed = 16 * frame_store_bytes(taken, 1920 * 1080 * 3 // 2)
    assert f"{needed / 2**20:.1f} MiB needed" in said
    assert doctor.needed(config) == needed


PAIR = '[sources.door]\nurl = "rtsp://cam/1"\nlook_at = "rtsp://cam/2"\n'
FULL_HD = Probe("h264", 1920, 1080, 15.0, None, None, "yuv420p", 0, True, ("aac", 16_000, 1))
HALF_HD = Probe("h264", 640, 360, 15.0, None, None, "yuv420p", 0, live=True)


@pytest.mark.parametrize(
    ("more", "large", "small", "doubts"),
    [
        ("[record]\nsources = true\n", FULL_HD, HALF_HD, []),
        ("", FULL_HD, HALF_HD, ["the stream of url is read for nothing"]),
        ("[record]\nsources = true\n", HALF_HD, FULL_HD, ["look_at is the larger stream"]),
        (
            "[record]\nsources = true\n",
            FULL_HD,
            replace(HALF_HD, width=704, height=576),
            ["the streams have different aspect ratios, 1920x1080 and 704x576"],
        ),
        (
            "[record]\nsources = true\n[sound]\nsources = true\n",
            FULL_HD,
            HALF_HD,
            ["only the stream of url has sound"],
        ),
    ],
)
def test_what_may_be_wrong_with_two_streams(
    more: str, large: Probe, small: Probe, doubts: list[str]
) -> None:
    config = read_config("pipeline.toml", PAIR + more)
    found = [*pair_doubts(config, "door", large, small)]
    assert len(found) == len(doubts)
    for text, begin in zip(found, doubts, strict=True):
        assert text.startswith(begin)


def test_too_little_shared_memory_is_a_fault(clip: Path) -> None:
    wide = Probe("ffv1", 10**6, 10**6, 25.0, None, None, "yuv420p", 0, live=False)
    with pytest.raises(FrameStoreFull, match="needed: enlarge it"):
        checking._shared_memory(configured(clip), {"wide": wide})


def test_the_worst_exit_code_wins(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    for error in (FrameStoreFull("first"), RuntimeError("second")):
        with report.watching("part", "door: "):
            raise error
    assert report.exit == Exit.USAGE
    assert capsys.readouterr().out.splitlines() == [
        "part               FAULT: door: first",
        "                   FAULT: door: RuntimeError: second",
    ]


@pytest.mark.parametrize(
    ("cpu_s", "cores", "sources"),
    [
        (2.0, 4, 3.2),  # bound by its busiest worker: 100 frames/s, four fifths of it, at 25
        (2.0, 1, 1.6),  # bound by its cores: 50 frames/s of one
    ],
)
def test_how_many_sources_fit(cpu_s: float, cores: int, sources: float) -> None:
    measured = {"decode": 9.0, "window": 0.1, "detect": 0.9, "cache": 0.1}
    capacity = Capacity(frames=100, stage_s=measured, cpu_s=cpu_s)
    workers = {"ingest": ["decode"], "infer": ["window", "detect"], "publish": ["cache"]}
    assert capacity.live_sources(25.0, workers, cores) == pytest.approx(sources)


def test_shards_hold_more_sources_and_no_faster_one() -> None:
    """A frame takes 10 ms in a worker: two hold 160 frames a second, and 80 of one source."""
    capacity = Capacity(frames=100, stage_s={"detect": 0.8, "cache": 0.2}, cpu_s=0.1)
    shards = {"shard-1": ["detect", "cache"], "shard-2": ["detect", "cache"]}
    assert capacity.live_sources(10.0, shards, 4) == pytest.approx(16)
    assert capacity.live_sources(160.0, shards, 4) == pytest.approx(0.5)
    assert capacity.most_fps(shards, 4) == pytest.approx(80)


def client_of(store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(store.url)


def test_a_video_that_would_be_written_over_something_is_a_fault(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(configured(clip), clip.parent) == Exit.DONE
    there = clip.parent / "door.framegate.mp4"
    assert f"--save             {there}" in capsys.readouterr().out
    there.hardlink_to(clip)
    assert check(configured(clip), clip.parent, overwrite=True) == Exit.USAGE
    assert "FAULT: --save: " in capsys.readouterr().out


def test_a_source_that_is_to_be_heard_and_has_no_sound_is_told(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounding = write_sounding(tmp_path / "a.mkv", Track("aac", 44100, (440.0, 440.0), seconds=1.0))
    text = f"[sources]\ngate.url = {str(sounding)!r}\ndoor.url = {str(clip)!r}\n{CROWD}"
    for named, warns in (("true", False), ('["gate"]', False), ('["gate", "door"]', True)):
        config = read_config("it", f"{text}[sound]\nsources = {named}\n")
        assert check(config) == Exit.DONE
        said = capsys.readouterr().out
        assert "gate: mpeg4 96x64, 25 frames/s" in said
        assert "sound aac 44100 Hz stereo" in said
        assert said.split("└─ ")[-1].split()[:3] == ["sound", "in", "shard"]
        assert ("door: sound.sources names it, but it has no sound track" in said) is warns
    config = read_config("it", f'{text}[sound]\nsources = true\nlabels = ["Glas"]\n')
    assert check(config) == Exit.USAGE
    assert "'Glas': there is no such label; did you mean Glass?" in capsys.readouterr().out


CAMERA_RULE = """
[sources.yard]
url = "rtsp://viewer:{password}@127.0.0.1/stream"
events = "{service}"
[events.rules.camera]
when = "state"
state = "reported"
labels = ["person", "tamper"]
"""


@pytest.mark.parametrize(
    ("password", "remarks"),
    [
        (
            "sword9fish",
            [
                "events of the camera: motion (RuleEngine/CellMotionDetector/Motion), "
                "person (RuleEngine/CellMotionDetector/People), line (RuleEngine/LineDetector/"
                "Crossed); topics that do not count: 1",
                "events.rules.camera: the camera offers no topic for tamper",
            ],
        ),
        (
            "wrong9sword",
            [
                "events: the camera refuses the login of the stream. Add this user to its ONVIF "
                "users"
            ],
        ),
    ],
)
def test_the_events_that_a_camera_offers(password: str, remarks: list[str]) -> None:
    with closing(EventService("viewer", "sword9fish")) as service:
        text = CAMERA_RULE.format(password=password, service=service.url)
        config = read_config("it", text)
        request = request_of(config, "yard", config.sources["yard"])
        found = list(event_remarks(config, "yard", request))
    assert [remark.text for remark in found] == remarks
    [remark] = event_remarks(config, "yard", request)  # the service is closed
    assert remark.is_doubt
    assert "does not answer" in remark.text
    assert "has another port, set events to its URL" in remark.text


def test_files_of_the_http_port_are_checked(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = tmp_path / "accounts.toml"
    digest = "0" * 64
    accounts.write_text(
        f'[wall]\nrole = "viewer"\nsources = ["dor"]\ntoken = "{digest}"\n', encoding="utf-8"
    )
    missing = tmp_path / "missing.pem"
    http = f'[http]\naccounts_file = "{accounts}"\n'
    assert check(configured(clip, text=CROWD + http)) is Exit.DONE
    said = capsys.readouterr().out
    assert f"{accounts}: accounts wall" in said
    assert "WARNING: account wall: there is no source dor; did you mean door?" in said
    with_tls = f'{CROWD}{http}tls_certificate = "{missing}"\n'
    assert check(configured(clip, text=with_tls)) is Exit.USAGE
    fault = f"http.tls_certificate = '{missing}': No such file or directory"
    assert fault in capsys.readouterr().out
