"""Runs that share a store share answers: the second says the same and computes nothing anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.results import Result
from tests.support.footage import bikes
from tests.support.runs import Run, published, said
from tests.support.servers import server


def from_one_on(results: Sequence[Result]) -> list[Result]:
    """The results with tracks counted from 1 on: a source's ids go on counting over its runs."""
    first = min(o.track for r in results for o in r.objects if o.track is not None) - 1
    renumbered = []
    for result in results:
        objects = tuple(
            msgspec.structs.replace(o, track=None if o.track is None else o.track - first)
            for o in result.objects
        )
        settled = tuple(msgspec.structs.replace(s, track=s.track - first) for s in result.settled)
        renumbered.append(msgspec.structs.replace(result, objects=objects, settled=settled))
    return renumbered


def test_a_second_run_says_the_same_and_remembers_nothing_new(tmp_path: Path) -> None:
    with server(tmp_path / "store") as store:
        remembered = []
        for name in ("first", "second"):
            run = Run(tmp_path / name, "--store", store.url, f"bikes={bikes()}")
            assert run.wait() == 0, run.log.read_text()
            with redis.Redis.from_url(store.url, protocol=2) as client:
                remembered.append(sorted(client.hkeys(keys.memo("bikes")[0])))
        results = published(store.url, "bikes").results
    assert len(remembered[0]) > 20
    assert remembered[0] == remembered[1]
    first, second = results[:250], results[250:]
    assert len(second) == 250
    assert said(from_one_on(first)) == said(from_one_on(second))
