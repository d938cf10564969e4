"""What the soak of a fleet counts, by hand."""

from __future__ import annotations

from benchmarks.fleet_soak.checks import Silence
from benchmarks.fleet_soak.soak_fleet import SoakFleet


class _Counted(SoakFleet):
    """A fleet of one source with given numbers of results."""

    def __init__(self) -> None:
        self.sources = ["camera0"]
        self.results = 0

    def published(self) -> list[int]:
        return [self.results]


def test_silence_is_summed_over_spans_in_which_nothing_is_broken() -> None:
    fleet = _Counted()
    silence = Silence(fleet)
    silence.sample(0.0, is_whole=True)
    silence.sample(10.0, is_whole=True)
    silence.sample(15.0, is_whole=False)
    silence.sample(22.0, is_whole=True)
    assert silence.worst_s == (17.0, "camera0")
    fleet.results = 1
    silence.sample(25.0, is_whole=True)
    silence.sample(30.0, is_whole=True)
    assert silence.worst_s == (17.0, "camera0")
