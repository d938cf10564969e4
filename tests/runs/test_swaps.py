"""Models change under load: no frame is lost, doubled or out of order, each names one model set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import RunRefused
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.run.rpc import RollBack, Use, ask
from framegate.stages.detect.prepared_models import choose
from tests.support import footage
from tests.support.asked import Asked, frames, kill
from tests.support.commands import Command
from tests.support.own_models import own_model
from tests.support.runs import published_in, wait_until

pytestmark = pytest.mark.whole_run

DONE = 0
FRAMES = 6000  # so many that no source is over before its last change; then the run is interrupted
SIZE = (128, 96)  # small networks: the test is about their change
SOURCES = ("a", "b")
CONFIG = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text(encoding="utf-8")
for packaged, ours in (
    ('\ndetector = "light"\n', '\ndetector = "nanodet-plus-128"\n'),
    ('\nmode = "crops"\n', '\nmode = "off"\n'),
    ("\nexact = true\n", "\nexact = false\n"),
):
    assert packaged in CONFIG
    CONFIG = CONFIG.replace(packaged, ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "pipeline.toml").write_text(CONFIG, encoding="utf-8")
    clip = footage.bikes()
    for source in SOURCES:
        if clip is None:
            footage.write_scene(folder / f"{source}.mp4", footage.steady(FRAMES))
        else:
            footage.repeat(clip, folder / f"{source}.mp4", -(-FRAMES // 250))
    for version in ("1", "2"):
        score = 0.3 + int(version) / 100
        own_model(tmp_path / "registry", "mine", version, size=SIZE, min_score=score)
    return folder


def test_models_change_under_load_while_a_worker_dies(folder: Path) -> None:
    asked, data = Asked(folder), folder / "data"
    data.mkdir()
    (
        data / "lock"
    ).touch()  # models that a run is given are there before it only in a folder of one
    one, two = (choose(f"mine@{n}", data, folder.parent / "registry") for n in ("1", "2"))
    with Command(folder, "run", "a.mp4", "b.mp4", "-d", "data") as run:
        asked.until("a", 20)
        asked.until("b", 1)  # in a shard of its own
        ask(data, Use(one, []))
        seen(asked, "a", named(one))
        seen(asked, "b", named(one))
        kill(run, "shard-1")
        ask_until_taken(data, Use(two, ["a"]))
        seen(asked, "a", named(two))
        with pytest.raises(RunRefused, match="no such source"):
            ask(data, Use("nanodet-plus-128", ["nobody"]))
        ask(data, Use("nanodet-plus-128", ["b"]))
        seen(asked, "b", "nanodet-plus-128")
        ask(data, RollBack([]))
        for source in SOURCES:
            seen(asked, source, named(one))
        written = asked.written()
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert (written["a"]["model"], written["b"]["model"]) == (one, one)
    known = published_in(data, SOURCES)
    in_turn = {
        "a": ["nanodet-plus-128", one, two, one],
        "b": ["nanodet-plus-128", one, "nanodet-plus-128", one],
    }
    for source, found in known.items():
        assert not found.ended
        assert [tuple(position) for position in found.positions] == frames(1, len(found.positions))
        assert all(len(result.models) == 1 for result in found.results)
        served = [group for group, _ in itertools.groupby(r.models[0] for r in found.results)]
        assert len(served) == 4
        for name, model in zip(served, in_turn[source], strict=True):
            assert name.startswith(named(model).split("*")[0])
    # One model may see other things than the next, so at some changes none goes on.
    sides = [both for found in known.values() for both in sides_of_changes(found.results)]
    assert any(before & after for before, after in sides)


def named(model: str) -> str:
    """How results name it, but for the precision."""
    name, _, digest = model.partition("@")
    return f"{name}-128*@{digest[:8]}" if digest else name


def seen(asked: Asked, source: str, name: str) -> None:
    """Wait until a result of the source names the model."""

    begin, _, end = name.partition("*")

    def is_seen() -> bool:
        with asked.store.client as client:
            newest = client.xrevrange(keys.results(source), count=1)
        said = records.decode_versioned(newest[0][1][b"d"], Result).models[0] if newest else ""
        return said.startswith(begin) and said.endswith(end)

    wait_until(f"{name} serves {source}", is_seen)


def ask_until_taken(data: Path, question: Use) -> None:
    """A worker that has just died refuses for it; the next one takes it."""

    def is_taken() -> bool:
        try:
            ask(data, question)
        except RunRefused:
            return False
        return True

    wait_until("it is taken", is_taken)


def sides_of_changes(results: list[Result]) -> Iterator[tuple[set[int], set[int]]]:
    """Tracks of the 25 results before each change of models, and of those after it."""
    for place in range(1, len(results)):
        if results[place - 1].models != results[place].models:
            sides = results[max(0, place - 25) : place], results[place : place + 25]
            before, after = (
                {o.track for r in side for o in r.objects if o.track} for side in sides
            )
            yield before, after
