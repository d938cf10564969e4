"""Rules change while a run is active: no episode twice, none lost, the file always whole."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
import redis

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.snooze import Snooze
from framegate.pipeline.config.switches import snoozes
from framegate.pipeline.config.toml_edit import with_value
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.episodes import Change
from framegate.pipeline.contracts.errors import ConfigFaults, RunRefused
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigChange,
    ConfigRequest,
    EditableConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.run.rpc import ask
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support import footage
from tests.support.asked import workers
from tests.support.brokers import ABSENT, Broker
from tests.support.commands import Command, framegate
from tests.support.episodes import WALK, check, stored_changes
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.webhooks import WebhookReceiver, receiving

pytestmark = pytest.mark.whole_run

DONE = 0
GRAPH = """\
# what the camera sees
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.windows]
input = "walk"
[stages.cache]
input = "windows"
"""
AREA = {"points": [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]}
UNCHANGED = """
[events.areas.middle]
points = [[0.3, 0.0], [0.7, 0.0], [0.7, 1.0], [0.3, 1.0]]
[events.lines.gate]
points = [[0.5, 0.0], [0.5, 1.0]]
[events.rules.visitor]
when = "inside"
area = "middle"
update_s = 1
[events.rules.people]
when = "crosses"
line = "gate"
"""
LONG = 5000  # of a run that must not end before a busy machine has made all changes


def user_folder(made: Path, events: str, frames: int) -> Path:
    made.mkdir()
    footage.write_scene(made / "door.mkv", footage.steady(frames))
    (made / "walk.py").write_text(WALK, encoding="utf-8")
    (made / "pipeline.toml").write_text(GRAPH + events, encoding="utf-8")
    return made


def asked(data: Path, request: ConfigRequest) -> EditableConfig:
    reply = ask(data, request, DEADLINE_S)
    assert isinstance(reply, EditableConfig)
    return reply


def changed(data: Path, path: str, value: Any) -> EditableConfig:
    """Change a path, as an editor that sees the file before."""
    now = asked(data, GetConfig())
    return asked(data, ChangeConfig(now.digest, [ConfigChange(path, value)]))


def has_run(data: Path) -> Any:
    """Return whether the run in a folder answers."""
    try:
        return asked(data, GetConfig()).digest
    except (ConfigFaults, RunRefused):
        return None


def told(data: Path) -> int:
    """Entries of the stage so far."""
    with redis.Redis.from_url(EmbeddedStore(data / "store", "everysec").url) as store:
        return store.xlen(keys.out("door", keys.EVENTS))


def all_changes(data: Path) -> list[Change]:
    return [each for _, entry in stored_changes(data, "door") for each in entry.changes]


def test_the_first_rule_of_a_run_needs_no_restart(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user", "", 2500)
    data = folder / "data"
    with Command(folder, "run", "door.mkv", "-d", "data", "--pace", "realtime") as run:
        wait_until("the run answers", lambda: has_run(data))
        pid = workers(run.process.pid)["shard-1"]
        first = asked(data, GetConfig())
        both = [
            ConfigChange("events.areas.middle", AREA),
            ConfigChange("events.rules.visitor", {"when": "inside", "area": "middle"}),
        ]
        on = asked(data, ChangeConfig(first.digest, both))
        assert (list(on.versions), on.waits) == (["visitor"], [])
        with pytest.raises(RunRefused, match="it was changed meanwhile"):
            asked(data, ChangeConfig(first.digest, both))
        wrong = [ConfigChange("events.rules.visitor", {"when": "inside", "area": "midle"})]
        with pytest.raises(RunRefused, match=r"there is no \[events.areas.midle\]"):
            asked(data, ChangeConfig(on.digest, wrong))
        with pytest.raises(RunRefused, match="it cannot change during a run"):
            asked(data, ChangeConfig(on.digest, [ConfigChange("store.url", "redis://x")]))
        wait_until("an episode has begun", lambda: told(data))
        off = asked(data, RestoreConfig(on.digest))
        assert (off.digest, off.versions) == (first.digest, {})
        assert (folder / "pipeline.toml").read_text(encoding="utf-8") == GRAPH
        wait_until("it has ended", lambda: told(data) >= 2)
        (folder / "pipeline.toml").write_text(GRAPH + UNCHANGED, encoding="utf-8")
        assert "edited by hand" in asked(data, GetConfig()).waits[0]
        again = asked(data, ReloadConfig())
        assert (list(again.versions), again.waits) == (["visitor", "people"], [])
        assert workers(run.process.pid)["shard-1"] == pid, "no worker was restarted"
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    ended = framegate(folder, "run", "--resume", "-d", "data", "--pace", "fast")
    assert ended.code == DONE, ended.err
    changes = all_changes(data)
    check(changes)
    ends = [each.ended_by for each in changes if each.step == "end"]
    assert ends[0] == "rule_changed"


@contextmanager
def always_whole(file: Path) -> Iterator[None]:
    """Read the file again and again during the block: it is whole, with or without the rule."""
    faults: list[Exception] = []
    whole = tomllib.loads(GRAPH + UNCHANGED)
    is_over = threading.Event()

    def read() -> None:
        while not is_over.wait(0.01):
            try:
                tables = tomllib.loads(file.read_text(encoding="utf-8"))
                rule = tables["events"]["rules"].pop("changing", None)
                assert tables == whole
                assert rule is None or rule.keys() == rule_of(0).keys()
            except (OSError, AssertionError, tomllib.TOMLDecodeError) as error:
                faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        is_over.set()
        reader.join()
    assert not faults, faults[:1]


def rule_of(number: int) -> dict[str, Any]:
    """Return the rule `changing` after a number of changes; each has another digest."""
    return {"when": "count", "area": "middle", "at_most": 0, "until_s": 1.0 + number / 1000}


def change_under_kill(folder: Path, total: int, per_kill: int, per_run: int) -> None:
    """Change a rule `total` times while workers and whole runs are killed; then let it end.

    per_kill, per_run  changes between two kills of the worker, and of the whole run
    """
    data, done = folder / "data", 0
    words: tuple[str, ...] = ("run", "door.mkv", "-d", "data", "--pace", "realtime")
    while done < total:
        with Command(folder, *words) as run:
            wait_until("the run answers", lambda: has_run(data) or run.process.poll() is not None)
            until = min(done + per_run, total)
            while done < until:
                changed(data, "events.rules.changing", rule_of(done))
                done += 1
                if done % per_kill == 0:
                    before = told(data)
                    os.kill(workers(run.process.pid)["shard-1"], signal.SIGKILL)
                    wait_until("the rule is used", lambda least=before: told(data) > least)
            run.kill()
        words = ("run", "--resume", "-d", "data", "--pace", "realtime")
    ended = framegate(folder, *words[:-1], "fast")
    assert ended.code == DONE, ended.err


def check_under_kill(folder: Path, total: int) -> None:
    """Check that no episode was reported twice, and that none of the unchanged rules was lost."""
    alone, changes = all_changes(folder / "alone"), all_changes(folder / "data")
    check(changes)
    of_others = [shown(each) for each in changes if each.rule != "changing"]
    assert of_others == [shown(each) for each in alone]
    versions = set()
    for number in range(total):
        text = with_value(UNCHANGED, ("events", "rules", "changing"), rule_of(number))
        versions.add(read_config("pipeline.toml", text).events.digest("changing"))
    assert len(versions) == total
    of_changing = [each for each in changes if each.rule == "changing"]
    used = [each.version for each in of_changing if each.step == "start"]
    assert len(used) > 3
    assert versions.issuperset(used)
    ends = {each.ended_by for each in of_changing if each.step == "end"}
    assert ends <= {"over", "source_ended", "rule_changed"}
    now = (folder / "pipeline.toml").read_text(encoding="utf-8")
    last = rule_of(total - 1)
    assert now == with_value(GRAPH + UNCHANGED, ("events", "rules", "changing"), last)


def shown(change: Change) -> Any:
    """Return a change without the times at which the frames of a file were read."""
    fields = msgspec.to_builtins(change)
    for name in ("told", "began", "last"):
        del fields[name]["captured"]
    return fields


def test_rule_changes_under_kill_lose_no_episode_of_other_rules(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user", UNCHANGED, 1500)
    assert framegate(folder, "run", "door.mkv", "-d", "alone").code == DONE
    with always_whole(folder / "pipeline.toml"):
        change_under_kill(folder, total=40, per_kill=9, per_run=20)
    check_under_kill(folder, total=40)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_thousand_rule_changes_under_kill(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user", UNCHANGED, 20_000)
    assert framegate(folder, "run", "door.mkv", "-d", "alone").code == DONE
    with always_whole(folder / "pipeline.toml"):
        change_under_kill(folder, total=1000, per_kill=50, per_run=250)
    check_under_kill(folder, total=1000)


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as receiver:
        yield receiver


def test_sinks_and_masks_change_and_the_command_says_what_waits(
    tmp_path: Path, receiver: WebhookReceiver
) -> None:
    folder = user_folder(tmp_path / "user", UNCHANGED, LONG)
    data, file = folder / "data", folder / "pipeline.toml"
    with Command(folder, "run", "door.mkv", "-d", "data", "--pace", "realtime") as run:
        wait_until("the run answers", lambda: has_run(data))
        pid = workers(run.process.pid)["shard-1"]
        wait_until("an episode has begun", lambda: told(data))
        old = {each.id for each in all_changes(data)}
        hook = {"kind": "webhook", "url_env": "HOOK_URL", "secret_env": "HOOK_SECRET"}
        changed(data, "sinks.office", hook)
        first = wait_until("it gets an episode", lambda: receiver.taken and receiver.taken[0])
        wall = [[[0, 0], [1, 0], [1, 1], [0, 1]]]
        changed(data, "privacy.masks.door", wall)
        wait_until("the picture is black", lambda: _is_black(folder))
        masked = framegate(
            folder, "rules", "set", "sinks.office", 'rules = ["people"]', "-d", "data"
        )
        assert masked.code == DONE, masked.err
        assert "the run evaluates visitor, people" in masked.out
        got = len(receiver.taken)
        wait_until("it gets a crossing", lambda: _rules_of(receiver, got)[-1:] == ["people"])
        off = framegate(folder, "rules", "off", "visitr", "-d", "data")
        assert "has no such rule; did you mean visitor?" in off.err
        key = ("events.rules.visitor.when", "x = 1")
        wrong = framegate(folder, "rules", "set", *key, "-d", "data")
        assert "framegate rules set events.rules.visitor 'when = VALUE'" in wrong.err
        assert framegate(folder, "rules", "off", "visitor", "-d", "data").code == DONE
        assert tomllib.loads(file.read_text(encoding="utf-8"))["events"]["rules"]["visitor"] == {
            "when": "inside", "area": "middle", "update_s": 1, "enabled": False,
        }  # fmt: skip
        listed = framegate(folder, "rules", "history", "-d", "data").out.splitlines()
        assert [line.rsplit("  ", 1)[1] for line in listed] == [
            "events.rules.visitor", "sinks.office", "privacy.masks.door", "sinks.office",
        ]  # fmt: skip
        changed(data, "sinks.office", None)
        assert workers(run.process.pid)["shard-1"] == pid, "no worker was restarted"
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    ids = [each.id for each in receiver.taken]
    assert len(set(ids)) == len(ids), "each change once, also over the changes of the sink"
    assert first.id == ids[0]
    assert old.isdisjoint(ids), "a sink that is added gets what happens from then on"


def _rules_of(receiver: WebhookReceiver, after: int) -> list[str]:
    return [each.event["data"]["rule"] for each in receiver.taken[after:]]


def _is_black(folder: Path) -> bool:
    if framegate(folder, "snapshot", "door", "--plain", "--overwrite", "-d", "data").code != DONE:
        return False
    picture = cv2.imread(str(folder / "door.jpg"))
    return picture is not None and int(picture.max()) < 24


PROFILES = """
[events.profiles.home]
rules = ["people"]
[events.profiles.away]
rules = ["people", "visitor"]
[sinks.home]
kind = "mqtt"
url_env = "HOME_URL"
commands = true
"""


@pytest.mark.skipif(ABSENT, reason="needs Debian's mosquitto")
def test_a_broker_switches_profiles_and_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = user_folder(tmp_path / "user", UNCHANGED + PROFILES, LONG)
    data = folder / "data"
    broker = Broker(tmp_path / "broker")
    broker.start()
    monkeypatch.setenv("HOME_URL", broker.url)
    topics = ("framegate/profile", "homeassistant/device/+/config")
    try:
        with (
            broker.reader(*topics) as reader,
            Command(folder, "run", "door.mkv", "-d", "data", "--pace", "realtime") as run,
        ):
            wait_until("it is announced", lambda: reader.last.get(topics[0]) == b"auto")
            place = "homeassistant/device/framegate_framegate_/config"
            device = json.loads(wait_until("it is offered", lambda: reader.last.get(place)))
            assert device["components"]["profile"]["options"] == ["auto", "home", "away"]
            reader.client.publish("framegate/set/profile", "away", 1)
            wait_until("it is switched", lambda: reader.last.get(topics[0]) == b"away")
            assert asked(data, GetConfig()).profile == "away"
            reader.client.publish("framegate/set/rule/people", "OFF", 1)
            wait_until("the rule is off", lambda: _enabled(data, "people") is False)
            reader.client.publish("framegate/set/snooze/rule/people", "30m", 1)
            wait_until("it is snoozed", lambda: _snoozed(data) == ["rule people"])
            reader.client.publish("framegate/set/snooze/source/door", "2h", 1)
            reader.client.publish("framegate/set/snooze", "1h", 1)
            wait_until("all are snoozed", lambda: len(_snoozed(data)) == 3)
            reader.client.publish("framegate/set/snooze/rule/people", "OFF", 1)
            reader.client.publish("framegate/set/snooze/source/door", "off", 1)
            wait_until("they are awake", lambda: _snoozed(data) == ["all rules"])
            reader.client.publish("framegate/set/snooze/rule/people", "long", 1)
            run.says("snooze of rule people: must be a duration")
            reader.client.publish("framegate/set/snooze/people", "1h", 1)
            run.says("no command framegate/set/snooze/people; allowed are set/snooze")
            reader.client.publish("framegate/set/profile", "holiday", 1)
            run.says("there is no [events.profiles.holiday]")
            reader.client.publish("framegate/set/profile", "auto", 1)
            wait_until("it is by schedule", lambda: reader.last.get(topics[0]) == b"auto")
            run.interrupt()
            ended = run.wait()
        assert ended.code == DONE, ended.err
    finally:
        broker.stop()


def _snoozed(data: Path) -> list[str]:
    """Return what is snoozed for more than the seconds in which a snooze ends early."""
    now = time.time() + 10
    return [str(what) for what, _ in snoozes(asked(data, GetConfig()), now)]


def test_a_snooze_ends_episodes_survives_a_kill_and_a_replay_finds_it(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user", UNCHANGED, LONG)
    data = folder / "data"
    with Command(folder, "run", "door.mkv", "-d", "data", "--pace", "realtime") as run:
        wait_until("an episode has begun", lambda: has_run(data) and told(data))
        quiet = framegate(folder, "rules", "snooze", "--source", "door", "1h", "-d", "data")
        assert quiet.code == DONE, quiet.err
        assert ": source door" in quiet.out
        snoozed = asked(data, GetConfig()).tables["events"]["snoozed_sources"]["door"]
        since = Snooze.read(snoozed).since
        wait_until("it is snoozed", lambda: time.time() > since + 2)
        os.kill(workers(run.process.pid)["shard-1"], signal.SIGKILL)
        published = results_of(data)
        wait_until("the worker is back", lambda: results_of(data) > published + 100)
        assert all(each.began.captured < since for each in all_changes(data))
        wrong = framegate(folder, "rules", "unsnooze", "--source", "yard", "-d", "data")
        assert "the run has no such source; it has door" in wrong.err
        every = framegate(folder, "rules", "snooze", "--all", "1h", "-d", "data")
        assert every.code == DONE, every.err
        assert _snoozed(data) == ["all rules", "source door"]
        awake = framegate(folder, "rules", "unsnooze", "--all", "-d", "data")
        assert awake.code == DONE, awake.err
        assert _snoozed(data) == ["source door"]
        awake = framegate(folder, "rules", "unsnooze", "--source", "door", "-d", "data")
        assert awake.code == DONE, awake.err
        quiet_until = Snooze.read(
            asked(data, GetConfig()).tables["events"]["snoozed_sources"]["door"]
        ).until
        wait_until(
            "an episode begins after the snooze",
            lambda: any(each.began.captured > quiet_until for each in all_changes(data)),
        )
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    changes = all_changes(data)
    check(changes, all_over=False)
    assert not [each for each in changes if since <= each.began.captured < quiet_until]
    words = ("events", "replay", "--rules", "pipeline.toml", "-d", "data", "--json")
    replayed = framegate(folder, *words)
    assert replayed.code == DONE, replayed.err
    again = [msgspec.json.decode(line, type=Change) for line in replayed.out.splitlines()]
    assert again[: len(changes)] == changes


def results_of(data: Path) -> int:
    """Results so far."""
    with redis.Redis.from_url(EmbeddedStore(data / "store", "everysec").url) as store:
        return store.xlen(keys.results("door"))


def _enabled(data: Path, rule: str) -> bool:
    enabled: bool = asked(data, GetConfig()).tables["events"]["rules"][rule].get("enabled", True)
    return enabled
