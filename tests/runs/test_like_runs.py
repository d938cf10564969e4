"""A rule about marked visits is switched on in an active run of the demo clip, which is killed."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from framegate.cli.demo import shipped_clip
from framegate.pipeline.contracts.likeness import NUMBERS, Likeness
from tests.support import footage
from tests.support.commands import Command, framegate
from tests.support.runs import DEADLINE_S, published_in, wait_until

pytestmark = pytest.mark.whole_run

TIMES = 4  # the clip of 40 s: the run must last until the click has an episode, also on a busy host
EVERY = Likeness((0.0,) * NUMBERS, 5.0, (5, 0)).text()  # each visit is like the marked ones
RULES = '[events.rules.dark]\nwhen = "state"\nstate = "lost"\n'


def test_each_visit_after_the_click_is_one_episode_whatever_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(RULES, encoding="utf-8")
    clip = footage.repeat(shipped_clip(), tmp_path / "street.mp4", TIMES)
    words = ("run", str(clip), "-d", "data", "--http", "127.0.0.1:0")
    with Command(tmp_path, *words, "--pace", "realtime") as run:
        run.says("live page at http://")
        found = re.search(r"live page at (http://[^/\s]+)", run.err)
        assert found is not None
        api = httpx.Client(base_url=f"{found[1]}/api/v1", timeout=DEADLINE_S)

        def has_visits() -> Any:
            answer = api.get("/visits", params={"limit": 1000})
            return answer.status_code == 200 and answer.json()["found"]

        def rule() -> Any:
            """Return the rule in the file; None while the supervisor is too busy to answer."""
            answer = api.get("/visits/rule/file", params={"marks": "every"})
            return answer.status_code == 200 and answer.json()

        wait_until("a visit has ended", has_visits)
        off = wait_until("the rule is shown", rule)
        assert (off["like"], off["fault"]) == ("", None)
        wish = {"marks": "every", "like": EVERY, "digest": off["digest"]}
        on = api.post("/visits/rule/on", json=wish)
        assert on.status_code == 200, on.text
        assert on.json()["like"] == EVERY
        wait_until("the run has the rule", lambda: (shown := rule()) and shown["is_running"])
        wait_until("a visit is an episode", lambda: api.get("/episodes").json()["episodes"])
        api.close()
        run.process.kill()
        run.process.wait()
    resumed = framegate(tmp_path, *words, "--resume", "--pace", "fast")
    assert resumed.code == 0, resumed.err
    listed = framegate(tmp_path, "events", "-d", "data", "--rule", "every", "--json")
    episodes = [json.loads(line) for line in listed.out.splitlines()]
    stored = framegate(tmp_path, "visits", "-d", "data", "--json", "--limit", "1000")
    visits = [json.loads(line)["visit"] for line in stored.out.splitlines()]
    every = {(visit["track"], visit["began"]["seq"]) for visit in visits}
    reported = [(each["tracks"][0], each["began"]["seq"]) for each in episodes]
    assert len(set(reported)) == len(reported) > 1
    results = published_in(tmp_path / "data", ["street"])["street"].results
    in_frames = [[(each.track, each.began.seq) for each in result.visits] for result in results]
    first = next(n for n, ended in enumerate(in_frames) if set(ended) & set(reported))
    before = set(itertools.chain(*in_frames[:first]))
    assert before, "the first visits ended before the click"
    assert set(reported) == every - before
