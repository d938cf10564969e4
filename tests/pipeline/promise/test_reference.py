"""The heavy model in certificates: which one, and how accurate by labels."""

from __future__ import annotations

import msgspec

from benchmarks import heavy_by_labels
from benchmarks.all import kept
from framegate.models.detector import policy
from framegate.pipeline.promise.certificate import (
    close,
    declare,
    read_certificate,
    undeclared,
    verify,
)
from framegate.pipeline.promise.period import Period, following
from framegate.pipeline.promise.reference import TABLE, Reference, reference_of
from tests.pipeline.promise.test_certificate import KEY, PROMISE, period_of

HEAVY = Reference(("small-416", "large-640"), 0.81, 0.5, 5, 1234)


def row(
    clip: str, role: str, f1: float, configuration: str = "heavy-gate-off"
) -> dict[str, object]:
    """A row of `benchmarks.truth`."""
    shown = {"clip": clip, "role": role, "configuration": configuration}
    return shown | {"f1": f1, "labels": 100}


def test_the_accuracy_is_of_the_heavy_model_on_clips_that_chose_nothing() -> None:
    conditions = {"version": "1", "commit": "0123456789ab", "date": "2026-01-01", "cpu": "x"}
    rows = [row("a", "reports", 0.9), row("b", "reports", 0.5), row("c", "chooses", 0.1)]
    rows.append(row("a", "reports", 0.2, "default"))
    lines = heavy_by_labels.text({"rows": rows, "conditions": conditions}).splitlines()
    assert lines[-4:] == ["f1 = 0.700", "lowest_f1 = 0.500", "clips = 2", "labels = 200"]
    assert "commit 012345678," in lines[2]


def test_the_kept_accuracy_is_of_the_heavy_model_that_ships() -> None:
    """If this fails, measure `benchmarks.truth` again, then run `benchmarks.figures`."""
    shipped = reference_of(policy.load("heavy").members)
    assert shipped.f1 is not None
    assert shipped.lowest_f1 is not None
    assert 0 < shipped.lowest_f1 <= shipped.f1 < 1
    truth = kept("truth")
    if truth is not None:
        assert TABLE.read_text(encoding="utf-8") == heavy_by_labels.text(truth)


def test_another_model_has_no_accuracy_until_it_is_measured() -> None:
    other = reference_of(("large-640",))
    assert other == Reference(("large-640",))
    assert str(other) == ("the heavy model is large-640; its accuracy by labels was not measured")
    assert str(HEAVY) == (
        "the heavy model is small-416 + large-640; by labels, its mean F1 is 0.81 in 5 "
        "clips (1234 objects; lowest: 0.50)"
    )


def test_a_certificate_names_the_model_that_was_declared() -> None:
    declared = declare(following(Period(), PROMISE), PROMISE, KEY, "door", HEAVY)
    certificate = close(period_of(PROMISE), PROMISE, KEY, "door", "0a1b2c3d", HEAVY)
    assert read_certificate(msgspec.json.encode(certificate)) == certificate
    assert verify(certificate) == undeclared(certificate, declared) == []
    # A newer Framegate may have measured the same model again.
    again = msgspec.structs.replace(certificate, reference=Reference(HEAVY.networks, 0.9))
    assert undeclared(again, declared) == []
    other = msgspec.structs.replace(certificate, reference=Reference(("large-640",)))
    [fault] = undeclared(other, declared)
    assert fault.startswith("reference = the heavy model is large-640; ")
    # A record of an older version names none.
    older = msgspec.structs.replace(declared, reference=None)
    assert undeclared(certificate, older) == []
