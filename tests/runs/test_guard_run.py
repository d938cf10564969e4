"""A specialised model that serves its source badly is replaced in a run, because audits say so."""

from __future__ import annotations

import itertools
from importlib.resources import files
from pathlib import Path

import pytest

from framegate.cli.demo import shipped_clip
from framegate.models.registry.model_folder import FootageSpan, Learned
from framegate.pipeline.contracts.results import Result
from framegate.stages.detect.guard import SOON_S, WORSE, audits_until_alarm
from tests.support import footage
from tests.support.asked import Asked, kill
from tests.support.commands import Command
from tests.support.own_models import tuned_model
from tests.support.runs import DEADLINE_S, published_in, said, wait_until

AUDIT_S = 0.25
FRAME_S = 0.16
CONFIG = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text()
for packaged, ours in (
    ('\ndetector = "light"\n', '\ndetector = "bad"\n'),
    ("\naudit_s = 20.0\n", f"\naudit_s = {AUDIT_S}\n"),
):
    assert packaged in CONFIG
    CONFIG = CONFIG.replace(packaged, ours)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a model that shows twice as much as is there: of the general one, with low scores."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "street.mp4").symlink_to(shipped_clip())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    registry = tmp_path / "framegate" / "models"
    registry.parent.mkdir()
    learned = Learned("light", "heavy", 100, 300, (FootageSpan("street", 0.0, 60.0),))
    least = dict.fromkeys(["car", "truck"], 0.06)
    tuned_model(registry, "bad", min_scores=least, learned=learned)
    source = '\n[sources.street]\nurl = "street.mp4"\nframes = { every = 2 }\n'
    (folder / "pipeline.toml").write_text(CONFIG + source)
    return folder


def run(folder: Path, data: str, killed: bool = False) -> list[Result]:
    """What it publishes of the clip; killed: its detector dies on the way."""
    with Command(folder, "run", "-d", data) as command:
        if killed:
            asked, over = Asked(folder, data), command.process.poll
            wait_until("50 frames", lambda: over() is not None or len(asked.seqs("street")) >= 50)
            assert over() is None, command.err
            kill(command, "shard-1")
        ended = command.wait(DEADLINE_S)
    assert ended.code == 0, ended.err
    assert "the heavy pass agrees less with bad" in ended.err
    return published_in(folder / data, ["street"])["street"].results


def test_it_serves_no_longer_than_its_audits_take(folder: Path) -> None:
    (folder / "street.mp4").unlink()
    footage.opening(shipped_clip(), folder / "street.mp4", 200)
    results = run(folder, "data")
    guards = [one.guard for one in results if one.guard is not None]
    assert len(guards) == len(results)
    rings = [guard.alarm for guard in guards].index(True)
    before, at = guards[rings - 1], guards[rings]
    assert before.behind > WORSE
    bound = audits_until_alarm(before.behind)
    assert bound is not None
    assert at.audits <= bound
    at_s = results[rings].pts
    assert at_s is not None
    assert at_s <= (bound + 1) * (min(SOON_S, AUDIT_S) + 2 * FRAME_S)
    assert before.apart <= 0.2  # what the two see is the same: no other alarm was to be expected
    served = [name for name, _ in itertools.groupby(one.models[0][:3] for one in results)]
    assert served == ["bad", "nan"]
    assert results[rings + 1].reason == "swapped"


@pytest.mark.long  # test_guard_audits.py kills it between two frames
def test_a_kill_changes_nothing_of_it(folder: Path) -> None:
    results, again = run(folder, "data"), run(folder, "k", killed=True)
    assert said(again) == said(results)
    assert [one.guard for one in again] == [one.guard for one in results]


def stands(asked: Asked) -> tuple[str, bool]:
    """Who made the newest result, and whether the alarm rings."""
    newest = asked.store.results("street")[-1]
    return newest["models"][0][:3], newest.get("guard", {}).get("alarm", False)


def bad_again(asked: Asked) -> bool:
    """Whether the model serves once more after the general one did."""
    served = itertools.groupby(one["models"][0][:3] for one in asked.store.results("street"))
    return [name for name, _ in served][:3] == ["bad", "nan", "bad"]


@pytest.mark.long
def test_to_use_what_is_in_use_says_that_its_alarm_rings_and_how_to_silence_it(
    folder: Path,
) -> None:
    asked = Asked(folder)
    with Command(folder, "run", "-d", "data", "--pace", "realtime") as command:
        asked.until("street", 1)
        wait_until("the alarm rings", lambda: stands(asked) == ("nan", True))
        told = asked.does("models", "use", "bad", "--unjudged")
        assert stands(asked) == ("nan", True)
        asked.does("models", "use", "light", "--sources", "street")
        wait_until("no guard", lambda: stands(asked) == ("nan", False))
        anew = asked.does("models", "use", "bad", "--unjudged")
        wait_until("it serves again", lambda: bad_again(asked))
        command.kill()
    assert anew.startswith("in use: bad@")
    assert "alarm" not in anew
    assert "street: it was in use already, and its guard's alarm rings" in told
    assert "framegate models use light --sources street" in told
