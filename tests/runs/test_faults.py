"""Any write, fsync, rename, SQLite call or store command may fail: the next run has all of it.

The result of each run, with what it told its webhook and what it recorded, is compared with that of
an undisturbed run. fsck looks at each folder (`published_in`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.support.faults import ERRORS, KINDS, Fault, FaultyRuns, Outcome
from tests.support.webhooks import receiving

pytestmark = pytest.mark.whole_run

SPREAD: Sequence[Sequence[Fault]] = (
    [Fault("rename", 1, "EIO")],  # of run.json: the run does not begin
    [
        Fault("write", 5, "short"),
        Fault("fsync", 12, "EIO"),
        Fault("sqlite", 100, "IOERR"),
        Fault("store", 40, "after"),
    ],
    [
        Fault("write", 12, "ENOSPC"),
        Fault("rename", 5, "EIO"),
        Fault("sqlite", 180, "IOERR"),
        Fault("store", 60, "before"),
    ],
    [
        Fault("write", 17, "EDQUOT"),
        Fault("fsync", 24, "ENOSPC"),
        Fault("sqlite", 246, "IOERR"),
        Fault("store", 100, "after"),
    ],
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyRuns]:
    with receiving() as receiver:
        yield FaultyRuns(tmp_path_factory.mktemp("faults"), receiver)


@pytest.fixture(scope="module")
def undisturbed(runs: FaultyRuns) -> Outcome:
    ended = runs.run("undisturbed", [], "gate.mp4")
    assert ended.returncode == 0, ended.stderr
    assert all(runs.calls("undisturbed")[kind] > 5 for kind in KINDS), "each kind is counted"
    found = runs.outcome("undisturbed")
    assert len(found.results) == len(found.packets) == 225
    assert len(found.told) == 8
    assert found.reasons == []
    return found


@pytest.mark.parametrize("faults", SPREAD, ids=lambda faults: "-".join(map(_name, faults)))
def test_a_call_that_fails_costs_nothing_that_was_acknowledged(
    runs: FaultyRuns, undisturbed: Outcome, faults: Sequence[Fault]
) -> None:
    runs.check("-".join(map(_name, faults)), faults, undisturbed)


def _name(fault: Fault) -> str:
    return f"{fault.kind}{fault.n}"


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_each_call_may_fail(runs: FaultyRuns, undisturbed: Outcome, kind: str) -> None:
    """Each call of a kind in turn, each time with the next of its errors."""
    wrong = []
    for n in range(1, runs.calls("undisturbed")[kind] + 1):
        fault = Fault(kind, n, ERRORS[kind][n % len(ERRORS[kind])])
        name = f"each-{_name(fault)}"
        try:
            runs.check(name, [fault], undisturbed)
        except AssertionError as error:
            if not runs.reached(name, fault):  # which calls there are depends on the machine's pace
                continue
            wrong.append(f"{fault}: {runs.call(name, fault)}: {error}")
    assert wrong == []
