"""A likeness: its text, its numbers, and what it learns from marks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from framegate.models.sound.yamnet import labels
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.likeness import (
    NAMES,
    NUMBERS,
    SOUNDS,
    Likeness,
    LikenessInvalid,
    numbers_of,
)
from framegate.pipeline.contracts.visits import PathPoint, Visit
from framegate.pipeline.review.likeness_fit import fit
from framegate.pipeline.review.visit_search import (
    best_rows,
    by_example,
    by_likeness,
    by_words,
    table_of,
)
from tests.support.said import visit


def moving(
    number: int, begin: tuple[float, float], end: tuple[float, float], **more: object
) -> Visit:
    path = tuple(
        PathPoint(
            2.0 * n, begin[0] + (end[0] - begin[0]) * n / 4, begin[1] + (end[1] - begin[1]) * n / 4
        )
        for n in range(5)
    )
    usual = visit(number, number + 80, number)
    return msgspec.structs.replace(usual, path=path, **more)


def street() -> list[Visit]:
    """Forty visits: each second one to the left, each fourth a car, each fifth stops."""
    random = np.random.default_rng(3)
    visits = []
    for n in range(40):
        y = 0.5 + 0.3 * random.random()
        begin, end = (0.05 + 0.1 * random.random(), y), (0.85 + 0.1 * random.random(), y)
        if n % 2:
            begin, end = end, begin
        label = "car" if n % 4 < 2 else "person"
        stops = 1 if n % 5 == 0 else 0
        visits.append(moving(n, begin, end, label=label, stops=stops, dwell_s=4.0 * stops))
    return visits


def test_numbers_by_hand() -> None:
    there = moving(3, (0.2, 0.9), (0.8, 0.9), speed=0.1, dwell_s=1.0)
    numbers = dict(zip(NAMES, numbers_of(there), strict=True))
    assert numbers["begin_x"] == 0.2
    assert numbers["middle_x"] == pytest.approx(0.5)
    assert (numbers["heading_x"], numbers["heading_y"]) == (pytest.approx(1.0), 0.0)
    assert numbers["offset"] == pytest.approx(0.4)
    assert numbers["straight"] == pytest.approx(1.0)
    assert numbers["stood"] == pytest.approx(math.log(2.0))
    assert numbers["aspect"] == pytest.approx(math.log(0.05 / 0.2))
    assert (numbers["red"], numbers["black"], numbers["white"]) == (0.6, 0.3, 0.0)
    assert (numbers["person"], numbers["car"]) == (1.0, 0.0)
    assert (numbers["heard_dog"], numbers["heard_alarm"]) == (0.0, 0.0)
    heard = msgspec.structs.replace(there, sounds=("Bark", "Whimper (dog)", "Silence"))
    sounds = dict(zip(NAMES, numbers_of(heard), strict=True))
    assert {name for name in NAMES if sounds[name] != numbers[name]} == {"heard_dog"}
    lost = msgspec.structs.replace(there, path=(), size=(0.0, 0.0), speed=0.0)
    assert all(map(math.isfinite, numbers_of(lost)))


def test_sounds_have_names_of_the_network() -> None:
    named = [label for names in SOUNDS.values() for label in names]
    assert set(named) <= set(labels())
    assert len(set(named)) == len(named)


def test_marks_with_a_bark_find_others_with_a_bark() -> None:
    """The same cars to the right, and a dog barks during half of them."""
    visits = [
        msgspec.structs.replace(each, sounds=("Dog", "Bark") * (n % 8 == 0))
        for n, each in enumerate(street())
    ]
    table = table_of(visits)
    strength = by_likeness(table, fit(table, [0, 8, 16, 24, 32], [4, 12, 20]))
    others = [n for n in range(0, 40, 4) if n % 8]
    assert strength[[0, 8, 16, 24, 32]].min() > strength[others].max()


def test_its_text_is_one_line_and_exact() -> None:
    random = np.random.default_rng(1)
    values = np.float32(random.normal(size=NUMBERS + 1)).tolist()
    likeness = Likeness(tuple(values[:-1]), values[-1], (5, 2))
    text = likeness.text()
    assert Likeness.read(text) == likeness
    assert "\n" not in text
    assert len(text) < 260


@pytest.mark.parametrize("text", ["", "like2:", "like2:AAAA", "like3:AAAA", "like2:???"])
def test_what_is_no_likeness_is_refused(text: str) -> None:
    with pytest.raises(LikenessInvalid):
        Likeness.read(text)


def test_arrays_and_records_agree() -> None:
    visits = street()
    table = table_of(visits)
    likeness = fit(table, [0, 4, 8, 12, 16])
    each = [likeness.of(there) for there in visits]
    assert by_likeness(table, likeness) == pytest.approx(each, abs=2e-4)


def test_five_marks_find_the_others() -> None:
    """Cars to the right, by five of them; the other five come before everything else."""
    table = table_of(street())
    likeness = fit(table, [0, 4, 8, 12, 16])
    order = np.argsort(-by_likeness(table, likeness), kind="stable").tolist()
    assert sorted(order[:10]) == list(range(0, 40, 4))


def test_fewer_than_five_marks_are_too_few() -> None:
    with pytest.raises(ConfigFaults, match="a likeness needs 5; mark 2 more"):
        fit(table_of(street()), [0, 4, 8])


def test_marks_of_others_count() -> None:
    table = table_of(street())
    without = by_likeness(table, fit(table, [0, 4, 8, 12, 16]))
    with_others = by_likeness(table, fit(table, [0, 4, 8, 12, 16], [2, 6, 10]))
    assert with_others[14] < without[14]


def test_words_select_what_they_say() -> None:
    visits = street()
    table = table_of(visits)
    found = best_rows(table, by_words(table, "car, left, stops"), 100)
    expected = [n for n in range(40) if n % 4 == 1 and n % 5 == 0]
    assert sorted(found) == expected
    assert sorted(best_rows(table, by_words(table, "person, not stops, from left"), 100)) == [
        n for n in range(40) if n % 4 == 2 and n % 5
    ]
    assert best_rows(table, by_words(table, "red, at door, to right, longer than 2s"), 3)
    assert len(best_rows(table, by_words(table, ""), 7)) == 7


@pytest.fixture
def utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()  # later tests have the time zone of the machine again


@pytest.mark.usefixtures("utc")
def test_times_of_the_day() -> None:
    table = table_of(street())
    began = time.gmtime(table.began[0])
    before = f"before {began.tm_hour:02}:{began.tm_min + 1:02}"
    assert by_words(table, before)[0] == 1
    assert by_words(table, before.replace("before", "after"))[0] == 0
    day = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    assert by_words(table, day[began.tm_wday])[0] == 1


@pytest.mark.parametrize("text", ["lef", "car, blu", "after noon", "at window"])
def test_an_unknown_word_is_refused(text: str) -> None:
    with pytest.raises(ConfigFaults):
        by_words(table_of(street()), text)


def test_the_vocabulary_is_in_the_error() -> None:
    with pytest.raises(
        ConfigFaults, match=r"'lef' is not a known word; did you mean left\?.*stops"
    ):
        by_words(table_of(street()), "lef")


def test_an_example_is_nearest_to_itself() -> None:
    table = table_of(street())
    strength = by_example(table, 12)
    assert strength[12] == 1
    assert int(np.argsort(-strength, kind="stable")[1]) % 4 == 0
