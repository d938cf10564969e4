"""Everything is on and anything is killed: what is told, recorded, heard and sent stays the same.

Four sources with twelve rules, sound, recordings and a webhook to a real server; workers, what
hosts the sinks, the store and the supervisor are killed. All that is stored is then compared with
what a run tells that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from framegate.pipeline.contracts.episodes import Changes
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.stages.decode.clip import write_clip
from tests.runs.test_events_runs import WALK, bytes_of
from tests.runs.test_sound_run import sound_counters, told
from tests.support import footage
from tests.support.episodes import check, stored_changes
from tests.support.footage import Track
from tests.support.recorded import payload, segments
from tests.support.runs import DEADLINE_S, Run, children, published_in, said, wait_until
from tests.support.webhooks import SINK, WebhookReceiver, receiving

pytestmark = pytest.mark.whole_run

SOURCES = ("door", "gate", "shop", "yard")
FRAMES = 250
BESIDE = ("sinks", "valkey", "supervisor")
KINDS = {"shards": ("shard-1", *BESIDE), "apart": ("ingest", "publish", "sound", *BESIDE)}
APART = "[workers]\nshards = 0\n"
CONFIG = (
    SINK
    + """
[record]
sources = ["door", "gate", "shop", "yard"]
[sound]
sources = true
labels = ["Beep, bleep"]
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.cache]
input = "walk"
[events.areas]
left = { points = [[0.1, 0.0], [0.4, 0.0], [0.4, 1.0], [0.1, 1.0]] }
middle = { points = [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]] }
right = { points = [[0.6, 0.0], [0.9, 0.0], [0.9, 1.0], [0.6, 1.0]] }
[events.lines]
first = { points = [[0.25, 0.0], [0.25, 1.0]] }
second = { points = [[0.75, 0.0], [0.75, 1.0]] }
[events.rules]
at_left = { when = "inside", area = "left" }
at_middle = { when = "inside", area = "middle", update_s = 1 }
at_right = { when = "inside", area = "right", for_s = 0.4, clip = true }
over_first = { when = "crosses", line = "first" }
over_second = { when = "crosses", line = "second", direction = "out" }
two = { when = "count", area = "left", at_least = 2 }
empty = { when = "count", area = "middle", at_most = 0, for_s = 0.5 }
one_there = { when = "count", area = "left", at_least = 1, update_s = 1 }
meeting = { when = "near", labels = ["person"], others = ["person"], closer = 1.0 }
beep = { when = "state", state = "heard", labels = ["Beep, bleep"], gap_s = 1 }
answer = { when = "inside", area = "middle", after = { rule = "beep", within_s = 2 } }
late = { when = "inside", area = "right", after = { rule = "over_first", within_s = 5 } }
"""
)


class Stored(NamedTuple):
    """What a run left, by source, without what the clock said."""

    results: dict[str, Any]
    changes: dict[str, list[tuple[Position, bytes]]]
    heard: list[dict[str, Any]]
    sound: dict[str, dict[str, int]]


def stored(folder: Path, data: str) -> Stored:
    """All that is compared; episodes begin once and end once, and law 4 is closed."""
    published = published_in(folder / data, SOURCES)
    changes = {source: stored_changes(folder / data, source) for source in SOURCES}
    for entries in changes.values():
        check(one for _, each in entries for one in each.changes)
    return Stored(
        {source: (said(one.results), one.ended) for source, one in published.items()},
        {source: bytes_of(entries) for source, entries in changes.items()},
        told(folder, data),
        {source: sound_counters(folder / data, source) for source in SOURCES},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("user")
    for n, source in enumerate(SOURCES):
        beeps = Track(
            "aac", 44100, (3100.0, 3100.0), begins=(n / 2, 4.0 + n), seconds=1.0, pictures="libx264"
        )
        footage.write_sounding(made / f"{source}.mp4", beeps, pts_s=footage.steady(FRAMES))
    (made / "walk.py").write_text(WALK, encoding="utf-8")
    (made / "shards.toml").write_text(CONFIG, encoding="utf-8")
    (made / "apart.toml").write_text(APART + CONFIG, encoding="utf-8")
    return made


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Stored:
    with receiving() as whole:
        run = begun(folder, "whole", "shards")
        assert run.wait(DEADLINE_S) == 0, run.log.read_text(encoding="utf-8")
        check_sent(whole, folder, "whole")
    check_recorded(folder, "whole")
    found = stored(folder, "whole")
    rules = {one.rule for one in all_changes(folder, "whole")}
    assert len(rules) == CONFIG.count("when = "), rules
    assert all(ended and len(results) == FRAMES for results, ended in found.results.values())
    return found


def begun(folder: Path, data: str, placement: str, *words: str) -> Run:
    named = () if words else [f"{source}.mp4" for source in SOURCES]
    config = f"{placement}.toml"
    return Run(folder / data, *named, *words, "-c", config, "--pace", "realtime", cwd=folder)


def all_changes(folder: Path, data: str) -> list[Any]:
    entries: list[tuple[Position, Changes]] = [
        entry for source in SOURCES for entry in stored_changes(folder / data, source)
    ]
    return [one for _, each in entries for one in each.changes]


def check_sent(receiver: WebhookReceiver, folder: Path, data: str) -> None:
    """Each change was told at least once, and the same words with the same id."""
    first: dict[str, object] = {}
    for posted in receiver.taken:
        assert first.setdefault(posted.id, posted.event) == posted.event
    assert set(first) == {one.id for one in all_changes(folder, data)}


def check_recorded(folder: Path, data: str) -> None:
    """What came of each source is recorded, byte by byte, and in order."""
    for source in SOURCES:
        held = segments(folder / data, source)
        assert held == sorted(held, key=lambda one: one.captured)
        clip, file = folder / f"{data}-{source}.mp4", folder / f"{source}.mp4"
        write_clip(folder / data / FOLDER, held, clip)
        assert payload(clip) == payload(file), source
        # Sound that a file has before its first picture, as encoders do to begin, is not recorded.
        recorded, sound = payload(clip, "audio"), payload(file, "audio")
        assert recorded == sound[-len(recorded) :], source
        assert len(recorded) >= len(sound) - 1


class Disturbed:
    """A run of which something dies each time that all sources went on."""

    def __init__(self, folder: Path, data: str, placement: str) -> None:
        self.folder, self.data, self.placement = folder, data, placement
        self.kills: Counter[str] = Counter()
        self._run = begun(folder, data, placement)
        self._seen = dict.fromkeys(SOURCES, START)

    def finished(self) -> bool:
        return self._run.process.poll() is not None

    def kill(self, kind: str) -> bool:
        """Kill it, after each source went on since the last time; False if the run is over."""
        if wait_until("all went on", lambda: self.finished() or self._went_on()) is True:
            return False
        if kind == "supervisor":
            there = children(self._run.process.pid)
            self._run.kill()
            wait_until("all of it is gone", lambda: not any(map(_lives, there)))
            self._run = begun(self.folder, self.data, self.placement, "--resume")
            self.kills[kind] += 1
            return True
        pid = wait_until(f"{kind} is there", lambda: self.finished() or self._pid(kind))
        if pid is True:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills[kind] += 1
        return True

    def _went_on(self) -> dict[str, Position] | None:
        at = {s: self._run.positions(s, ["events"])["events"] for s in SOURCES}
        going = [s for s in SOURCES if at[s].seq < FRAMES - 1]
        if not going:
            return None  # it ends by itself
        if any(at[s].seq < self._seen[s].seq + 5 for s in going):
            return None
        self._seen = at
        return at

    def _pid(self, kind: str) -> int | None:
        if kind == "valkey":
            return self._run.valkey()
        for pid, words in children(self._run.process.pid).items():
            if words[1:3] == ["-m", "framegate.pipeline.sinks.process"] and kind == "sinks":
                return pid
        return self._run.worker(kind)

    def end(self) -> None:
        """Let it end; what sinks were not told by then, they are as it is resumed."""
        code = self._run.wait(DEADLINE_S)
        log = self._run.log.read_text(encoding="utf-8")
        assert code == 0, log[-6000:]
        if "are not delivered yet" in log.rpartition("framegate ")[2]:
            assert begun(self.folder, self.data, self.placement, "--resume").wait(DEADLINE_S) == 0

    def give_up(self) -> None:
        self._run.kill()


def _lives(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
            != "Z"
        )
    except OSError:
        return False


def check_same(folder: Path, data: str, undisturbed: Stored, receiver: WebhookReceiver) -> None:
    found = stored(folder, data)
    assert found.results == undisturbed.results
    assert found.changes == undisturbed.changes
    assert found.heard == undisturbed.heard
    assert found.sound == undisturbed.sound
    check_sent(receiver, folder, data)
    check_recorded(folder, data)


def test_each_is_killed_once(folder: Path, undisturbed: Stored, receiver: WebhookReceiver) -> None:
    disturbed = Disturbed(folder, "killed", "apart")
    try:
        for kind in KINDS["apart"]:
            assert disturbed.kill(kind), kind
        disturbed.end()
    finally:
        disturbed.give_up()
    check_same(folder, "killed", undisturbed, receiver)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_marathon_of_all(folder: Path, undisturbed: Stored, receiver: WebhookReceiver) -> None:
    """At least so many kills, over as many runs as it takes."""
    wanted = int(os.environ.get("FRAMEGATE_KILLS", "100"))
    chance = random.Random(11)
    kills: Counter[str] = Counter()
    runs = 0
    while kills.total() < wanted:
        receiver.taken.clear()
        placement = ("apart", "shards")[runs % 2]
        disturbed = Disturbed(folder, f"marathon-{runs}", placement)
        try:
            while disturbed.kill(chance.choice(KINDS[placement])):
                pass
            disturbed.end()
        finally:
            disturbed.give_up()
        check_same(folder, f"marathon-{runs}", undisturbed, receiver)
        kills += disturbed.kills
        runs += 1
        print(runs, dict(disturbed.kills), flush=True)
    result = {"runs": runs, "kills": dict(kills), "frames": runs * len(SOURCES) * FRAMES}
    print(json.dumps(result))
    if kept := os.environ.get("FRAMEGATE_RESULTS"):
        Path(kept, "kill_marathon_all.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
