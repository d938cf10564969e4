"""pipeline.toml as benchmarks write it, read by the engine's own reader."""

from __future__ import annotations

from importlib.resources import files

from benchmarks.harness.configuration import packaged, with_stand_ins
from framegate.pipeline.config.config import read_config

CLIP = {"url": "a b.mp4", "pace": "fast"}
PACKAGED = files("framegate.pipeline.config").joinpath("pipeline.toml").read_text(encoding="utf-8")


def test_without_changes_it_is_the_packaged_one() -> None:
    source = '\n[sources.clip]\nurl = "a b.mp4"\npace = "fast"\n'
    assert read_config("test", packaged({"sources.clip": CLIP})) == read_config(
        "test", PACKAGED + source
    )


def test_changes_are_laid_over_what_is_packaged() -> None:
    text = packaged({"sources.clip": CLIP, "gate": {"mode": "off"}})
    plain = packaged({"sources.clip": CLIP})
    assert set(text.splitlines()) ^ set(plain.splitlines()) == {'mode = "off"', 'mode = "crops"'}


def test_stand_ins_take_the_places_of_decode_and_detect() -> None:
    decode = {"use": "benchmarks.harness.null_source:NullDecode", "fps": 7}
    detect = "benchmarks.harness.null_source:NullDetect"
    config = read_config("test", with_stand_ins({"one": {"url": "null://0"}}, decode, detect))
    uses = {stage.name: stage.use for stage in config.stages}
    assert uses.pop("escalate")
    assert uses == {
        "decode": decode["use"],
        "detect": detect,
        "cache": "framegate.stages.publish:Publish",
    }
    assert config.stages[0].options["fps"] == 7
