"""A run tells its sinks all episodes, whatever is killed or away; none holds it up."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook as StandardWebhook

from tests.support import footage
from tests.support.brokers import ABSENT, PASSWORD, Broker, HomeAssistant
from tests.support.commands import framegate, user_folder
from tests.support.phones import Phone
from tests.support.runs import DEADLINE_S, Run, check_consistent, children, stop_process, wait_until
from tests.support.webhooks import SECRET, SINK, WebhookReceiver, receiving

pytestmark = pytest.mark.whole_run


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receiving() as made:
        yield made


WALK = """
from framegate import Stage
from framegate.pipeline.contracts.results import Object
from framegate.stages.detections import Detections


class Walk(Stage):
    def each(self, item, state):
        x = item.position.seq / 150 * item.record.form.width
        y = 0.75 * item.record.form.height
        box = (max(0.0, x - 4), y - 12, x + 4, y)
        objects = (Object(1, "person", 0, 0.9, box, "detected"),)
        return Detections("detected", "whole", "changed", objects, ("m@1",)), state
"""
WALK_GRAPH = """
[stages.walk]
use = "walk:Walk"
input = "decode"
[stages.cache]
input = "walk"
"""


def told_folder(path: Path, frames: int, more: str = SINK) -> Path:
    """A user's folder with visits in a clip, and sinks."""
    events = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'
    folder = user_folder(path, more=more + events)
    footage.write_scene(folder / "gate.mp4", footage.steady(frames))
    return folder


def visits(frames: int) -> list[str]:
    """Ids of all changes of such a clip, in order."""
    found = []
    for seq in range(frames):
        if seq % 4 == 0:
            found.append(f"gate/visitor/1-{seq}/0/start")
        elif seq % 4 == 2:
            found.append(f"gate/visitor/1-{seq - 2}/0/end")
    return found if (frames - 1) % 4 not in (0, 1) else [*found, _last(frames)]


def _last(frames: int) -> str:
    return f"gate/visitor/1-{(frames - 1) // 4 * 4}/0/end"


def test_the_recipe_of_the_page_tells_a_phone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text(encoding="utf-8")
    recipe = page.partition("```toml\n")[2].partition("```")[0]
    assert len(recipe.splitlines()) <= 15
    folder = tmp_path / "user"
    folder.mkdir()
    phone = Phone()
    try:
        told = recipe.replace("ntfy://my-own-topic", phone.url())
        told = told.replace('quiet = ["22:00-07:00"]', "")  # of whatever hour it is
        (folder / "pipeline.toml").write_text(told + WALK_GRAPH, encoding="utf-8")
        (folder / "walk.py").write_text(WALK, encoding="utf-8")
        footage.write_scene(folder / "door.mp4", footage.steady(150))
        monkeypatch.setenv("DOOR_URL", str(folder / "door.mp4"))
        ended = framegate(folder, "run", "-d", "data", "--pace", "realtime")
        assert ended.code == 0, ended.err
        assert phone.titles() == ["visitor at door"]
        assert phone.came[0]["message"].startswith("person, ")
        assert framegate(folder, "check").out.count("phone: Apprise knows all services") == 1
    finally:
        phone.shutdown()
        phone.server_close()


@pytest.mark.skipif(ABSENT, reason="needs Debian's mosquitto")
def test_home_assistant_and_metrics_tell_of_a_run(
    receiver: WebhookReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Broker(tmp_path / "broker")
    broker.start()
    monkeypatch.setenv("HOME_URL", broker.url)
    home = HomeAssistant(broker.port)
    folder = told_folder(
        tmp_path / "user", 60, SINK + '[sinks.home]\nkind = "mqtt"\nurl_env = "HOME_URL"\n'
    )
    receiver.may_answer.clear()
    run = Run(folder / "data", "gate.mp4", "--pace", "realtime", cwd=folder)
    try:
        wait_until(
            "all is told to it",
            lambda: home.state("framegate_framegate_gate-visitor-episodes") == 15,
        )
        assert receiver.taken == [], "and nothing to the slow one"
        found = wait_until("metrics", lambda: metrics(run))
        assert 'framegate_sink_waiting{sink="office",source="gate"} 0' not in found
        receiver.may_answer.set()
        assert run.wait() == 0
        wait_until(
            "it is away",
            lambda: home.state("framegate_framegate_gate-visitor-open") == "unavailable",
        )
    finally:
        receiver.may_answer.set()
        run.kill()
        home.close()
        broker.stop()
    assert receiver.ids() == visits(60)
    log = run.log.read_text(encoding="utf-8")
    assert PASSWORD not in log
    assert SECRET not in log


def metrics(run: Run) -> str | None:
    """What /metrics says of sinks, once it does."""
    at = re.search(r"live page at http://(\S+)", run.log.read_text(encoding="utf-8"))
    if at is None or run.process.poll() is not None:
        return None
    with urllib.request.urlopen(f"http://{at[1]}/metrics", timeout=DEADLINE_S) as answer:
        found: str = answer.read().decode()
    return (
        found if 'framegate_sink_messages_total{outcome="delivered",sink="home"' in found else None
    )


def sinks_process(run: Run) -> int | None:
    for pid, command in children(run.process.pid).items():
        if "framegate.pipeline.sinks.process" in command:
            return pid
    return None


def test_a_run_tells_all_and_then_ends(receiver: WebhookReceiver, tmp_path: Path) -> None:
    folder = told_folder(tmp_path / "user", 50)
    ended = framegate(folder, "run", "gate.mp4", "-d", "data")
    assert ended.code == 0, ended.err
    assert receiver.ids() == visits(50)
    for posted in receiver.taken:
        StandardWebhook(SECRET).verify(posted.body, posted.headers)
    assert SECRET not in ended.err
    assert "are not delivered yet" not in ended.err


def test_a_receiver_that_is_away_holds_nothing_up_and_is_told_later(
    receiver: WebhookReceiver, tmp_path: Path
) -> None:
    receiver.stop()
    folder = told_folder(tmp_path / "user", 50)
    ended = framegate(folder, "run", "gate.mp4", "-d", "data", "--json")
    assert ended.code == 0, ended.err
    assert len(ended.results("gate")) == 50
    assert "sink office: the receiver cannot be reached" in ended.err
    assert "sink office: 26 entries are not delivered yet" in ended.err
    receiver.start()
    again = framegate(folder, "run", "-d", "data", "--resume")
    assert again.code == 0, again.err
    assert receiver.ids() == visits(50)


def test_a_sink_that_cannot_start_stops_no_other(receiver: WebhookReceiver, tmp_path: Path) -> None:
    wrong = '[sinks.phone]\nkind = "notify"\nurl = "nfty://my-own-topic"\n'
    folder = told_folder(tmp_path / "user", 50, wrong + SINK)
    ended = framegate(folder, "run", "gate.mp4", "-d", "data")
    assert ended.code == 0, ended.err
    assert receiver.ids() == visits(50)
    assert ended.err.count("sink phone cannot start: sinks.phone.url: Apprise does not know") == 1


def disturbed(receiver: WebhookReceiver, folder: Path, times: int) -> int:
    """Kill what hosts the sinks, and take the receiver away each second time, while a run goes on;
    return how often it was killed.
    """
    chance, killed, pid = random.Random(5), 0, None
    run = Run(folder / "data", "gate.mp4", "--pace", "realtime", cwd=folder)
    try:
        for number in range(times):
            seen = len(receiver.tries)
            if number % 2:
                receiver.stop()
                _until_it_went_on(run, 12)
                receiver.start()
            before = pid

            def another(before: int | None = before) -> int | bool:
                there = sinks_process(run)
                return run.process.poll() is not None or (there != before and (there or False))

            pid = wait_until("its next process is there", another)
            if run.process.poll() is not None:
                break
            more = seen + chance.randrange(1, 4)
            wait_until(
                "it tells more, or all is told",
                lambda more=more: len(receiver.tries) >= more or run.process.poll() is not None,
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        assert run.wait(DEADLINE_S) == 0, run.log.read_text(encoding="utf-8")[-3000:]
    finally:
        run.kill()
    left = run.log.read_text(encoding="utf-8")
    if "are not delivered yet" in left:
        assert framegate(folder, "run", "-d", "data", "--resume").code == 0
    return killed


def _until_it_went_on(run: Run, frames: int) -> None:
    """Until a run did so many frames more, or is over."""

    def done() -> int:
        return run.positions("gate", ["events"])["events"].seq

    begun = wait_until("it began", lambda: run.process.poll() is not None or done() + 1)
    wait_until("more", lambda: run.process.poll() is not None or done() > begun + frames)


def check_told(receiver: WebhookReceiver, frames: int) -> None:
    """All is there, in order but for repeats, each with the same words for the same id."""
    first: dict[str, object] = {}
    for posted in receiver.taken:
        assert first.setdefault(posted.id, posted.event) == posted.event
    assert list(first) == visits(frames)


def test_a_kill_of_what_hosts_the_sinks_loses_nothing(
    receiver: WebhookReceiver, tmp_path: Path
) -> None:
    folder = told_folder(tmp_path / "user", 100)
    assert disturbed(receiver, folder, times=4) > 1
    check_told(receiver, 100)
    check_consistent(folder / "data")


@pytest.mark.long
def test_fifty_kills_and_absences_lose_nothing(receiver: WebhookReceiver, tmp_path: Path) -> None:
    folder = told_folder(tmp_path / "user", 8000)
    assert disturbed(receiver, folder, times=50) == 50
    check_told(receiver, 8000)
    check_consistent(folder / "data")


def test_a_kill_between_the_answer_and_the_position_repeats_the_same_id(
    receiver: WebhookReceiver, tmp_path: Path
) -> None:
    folder = told_folder(tmp_path / "user", 50)
    receiver.may_answer.clear()
    run = Run(folder / "data", "gate.mp4", cwd=folder)
    try:
        pid = wait_until("its process is there", lambda: sinks_process(run))
        wait_until("the first is being told", lambda: receiver.tries)
        stop_process(pid)
        receiver.may_answer.set()
        wait_until("it was taken", lambda: receiver.taken)
        os.kill(pid, signal.SIGKILL)
        assert run.wait() == 0
    finally:
        run.kill()
    assert receiver.ids() == [visits(50)[0], *visits(50)]
    check_consistent(folder / "data")
