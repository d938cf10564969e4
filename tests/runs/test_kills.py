"""Laws 1-4, 6 and 10 under kill: whatever dies, every frame is published once, in order, equal.

Two files run at once while workers, the store or the supervisor are killed; the published streams
are then compared with an undisturbed run's and with a bare PyAV loop's frame count.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import pytest

from framegate.pipeline.contracts.records import START, Position
from tests.support.footage import bikes, opening, repeat
from tests.support.own_models import own_model
from tests.support.runs import DEADLINE_S, Published, Run, children, published_in, said, wait_until

pytestmark = pytest.mark.whole_run

KINDS = ("ingest", "infer", "publish")
SHARDS = ("shard-1", "shard-2")
FIRST = {"ingest": "decode", "infer": "detect", "publish": "escalate"}
FIRST |= dict.fromkeys(SHARDS, "decode")
BEFORE = {"infer": "decode", "publish": "detect"}


class Files(dict[str, str]):
    """Sources by name, and a registry with the model of the second one."""

    def __init__(self, sources: dict[str, str], registry: Path) -> None:
        super().__init__(sources)
        self.registry = registry


@pytest.fixture(scope="module")
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Two clips; with a parameter only so many frames of each."""
    registry = tmp_path_factory.mktemp("own") / "registry"
    own_model(registry)
    sources = clips(tmp_path_factory)
    if packets := getattr(request, "param", None):
        folder = tmp_path_factory.mktemp("short")
        for name, path in sources.items():
            sources[name] = str(opening(Path(path), folder / Path(path).name, packets))
    return Files(sources, registry)


# Two periods of the promise. The long tests take all frames.
briefly = pytest.mark.parametrize("files", [160], indirect=True, ids=["160 frames"])


def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two sources with at least 600 frames in all."""
    data = os.environ.get("FRAMEGATE_DATA")
    if data:
        clips = Path(data) / "clips"
        return {
            "car": str(clips / "car-detection.mp4"),
            "road": str(clips / "highway-cdnet-part1.avi"),
        }
    folder = tmp_path_factory.mktemp("files")
    repeat(bikes(), folder / "often.mp4", 5)
    return {"often": str(folder / "often.mp4"), "once": str(bikes())}


@pytest.fixture(scope="module")
def undisturbed(files: Files, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    folder = with_secret(tmp_path_factory.mktemp("undisturbed") / "data")
    run = Run(folder, *all_on(folder.parent, files), *named(files))
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    found = published_in(folder, list(files))
    results = [result for source in found.values() for result in source.results]
    assert {result.looked for result in results} >= {"whole", "no"}
    light, own = (found[name].results for name in files)
    assert all(result.models[0].startswith("nanodet-") for result in light)
    assert all(result.models[0].startswith("mine-416") for result in own)
    assert {result.escalation for result in results} >= {"none", "done"}
    assert sum(len(p.results) for p in found.values()) == sum(map(frames_of, files.values())) >= 320
    assert sum(len(r.objects) for p in found.values() for r in p.results) >= 200
    for one in found.values():  # each track is counted once, the last at the end
        tracks = {each.track for r in one.results for each in r.objects if each.track}
        assert sum(one.objects.values()) == len(tracks) > 0
    return found


def all_on(folder: Path, files: Files) -> list[str]:
    """A configuration with all that stages can remember: what heavy answers
    taught, and the promise, of short periods; and two models, the second source's a user's own.
    """
    config = folder / "all.toml"
    text = (
        importlib.resources.files("framegate.pipeline.config")
        .joinpath("pipeline.toml")
        .read_text(encoding="utf-8")
    )
    for off, on in (
        ("\n#shards = 2\n", "\nshards = 0\n"),
        ('\nplace = "off"\n', '\nplace = "local"\n'),
        ("\ndoubt = 0.1\n", "\ndoubt = 0.4\n"),
        ("\nper_s = 2.0\n", "\nper_s = 0.3\n"),
        ('\nmeasure = "off"\n', '\nmeasure = "counts"\naudited = 0.03\n'),
        ("\nframes = 36000\n", "\nframes = 80\n"),
        ("\nalpha = 0.05\n", "\nalpha = 0.5\n"),  # no alarm: to ask about all takes minutes
        ('\ndetector = "light"\n', '\ndetector = "light"\nclasses = "all"\n'),  # as the user's own
    ):
        assert off in text
        text = text.replace(off, on)
    registry = f'[models]\nregistry = "{files.registry}"\n'
    text = text.replace("\n[models]\n", f"\n{registry}", 1)
    config.write_text(
        f'{text}\n[models.sources.{list(files)[1]}]\nmodel = "mine"\n', encoding="utf-8"
    )
    return ["-c", str(config)]


def with_secret(folder: Path) -> Path:
    """A data folder with the same coins as all others here."""
    folder.mkdir()
    (folder / "lock").touch()  # a folder without one that holds what a run makes is not ours
    (folder / "promise.secret").write_bytes(bytes(32))
    return folder


def named(files: Files) -> list[str]:
    return [f"{name}={path}" for name, path in files.items()]


def frames_of(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def check_equal(folder: Path, files: Files, undisturbed: dict[str, Published]) -> None:
    found = published_in(folder, list(files))
    for name, path in files.items():
        got, wanted = found[name], undisturbed[name]
        epoch = got.positions[0].epoch  # a kill between asking for one and using it skips it
        assert got.positions == [Position(epoch, seq) for seq in range(frames_of(path))]
        assert said(got.results) == said(wanted.results)
        assert (got.ended, got.objects) == (True, wanted.objects)


@pytest.fixture
def started(tmp_path: Path, files: Files) -> Iterator[Run]:
    run = Run(with_secret(tmp_path / "data"), *all_on(tmp_path, files), *named(files))
    yield run
    run.kill()


class Killer:
    """Kills workers of a run while they have work, and only after they got on with all of it since
    last time: who dies three times over one frame is taken to be killed by it.
    """

    def __init__(self, run: Run, sources: Sequence[str]) -> None:
        self.run, self.sources = run, list(sources)
        self.kills = dict.fromkeys((*KINDS, *SHARDS, "valkey"), 0)
        self._seen: dict[str, dict[str, Position]] = {}

    def finished(self) -> bool:
        return self.run.process.poll() is not None

    def kill(self, kind: str) -> bool:
        """Kill one worker of this kind; False if the run ended before it had work."""
        pid = wait_until(f"{kind} has work", lambda: self.finished() or self._busy(kind))
        if pid is True:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it was the last of its work, and the run ended
            return False
        self.kills[kind] += 1
        return True

    def _busy(self, kind: str) -> int | None:
        pid = self.run.worker(kind)
        if pid is None:
            return None
        stage, before = FIRST[kind], BEFORE.get(kind, "decode")
        seen = self._seen.get(kind, dict.fromkeys(self.sources, START))
        at = {source: self.run.positions(source, [stage, before]) for source in self.sources}
        stood = [source for source in self.sources if at[source][stage] == seen[source]]
        if FIRST[kind] == "decode":
            is_free = len(stood) < len(self.sources)
        else:
            works = [source for source in self.sources if at[source][stage] < at[source][before]]
            is_free = bool(works) and not set(works) & set(stood)
        if not is_free:
            return None
        self._seen[kind] = {source: at[source][stage] for source in self.sources}
        return pid


@pytest.mark.long  # shards are below; separate workers in test_epochs.py and test_kills_told.py
def test_workers_and_the_store_are_killed(
    started: Run, files: Files, undisturbed: dict[str, Published]
) -> None:
    """Twice each; the marathon does so two hundred times."""
    killer, source, before = Killer(started, list(files)), next(iter(files)), START
    for _ in range(2):
        for kind in KINDS:
            assert killer.kill(kind)

        def moved(before: Position = before) -> Position | None:
            at = started.positions(source, ["cache"])["cache"]
            return at if at > before else None

        before = wait_until("results move on", moved)
        os.kill(wait_until("a server", started.valkey), signal.SIGKILL)
    assert started.wait(DEADLINE_S) == 0, started.log.read_text(encoding="utf-8")
    check_equal(started.folder, files, undisturbed)


@briefly
def test_shards_are_killed(tmp_path: Path, files: Files, undisturbed: dict[str, Published]) -> None:
    """Twice each; one worker hosts all stages of one source, the other those of the other."""
    words = all_on(tmp_path, files)
    config = tmp_path / "all.toml"
    config.write_text(
        config.read_text(encoding="utf-8").replace("\nshards = 0\n", "\nshards = 2\n"),
        encoding="utf-8",
    )
    run = Run(with_secret(tmp_path / "data"), *words, *named(files))
    try:
        killers = {worker: Killer(run, [name]) for worker, name in zip(SHARDS, files, strict=True)}
        for _ in range(2):
            for worker, killer in killers.items():
                assert killer.kill(worker)
        assert run.wait(DEADLINE_S) == 0, run.log.read_text(encoding="utf-8")
    finally:
        run.kill()
    check_equal(run.folder, files, undisturbed)


@briefly
def test_the_supervisor_is_killed_and_resumes(
    started: Run, files: Files, undisturbed: dict[str, Published]
) -> None:
    run, source = started, next(iter(files))
    for n in range(2):
        wanted = Position(1, 40 + 60 * n)
        wait_until(
            "some results",
            lambda run=run, wanted=wanted: run.positions(source, ["cache"])["cache"] > wanted,
        )
        orphans = children(run.process.pid)
        assert len(orphans) == 4
        run.kill()
        wait_until("no orphan", lambda orphans=orphans: not any(map(alive, orphans)))
        run = Run(run.folder, "--resume", *all_on(run.folder.parent, files))
    assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    check_equal(run.folder, files, undisturbed)


def alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
            != "Z"
        )
    except OSError:
        return False


@pytest.mark.long  # test_interrupt.py does so without all that stages may remember
def test_ctrl_c_drains_and_resume_completes(
    started: Run, files: Files, undisturbed: dict[str, Published]
) -> None:
    source = next(iter(files))
    wait_until("results", lambda: started.positions(source, ["cache"])["cache"] > Position(1, 30))
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == 0, started.log.read_text(encoding="utf-8")
    half = published_in(started.folder, list(files))[source]
    assert not half.ended
    resumed = Run(started.folder, "--resume", *all_on(started.folder.parent, files))
    assert resumed.wait() == 0, resumed.log.read_text(encoding="utf-8")
    check_equal(started.folder, files, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_marathon_of_kills(tmp_path: Path, files: Files, undisturbed: dict[str, Published]) -> None:
    """At least 200 kills over as many runs as it takes; `benchmarks.kill_marathon` tells them."""
    wanted = int(os.environ.get("FRAMEGATE_KILLS", "200"))
    chance = random.Random(7)
    kills = dict.fromkeys((*KINDS, "valkey"), 0)
    runs = 0
    while sum(kills.values()) < wanted:
        folder = with_secret(tmp_path / f"data{runs}")
        run = Run(folder, *all_on(tmp_path, files), *named(files))
        killer = Killer(run, list(files))
        before = sum(kills.values())
        while not killer.finished() and before + sum(killer.kills.values()) < wanted:
            if chance.random() < 0.1 and (pid := run.valkey()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killer.kills["valkey"] += 1
            killer.kill(chance.choice(KINDS))
        assert run.wait(600) == 0, run.log.read_text(encoding="utf-8")
        check_equal(run.folder, files, undisturbed)
        kills = {kind: n + killer.kills[kind] for kind, n in kills.items()}
        runs += 1
    result = {"runs": runs, "kills": kills, "frames": runs * sum(map(frames_of, files.values()))}
    if kept := os.environ.get("FRAMEGATE_RESULTS"):
        Path(kept, "kill_marathon.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
