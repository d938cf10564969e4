"""Runs with lazy decoding: killed in the middle, with a promise, and a real camera over RTSP that
is woken.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.certificate import Certificate, verify
from tests.support.calm_rooms import write_room
from tests.support.cameras.background import Background
from tests.support.cameras.pictures import Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import LIVE, WatchedRun, url
from tests.support.runs import Run, published_in, said, wait_until

pytestmark = pytest.mark.whole_run

SECONDS = 60
MOVES = range(305, 330)
LARGE = (320, 240)
PERIOD, SHARE = 200, 0.04  # frames of a period of the promise, and the share that is audited
SECRET = bytes(32)
PROMISE = (
    '[escalate]\nplace = "local"\n'
    f'[promise]\nmeasure = "counts"\naudited = {SHARE}\nframes = {PERIOD}\nalpha = 0.5\n'
)


def kill_after(run: Run, frames: int, worker: str = "") -> None:
    """Kill a worker, or the whole run, once so many frames of the room are published."""

    def is_there() -> bool:
        try:
            return run.positions("room", ["cache"])["cache"].seq > frames
        except (FramegateError, KeyError):  # the store does not answer yet
            return False

    wait_until("frames are published", is_there)
    if worker:
        os.kill(run.worker(worker) or 0, signal.SIGKILL)
    else:
        run.kill()


def certificates_in(folder: Path) -> list[Certificate]:
    """Return the certificates of the room, oldest first."""
    paths = (folder / "certificates").glob("room-*.json")
    read = [
        msgspec.json.decode(path.read_bytes(), type=Certificate)
        for path in paths
        if not path.name.endswith(".declared.json")
    ]
    return sorted(read, key=lambda certificate: certificate.period)


def drawn_in(certificate: Certificate) -> list[int]:
    """Return the frames of a whole period that the coin draws, by their place in it."""
    key = coin.period_key(SECRET, "room", certificate.period)
    return [index for index in range(PERIOD) if coin.drawn(key, index, SHARE)]


def test_a_lazy_file_has_the_same_results_after_a_kill(tmp_path: Path) -> None:
    """A worker is killed, then the whole run, with the memory of the packets."""
    clip = write_room(tmp_path / "room.mp4", "h264", MOVES, SECONDS)
    common = f'[sources.room]\nurl = "{clip}"\ndecode = "lazy"\n[http]\nlisten = "off"\n{PROMISE}'
    found = {}
    # In three workers, batches of detect end within groups: 8 frames are 5 groups and a part.
    for name, more, killed in (
        ("whole", "[credit]\nfile = 4\n", ""),
        ("killed", "[credit]\nfile = 4\n", "shard-1"),
        ("apart", "[credit]\nfile = 16\n[workers]\nshards = 0\n", "infer"),
    ):
        config = tmp_path / f"{name}.toml"
        config.write_text(common + more, encoding="utf-8")
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lock").touch()  # so that the run takes the folder, and both have the same coin
        (folder / "promise.secret").write_bytes(SECRET)
        run = Run(folder, "-c", str(config))
        if killed:
            kill_after(run, 100, killed)
        if name == "killed":
            kill_after(run, 300)
            run = Run(folder, "--resume", "-c", str(config))
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
        found[name] = published_in(folder, ["room"])["room"]
    whole = found["whole"].results
    assert len(whole) == SECONDS * 10
    assert [r.seq for r in whole] == list(range(len(whole)))
    for name in ("killed", "apart"):
        results = found[name].results
        assert said(results) == said(whole)
        assert [r.reason for r in results] == [r.reason for r in whole]
    reasons = Counter(r.reason for r in whole)
    assert reasons["undecoded"] > len(whole) // 3
    for result in whole:
        if result.reason == "undecoded":
            assert (result.outcome, result.looked) == ("carried", "no")
            assert result.models
            assert result.age_s > 0
    assert all(r.reason != "undecoded" for r in whole[MOVES.start : MOVES.stop])
    # The certificates cover frames that were not decoded: these are drawn, and no audit is lost.
    certificates = certificates_in(tmp_path / "whole")
    assert certificates_in(tmp_path / "killed") == certificates
    n_periods = SECONDS * 10 // PERIOD
    assert [each.served for each in certificates[:n_periods]] == [PERIOD] * n_periods
    assert certificates[0].verdict == "certified"
    reasons = Counter()
    for number, certificate in enumerate(certificates[:n_periods]):
        assert verify(certificate) == []
        drawn = drawn_in(certificate)
        assert (certificate.drawn, certificate.lost) == (len(drawn), 0)
        reasons.update(whole[number * PERIOD + index].reason for index in drawn)
    assert reasons["undecoded"] > 0


TWO_STREAMS = """decode = "lazy"

[sources.gate]
url_env = "GATE"
look_at_env = "GATE_SMALL"

[record]
sources = ["gate"]
"""


def test_a_calm_camera_is_woken_by_a_request_for_its_picture_and_lives_through_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one with two streams, of which the calm small one is looked at."""
    background = Background()
    clips = Clips(tmp_path / "clips")
    large = clips.clip(size=LARGE, seconds=SECONDS)
    clip = write_room(clips.folder / "yard.mp4", "h264", seconds=SECONDS)
    kit = ToolkitCamera(background, clips.folder)
    monkeypatch.setenv("GATE", url(kit.port, kit.path(large.name)))
    monkeypatch.setenv("GATE_SMALL", url(kit.port, kit.path(clip.name)))
    place = url(kit.port, kit.path(clip.name))
    run = WatchedRun(tmp_path / "user", {"yard": place}, LIVE + TWO_STREAMS, also=["gate"])
    both = ("yard", "gate")
    try:
        for name in both:
            run.until("it is calm", lambda name=name: run.counters(name).get("undecoded", 0))

        calm = -1

        def is_woken() -> bool:
            """Ask once in each calm: requests keep a source awake that woke for another reason."""
            nonlocal calm
            counters = run.counters("yard")
            if counters["undecoded"] > calm:
                calm = counters["undecoded"]
                assert run.page("/snapshot/yard.jpg").status_code == 200
            return "lazy:woken:asked" in counters

        run.until("it wakes", is_woken)
        run.until_published("yard", len(run.results("yard")) + 10)
        before = {name: run.counters(name)["undecoded"] for name in both}
        os.kill(run.worker("shard-1"), signal.SIGKILL)
        for name, n in before.items():
            more = lambda name=name, n=n: run.counters(name)["undecoded"] > n  # noqa: E731
            run.until("it is calm again", more)
            run.check_positions(name)
        counters = run.counters("yard")
        results = run.results("gate")
        code = run.finish()  # it checks the accounts
    finally:
        run.close()
        kit.close()
        background.close()
    assert code == 0
    assert counters["published"] > counters["undecoded"] > 0
    assert counters["connects"] == 2
    for result in results:
        assert (result["width"], result["height"]) == LARGE
        assert tuple(result["looked_at"]) == (128, 96)
        assert result["outcome"] != "failed"
