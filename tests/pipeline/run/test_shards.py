"""Which sources each worker serves, where several host the same stages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.run.plan import Shards

CHAIN = ["decode", "detect", "cache"]
THREE = {"shard-1": CHAIN, "shard-2": CHAIN, "shard-3": CHAIN, "collect": ["collect"]}


def specs(names: str, pace: PaceName = "fast") -> list[SourceSpec]:
    return [
        SourceSpec(f"{name}.mp4", name=name, past=0, credit=4, slots=5, pace=pace) for name in names
    ]


def served(shards: Shards, there: str) -> dict[str, str]:
    """Names of the sources that each worker serves."""
    return {worker: "".join(s.name for s in shards.of(worker, specs(there))) for worker in THREE}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True)))
def test_each_source_is_served_by_one_and_stays_there(sets: list[list[str]]) -> None:
    shards = Shards(THREE)
    before: dict[str, str] = {}
    for names in sets:
        by_worker = served(shards, "".join(names))
        assert by_worker.pop("collect") == "".join(names)
        assert sorted("".join(by_worker.values())) == sorted(names)
        now = {name: worker for worker, its in by_worker.items() for name in its}
        assert {n: now[n] for n in now if n in before} == {n: before[n] for n in now if n in before}
        for worker in by_worker:
            assert {n for n in "abcdefgh" if shards.serves(worker, n)} == set(by_worker[worker])
        before = now


def test_a_new_one_goes_where_fewest_are() -> None:
    shards = Shards(THREE)
    assert shards.spare == ["shard-2", "shard-3"]
    assert served(shards, "abcdefg")["shard-1"] == "adg"
    by_worker = served(shards, "abdgxyz")  # c, e and f went; x, y and z came
    assert by_worker == {"shard-1": "adg", "shard-2": "by", "shard-3": "xz", "collect": "abdgxyz"}


def test_at_a_live_pace_a_worker_is_filled_before_the_next_begins() -> None:
    shards = Shards(THREE, fill=2)
    camera = SourceSpec("rtsp://c", True, name="c", past=0, credit=4, slots=5, pace="fast")
    sources = [*specs("ab", "realtime"), camera, *specs("d", "realtime"), *specs("e", "fast")]
    for there in (sources[:1], sources[:3], sources):
        of_one = [source.name for source in shards.of("shard-1", there)]
        assert of_one == ["a", "b"][: len(there)]
    assert [source.name for source in shards.of("shard-2", sources)] == ["c", "d"]
    assert [source.name for source in shards.of("shard-3", sources)] == ["e"]
    more = [
        *sources,
        *specs("fghij", "realtime"),
    ]
    assert [len(shards.of(worker, more)) for worker in list(THREE)[:3]] == [4, 3, 3]


def test_a_worker_that_is_closed_keeps_what_it_has_and_gets_no_more() -> None:
    shards = Shards(THREE)
    assert served(shards, "abc")["shard-2"] == "b"
    assert shards.close("shard-2")
    assert served(shards, "abcdefg") == {
        "shard-1": "adf", "shard-2": "b", "shard-3": "ceg", "collect": "abcdefg",
    }  # fmt: skip
    assert shards.close("shard-1")
    assert not shards.close("shard-3")
    assert not shards.close("collect")


def test_who_shares_with_none_serves_all() -> None:
    shards = Shards({"shard-1": CHAIN, "collect": ["collect"]})
    assert shards.spare == []
    assert [s.name for s in shards.of("shard-1", specs("ab"))] == ["a", "b"]
    assert [s.name for s in shards.of("joined", specs("ab"))] == ["a", "b"]
    assert shards.serves("shard-1", "b")
