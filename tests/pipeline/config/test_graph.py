"""The graph: every fault of it told at once; main path, reliable readers, placement, drawing."""

from __future__ import annotations

import random

import pytest

from framegate.pipeline.config.graph import (
    StageEntry,
    drawn,
    graph_faults,
    in_shards,
    place,
    stage_specs,
)
from framegate.pipeline.contracts.spec import WorkerSpec
from framegate.pipeline.run.printer import print_spec

CHAIN = ("decode", "window", "detect", "escalate", "cache")


def entry(name: str, reads: str | None, on_lag: str = "drop", pixels: int = 0) -> StageEntry:
    return StageEntry(name, f"stages.{name}:X", reads, on_lag, name == "cache", pixels, {})


def chain() -> list[StageEntry]:
    return [entry(name, reads) for name, reads in zip(CHAIN, (None, *CHAIN), strict=False)]


def faults(*stages: StageEntry, **placement: list[str]) -> list[str]:
    return graph_faults(stages, placement)


def test_the_packaged_chain_has_no_fault() -> None:
    assert faults(*chain(), ingest=["decode", "window"], publish=["escalate", "cache"]) == []


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (entry("print", "cache"), "stages.print: this name is reserved for framegate run --json"),
        (entry("save", "cache"), "stages.save: this name is reserved for framegate run --save"),
        (entry("visits", "cache"), "stages.visits: this name is reserved for the stream of visits"),
        (
            entry("Big", "cache"),
            "stages.Big: not the name of a stage; a name is a lower-case letter",
        ),
        (entry("x" * 33, "cache"), "not the name of a stage; a name is a lower-case letter"),
        (
            entry("lost", "nowhere"),
            "stages.lost.input = 'nowhere': there is no such stage; stages",
        ),
        (entry("root", None), "stages.root.input: missing; every stage but decode needs"),
        (entry("self", "self"), "stages.self.input: the inputs form a cycle: self <- self"),
        (
            entry("eyes", "cache", pixels=1),
            "stages.eyes.input = 'cache': this stage uses pixels, and",
        ),
    ],
)
def test_a_faulty_stage(stage: StageEntry, fault: str) -> None:
    [found] = faults(*chain(), stage)
    assert fault in found


def test_a_cycle_names_its_way_round() -> None:
    ring = [entry("a", "c"), entry("b", "a"), entry("c", "b")]
    found = faults(*chain(), *ring)
    assert found[0] == "stages.a.input: the inputs form a cycle: a <- c <- b <- a"
    assert len(found) == 3


def test_what_hangs_on_a_cycle_is_not_in_it() -> None:
    found = faults(*chain(), entry("a", "b"), entry("b", "a"), entry("c", "b"))
    assert [fault.split(":")[0] for fault in found] == ["stages.a.input", "stages.b.input"]


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        (chain()[1:], "stages.decode: must exist, and must have no input"),
        (
            chain()[:4],
            "stages: none publish; exactly one stage must publish results (stages.cache)",
        ),
        (
            [*chain(), StageEntry("twin", "x:X", "detect", "drop", True, 0, {})],
            "stages: cache, twin publish; exactly one stage must publish results (stages.cache)",
        ),
    ],
)
def test_what_a_graph_needs(stages: list[StageEntry], fault: str) -> None:
    assert fault in faults(*stages)


def test_what_reads_a_side_stage_is_waited_for_by_nobody_and_sees_no_pixels() -> None:
    side = entry("side", "detect", on_lag="wait")
    assert faults(*chain(), side, entry("after", "side")) == []
    assert faults(*chain(), side, entry("after", "side", on_lag="wait", pixels=1)) == [
        "stages.after.on_lag = 'wait': this stage reads the side stage side, whose last outputs "
        "stay until they are read; must be drop",
        "stages.after.input = 'side': this stage reads the side stage side, and needs pixels, "
        "which may be gone by then; must be a stage of the main path",
    ]


def test_placement() -> None:
    found = faults(*chain(), one=["decode", "nobody"], two=["decode"], Three=[])
    assert found == [
        "placement.one: 'nobody': there is no such stage",
        "placement.two: 'decode' is already in one",
        "placement.Three: not the name of a worker; a name is a lower-case letter, then up to 31 "
        "lower-case letters, digits or _",
    ]


def test_specs_stand_in_order_of_reading_whatever_the_order_in_the_file() -> None:
    stages = [*chain(), entry("side", "detect"), entry("sure", "detect", on_lag="wait")]
    stages += [entry("second", "side"), entry("third", "second")]
    for seed in range(20):
        random.Random(seed).shuffle(stages)
        specs = stage_specs(stages)
        at = {spec.name: i for i, spec in enumerate(specs)}
        assert all(spec.input is None or at[spec.input] < at[spec.name] for spec in specs)
        assert {spec.name for spec in specs if spec.main} == set(CHAIN)
        assert {spec.name for spec in specs if spec.reliable} == {*CHAIN, "sure"}
        assert [spec.name for spec in specs if spec.publishes] == ["cache"]
        assert {spec.name for spec in specs if spec.reads_side} == {"second", "third"}


def test_shards_are_started_in_so_many_copies() -> None:
    workers = {"shard": ["decode", "detect"], "people": ["people"]}
    assert in_shards(workers, 2) == {
        "shard-1": ["decode", "detect"],
        "shard-2": ["decode", "detect"],
        "people": ["people"],
    }
    assert in_shards(workers, 0) == workers


def test_what_is_not_placed_gets_a_worker_of_its_own() -> None:
    specs = stage_specs([*chain(), entry("side", "cache")])
    assert place(specs, {"ingest": ["window", "decode"], "rest": ["cache", "detect"]}) == {
        "ingest": ["decode", "window"],
        "rest": ["detect", "cache"],
        "escalate": ["escalate"],
        "side": ["side"],
    }


def test_drawing_shows_each_stage_below_its_input() -> None:
    specs = stage_specs([*chain(), entry("side", "detect"), entry("sure", "cache", on_lag="wait")])
    lines = drawn(specs, place(specs, {"ingest": ["decode", "window"]})).splitlines()
    words = [line.replace("└─", "").split() for line in lines]
    depth = {
        word[0]: len(line) - len(line.lstrip()) for word, line in zip(words, lines, strict=True)
    }
    assert [word[0] for word in words] == [
        "decode", "window", "detect", "escalate", "cache", "sure", "side",
    ]  # fmt: skip
    assert depth["side"] == depth["escalate"] < depth["cache"] < depth["sure"]
    assert words[0][1:] == ["in", "ingest", "stages.decode:X"]
    assert words[-1][1:] == ["in", "side", "stages.side:X", "(side)"]
    assert words[-2][1:] == ["in", "sure", "stages.sure:X", "(side,", "waited", "for)"]


def test_files_wait_for_a_stage_that_may_miss_frames_of_cameras() -> None:
    specs = stage_specs([*chain(), entry("hears", "decode", on_lag="files")])
    spec = WorkerSpec("w", "r", "", "", 1, specs, [s.name for s in specs], [])
    assert spec.readers("decode", live=False) == ("window", "hears")
    assert spec.readers("decode", live=True) == ("window",)
    assert spec.last_readers(live=False) == ("hears", "cache")
    assert spec.last_readers(live=True) == ("cache",)
    printing = WorkerSpec("w", "r", "", "", 1, [*specs, print_spec("cache")], [], [])
    assert printing.last_readers(live=True) == ("cache",)  # printing needs no pixels
    assert printing.readers("cache", live=True) == printing.trailing() == ("print",)
    assert "hears" in drawn(specs, {"w": spec.hosted})
    assert "files wait for it" in drawn(specs, {"w": spec.hosted})
