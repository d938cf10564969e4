"""A model that cannot serve is refused with its reason, and the one in use goes on: one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from framegate.models.registry.manifest import FootageSpan, Learned
from framegate.pipeline.contracts.errors import ModelNotTaken, RunRefused
from framegate.pipeline.run.rpc import Use, ask
from framegate.stages.detect.prepared_models import choose
from tests.runs.test_swaps import CONFIG
from tests.support import footage
from tests.support.asked import Asked, frames
from tests.support.commands import Command, framegate
from tests.support.own_models import own_model, relabelled, without_numbers
from tests.support.runs import published_in

pytestmark = pytest.mark.whole_run

DONE = 0
SIZE = (128, 96)
FRAMES = 10_000  # 400 s at a camera's pace: more than the test may take


def untouched(registry: Path) -> None:
    own_model(registry, "mine", size=SIZE)


def changed(registry: Path) -> None:
    file = own_model(registry, "mine", size=SIZE).path / "model.bin"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


def truncated(registry: Path) -> None:
    file = own_model(registry, "mine", size=SIZE).path / "model.bin"
    file.write_bytes(file.read_bytes()[:-1000])


def gone(registry: Path) -> None:
    (own_model(registry, "mine", size=SIZE).path / "model.xml").unlink()


def with_path_out(registry: Path) -> None:
    file = own_model(registry, "mine", size=SIZE).path / "manifest.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"model.bin"', '"../model.bin"'), encoding="utf-8"
    )


def not_a_number(registry: Path) -> None:
    own_model(registry, "mine", size=SIZE, model=without_numbers(SIZE))


def other_shapes(registry: Path) -> None:
    own_model(registry, "mine", size=SIZE, classes=("person", "car", "bicycle"))


def other_classes(registry: Path) -> None:
    own_model(registry, "mine", size=SIZE, classes=relabelled())


def slow(registry: Path) -> None:
    """On any machine, beside the millisecond that the configuration allows."""
    own_model(registry, "mine", size=(640, 480))


CASES: list[tuple[Callable[[Path], None], str, tuple[str, ...]]] = [
    (untouched, "other", ("model 'other': not in the registry, which has mine@1",)),
    (changed, "mine", ("model.bin: expected sha256 ", "found ")),
    (truncated, "mine", ("model.bin: expected sha256 ", "found ")),
    (gone, "mine", ("model.xml: expected sha256 ", "No such file")),
    (with_path_out, "mine", ("not in the registry",)),
    (not_a_number, "mine", ("warm-up", "not finite")),
    (other_shapes, "mine", ("output: expected", ", 111), found")),
    (other_classes, "mine", ("not among the 80 classes of mine: person", "it has part 0")),
    (slow, "mine", (" ms for a picture on this machine; the limit is 1 ms ([models] most_ms)",)),
]


def test_a_model_without_a_verdict_serves_only_if_its_user_insists(tmp_path: Path) -> None:
    folder, registry = tmp_path / "user", tmp_path / "registry"
    folder.mkdir()
    registry.mkdir()
    learned = Learned("light", "heavy", 100, 300, (FootageSpan("door", 0.0, 60.0),))
    own_model(registry, "mine", size=SIZE, learned=learned)
    (folder / "pipeline.toml").write_text(CONFIG, encoding="utf-8")
    footage.write_scene(folder / "door.mp4", footage.steady(FRAMES))
    asked = Asked(folder)
    words = ("models", "use", "mine", "--registry", str(registry), "-d", "data")
    with Command(folder, "run", "door.mp4", "-d", "data", "--pace", "realtime") as run:
        asked.until("door", 5)
        refused = framegate(folder, *words)
        assert refused.code != DONE
        assert "learned from footage and may not serve" in refused.err
        assert "--unjudged overrides this" in refused.err
        used = framegate(folder, *words, "--unjudged")
        assert used.code == DONE, used.err
        assert "in use: mine@" in used.out
        assert asked.written()["door"]["model"].startswith("mine@")
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err


def test_the_model_in_use_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    options = 'detector = "nanodet-plus-128"\nclasses = ["person"]\n'
    config = CONFIG.replace('detector = "nanodet-plus-128"\n', options)
    config = config.replace("\nmost_ms = 250.0\n", "\nmost_ms = 1.0\n")
    (folder / "pipeline.toml").write_text(config, encoding="utf-8")
    footage.write_scene(folder / "door.mp4", footage.steady(FRAMES))
    asked, data = Asked(folder), folder / "data"
    with Command(folder, "run", "door.mp4", "-d", "data", "--pace", "realtime") as run:
        asked.until("door", 5)
        for n, (make, name, says) in enumerate(CASES):
            registry = tmp_path / str(n) / "registry"
            registry.mkdir(parents=True)
            make(registry)
            with pytest.raises((ModelNotTaken, RunRefused)) as refused:
                ask(data, Use(choose(name, data, registry), []))
            missing = [part for part in says if part not in str(refused.value)]
            assert not missing, f"{make.__name__}: {refused.value}"
            assert asked.written()["door"]["model"] == ""
        asked.until("door", len(asked.seqs("door")) + 5)
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    found = published_in(data, ["door"])["door"]
    assert [tuple(position) for position in found.positions] == frames(1, len(found.positions))
    assert {result.models[0][:17] for result in found.results} == {"nanodet-plus-128-"}
