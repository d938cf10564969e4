"""When recordings are what came: the targets, by hand."""

from __future__ import annotations

from benchmarks.recording import bars

RESULT = {
    "core_share": 0.01,
    "packets": 10,
    "packets_equal": 10,
    "seek_p99_ms": 20.0,
    "lost_most_s": 0.5,
    "undecodable": 0,
}


def test_a_missing_tail_misses_a_target() -> None:
    for came, verdict in ((8, "held"), (9, "MISSED")):
        found = bars({**RESULT, "pictures_came": came, "pictures": 8})
        told = {bar.what: bar.verdict for bar in found}
        assert told.pop("pictures that came and are not recorded") == verdict
        assert set(told.values()) == {"held"}


def test_a_result_of_before_has_no_count_of_pictures() -> None:
    verdicts = [bar.verdict for bar in bars(RESULT)]
    assert verdicts.count("not measured") == 1
