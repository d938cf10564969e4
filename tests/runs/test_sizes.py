"""Picture sizes that a source once had, and sources that ended, cost nothing and nobody else."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.store.admin import StoreAdmin
from tests.runs.test_epochs import CONFIG, STAGES, USUAL, check_epochs
from tests.support.cameras.hostile import HostileCamera
from tests.support.footage import steady, write_scene, write_sizes
from tests.support.runs import DEADLINE_S, Run, environment, published_in, wait_until

pytestmark = pytest.mark.whole_run

DESCRIPTORS = 150  # of each process; a run of two sources needs some 40
AT_ONCE = '[store]\nfsync = "always"\n'  # an epoch is on the disk at once, not after a second


def configured(folder: Path, detect: str = "Null", more: str = "") -> Path:
    """A graph with a stage in detect's place that reads the pixels, and is quick."""
    folder.mkdir(exist_ok=True)
    (folder / "stages_of_mine.py").write_text(STAGES, encoding="utf-8")
    config = folder / "pipeline.toml"
    config.write_text(
        more + CONFIG.format(placement=USUAL, detect=detect, hung_s=30), encoding="utf-8"
    )
    return config


def descriptors(pid: int | None) -> int:
    return len(os.listdir(f"/proc/{pid}/fd")) if pid else 0


def test_a_camera_whose_size_changes_all_the_time_costs_only_itself(tmp_path: Path) -> None:
    """Few descriptors, and a sound file beside it; it is lost for it, tried again, lost again."""
    config = configured(tmp_path / "run", more=AT_ONCE + "[live]\nretry_most_s = 0.1\n")
    sound = write_scene(tmp_path / "sound.mkv", steady(200))
    folder = tmp_path / "run" / "data"
    with HostileCamera("changing_sizes") as camera:
        words = (f"bad={camera.url}", f"good={sound}", "-c", str(config), "--http", "off")
        run = Run(folder, *words, "--pace", "realtime", cwd=tmp_path / "run")
        limit = (DESCRIPTORS, DESCRIPTORS)
        resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, limit)
        try:
            store = StoreAdmin(run.url)

            def lost_twice() -> bool:
                assert run.process.poll() is None, run.log.read_text(encoding="utf-8")
                return store.counters("bad").get("lost:sizes", 0) >= 2

            wait_until("the camera is lost twice", lost_twice)
            # Of each connection, a busy machine may drop all frames but the newest.
            wait_until("frames of it", lambda: store.counters("bad").get("published", 0) > 30)
            held = {name: descriptors(run.worker(name)) for name in ("ingest", "infer", "publish")}
            held["supervisor"] = descriptors(run.process.pid)
            assert max(held.values()) < 60, held
            assert len(list((folder / "state").glob("*"))) <= 4
            wait_until("the file is done", lambda: store.counters("good").get("published") == 200)
            store.close()
            run.process.send_signal(signal.SIGINT)
            assert run.wait() == 0, run.log.read_text(encoding="utf-8")
        finally:
            run.kill()
    assert "more than 30 times in 60 s" in run.log.read_text(encoding="utf-8")
    found = published_in(folder, ["bad", "good"])
    assert [at.seq for at in found["good"].positions] == list(range(200))
    assert {result.outcome for result in found["good"].results} == {"detected"}
    assert {result.outcome for result in found["bad"].results} == {"detected"}


def test_sizes_of_one_file_leave_its_neighbour_the_memory_for_its_next_size(
    tmp_path: Path,
) -> None:
    """In a /dev/shm that two sizes of each file fit into, but not three."""
    config = configured(tmp_path / "run", more=AT_ONCE)
    many = [(320 + 2 * n, 240) for n in range(20)]
    write_sizes(tmp_path / "many.mkv", many, 2, codec="mjpeg")
    write_sizes(tmp_path / "late.mkv", [(96, 64), (320, 240)], 60, codec="mjpeg")
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces of one's own here")
    folder = tmp_path / "run" / "data"
    command = (
        sys.executable,
        "-m",
        "framegate.cli",
        "run",
        "-d",
        str(folder),
        "--http",
        "off",
    )
    words = (*command, "-c", str(config), f"many={tmp_path / 'many.mkv'}")
    small = 'mount -t tmpfs -o size=18m none /dev/shm && exec "$@"'
    ended = subprocess.run(
        [*own, small, "sh", *words, f"late={tmp_path / 'late.mkv'}"],
        cwd=tmp_path / "run",
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        encoding="utf-8",
    )
    assert ended.returncode == 0, ended.stderr
    found = published_in(folder, ["many", "late"])
    assert [(r.width, r.height) for r in found["many"].results] == [s for s in many for _ in "12"]
    assert [r.seq for r in found["late"].results] == [*range(60), *range(60)]
    for source in found.values():
        assert {result.outcome for result in source.results} == {"detected"}


@pytest.mark.parametrize(
    "all_decoded",
    [pytest.param(False, marks=pytest.mark.long), True],
    ids=["decoding", "all decoded"],
)
def test_what_went_is_there_again_when_the_store_is_set_back(
    tmp_path: Path, all_decoded: bool
) -> None:
    """The server comes back as it was when frames of the second size were on their way, long after
    the file has ended and its memory went.
    """
    config = configured(tmp_path / "run", detect="Slow", more=AT_ONCE)
    sizes = [(160, 120), (96, 96), (128, 96)]
    source = write_sizes(tmp_path / "sizes.mkv", sizes, 40, codec="mjpeg")
    folder = tmp_path / "run" / "data"
    words = (f"clip={source}", "off=rtsp://127.0.0.1:9/none", "-c", str(config), "--http", "off")
    run = Run(folder, *words, cwd=tmp_path / "run")
    log = folder / "store" / "appendonlydir"
    try:

        def there() -> bool:
            at = run.positions("clip", ["decode", "cache"])
            if all_decoded:
                return at["decode"].epoch == 3 and at["decode"].seq == 40
            return at["cache"] >= Position(2, 8)

        wait_until("frames are on their way", there)
        shutil.copytree(log, tmp_path / "as it was")
        last = Position(3, 40)
        wait_until("the file is done", lambda: run.positions("clip", ["cache"])["cache"] == last)
        wait_until("it keeps no state", lambda: not list((folder / "state").glob("clip.*")))
        valkey = run.valkey()
        assert valkey is not None
        run.process.send_signal(signal.SIGSTOP)  # who would start another at once
        os.kill(valkey, signal.SIGKILL)
        shutil.rmtree(log)
        shutil.copytree(tmp_path / "as it was", log)
        run.process.send_signal(signal.SIGCONT)
        wait_until("the store is back", lambda: run.positions("clip", ["cache"])["cache"])
        wait_until("all is done anew", lambda: done_anew(run))
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    finally:
        run.kill()
    check_epochs(folder, source)


def done_anew(run: Run) -> bool:
    """Whether all stages stand at the end that decode has come to."""
    at = run.positions("clip", ["decode", "cache"])
    return at["decode"].epoch >= 3 and at["decode"].seq == 40 and at["cache"] == at["decode"]
