"""Plain data into dataclasses: what is taken, and that all that is wrong is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from framegate.pipeline.config.read_options import read_options


@dataclass(frozen=True)
class Coffee:
    beans: str
    cups: int = field(default=2, metadata={"least": 1, "most": 12})
    strength: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})
    milk: bool = False
    roast: Literal["light", "dark"] = "dark"
    spices: tuple[Literal["clove", "nut"], ...] | None = None
    minutes: float | None = field(default=None, metadata={"least": 0.1})
    notes: dict[str, Any] = field(default_factory=dict)


def read(**table: Any) -> tuple[Coffee | None, list[str]]:
    faults: list[str] = []
    return read_options(Coffee, {"beans": "arabica", **table}, "coffee.", faults), faults


def test_defaults() -> None:
    assert read() == (Coffee("arabica"), [])


def test_every_kind() -> None:
    table = {
        "cups": 12,
        "strength": 1,
        "milk": True,
        "roast": "light",
        "spices": ["nut", "clove"],
        "minutes": 3,
        "notes": {"any": ["thing"]},
    }
    coffee, faults = read(**table)
    assert faults == []
    wanted = Coffee("arabica", 12, 1.0, True, "light", ("nut", "clove"), 3.0, {"any": ["thing"]})
    assert coffee == wanted
    assert isinstance(coffee.strength, float)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("beans", 5, "must be a string"),
        ("cups", "2", "must be a whole number, 1 to 12"),
        ("cups", 2.0, "must be a whole number, 1 to 12"),
        ("cups", True, "must be a whole number, 1 to 12"),
        ("cups", 0, "must be a whole number, 1 to 12"),
        ("cups", 13, "must be a whole number, 1 to 12"),
        ("cups", 10**400, "must be a whole number, 1 to 12"),
        ("strength", 10**400, "must be a number, 0 to 1"),
        ("minutes", 10**400, "must be a number, 0.1 or more"),
        ("strength", "strong", "must be a number, 0 to 1"),
        ("strength", 1.0001, "must be a number, 0 to 1"),
        ("strength", -0.0001, "must be a number, 0 to 1"),
        ("strength", float("nan"), "must be a number, 0 to 1"),
        ("strength", False, "must be a number, 0 to 1"),
        ("milk", 1, "must be true or false"),
        ("roast", "black", 'must be "light" or "dark"'),
        ("roast", ["light"], 'must be "light" or "dark"'),
        ("spices", "nut", 'must be a list of "clove" or "nut"'),
        ("spices", [1], 'must be a list of "clove" or "nut"'),
        ("spices", ["nut", "clov"], 'must be a list of "clove" or "nut"; did you mean clove?'),
        ("minutes", 0.05, "must be a number, 0.1 or more"),
        ("minutes", float("inf"), "must be a number, 0.1 or more"),
        ("notes", [], "must be a table"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_is_allowed(
    key: str, value: Any, allowed: str
) -> None:
    coffee, faults = read(**{key: value})
    assert coffee is None
    assert faults == [f"coffee.{key} = {value!r}: {allowed}"]


def test_all_faults_at_once() -> None:
    faults: list[str] = []
    table = {"cups": 0, "sugar": 1, "roast": "green"}
    assert read_options(Coffee, table, "coffee.", faults) is None
    assert [fault.split(":")[0] for fault in faults] == [
        "coffee.sugar",
        "coffee.beans",
        "coffee.cups = 0",
        "coffee.roast = 'green'",
    ]
    assert "unknown key; known keys are beans, cups, " in faults[0]
    assert faults[1] == "coffee.beans: missing; it must be a string"


def test_faults_of_others_do_not_matter() -> None:
    faults = ["another table: wrong"]
    assert read_options(Coffee, {"beans": "x"}, "", faults) == Coffee("x")


words = st.sampled_from(["", "light", "nut", "clove", "x"])
single = st.none() | st.booleans() | st.integers(-20, 20) | st.floats() | words
anything = single | st.lists(single, max_size=3) | st.dictionaries(words, single, max_size=2)


@given(st.dictionaries(st.sampled_from([*Coffee.__dataclass_fields__, "sugar"]), anything))
def test_whatever_toml_holds_is_taken_or_told(table: dict[str, Any]) -> None:
    faults: list[str] = []
    coffee = read_options(Coffee, table, "coffee.", faults)
    assert (coffee is None) == bool(faults)
    if coffee is not None:
        assert 1 <= coffee.cups <= 12
        assert 0.0 <= coffee.strength <= 1.0
        assert set(coffee.spices or ()) <= {"clove", "nut"}
        assert all(key in Coffee.__dataclass_fields__ for key in table)
