"""The search: a shared network says what its architectures say by themselves, and time is kept."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="students are torch modules")

from torch import Tensor  # noqa: E402

from framegate.models.boxes import Boxes, empty  # noqa: E402
from framegate.models.learning.examples import Example  # noqa: E402
from framegate.models.picture import from_bgr  # noqa: E402
from framegate.models.training import shared_network  # noqa: E402
from framegate.models.training.blocks import PAIR, Block  # noqa: E402
from framegate.models.training.lessons import Lesson, lesson  # noqa: E402
from framegate.models.training.part_times import PartTimes, parts  # noqa: E402
from framegate.models.training.search import Gates, Search, SearchSchedule, apart  # noqa: E402
from framegate.models.training.shared_network import (  # noqa: E402
    Shared,
    Space,
    shared_from,
)
from framegate.models.training.student import Architecture, Student  # noqa: E402

SIZE = (64, 64)
LARGEST = replace(
    Architecture(),
    stages=tuple(replace(stage, width=16) for stage in Architecture().stages),
    pyramid=16,
    n_classes=2,
)
SPACE = Space(LARGEST, blocks=(PAIR, Block("rep"), Block("large", 7), None), shares=(1.0, 0.5))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def narrow() -> Student:
    torch.manual_seed(0)
    return Student(LARGEST).eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    made: Tensor = 255 * torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture
def shared(narrow: Student, pictures: Tensor) -> Shared:
    return shared_from(SPACE, narrow, pictures, steps=2)


def made_times() -> PartTimes:
    """As if each part took as many microseconds as its key has of channels, and then some."""
    ms = {
        key: 1e-3 * (1 + sum(int(word) for word in key.replace(">", " ").split() if word.isdigit()))
        for key in SPACE.keys(SIZE)
    }
    return PartTimes(SIZE, ms, fixed=0.01, scale=1.1)


def made_lesson(seed: int) -> Lesson:
    noise = np.random.default_rng(seed)
    picture = from_bgr(noise.integers(0, 256, (64, 64, 3), np.uint8))
    box = np.array([[10, 10, 40, 40]], np.float32)
    sure = Boxes(box, np.ones(1, np.float32), np.array([seed % 2], np.int32))
    return lesson(Example(picture, sure, empty(), "made", float(seed)), 64)


def a_search(shared: Shared, share: float = 0.7) -> Search:
    schedule = SearchSchedule(
        shared_steps=2, gate_steps=2, between=1, pictures=2, by_chance=1, drawn=2, share=share
    )
    lessons = [made_lesson(seed) for seed in range(4)]
    return Search(shared, lessons, SIZE, made_times(), schedule)


def test_the_largest_says_what_the_narrowed_net_says(
    shared: Shared, narrow: Student, pictures: Tensor
) -> None:
    same = shared.network(SPACE.largest, pictures)
    with torch.no_grad():
        for ours, theirs in zip(same(pictures)[:3], narrow(pictures)[:3], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_blocks_of_other_kinds_learn_what_the_narrowed_net_says(
    narrow: Student, pictures: Tensor
) -> None:
    """All at once: a stem, blocks and heads of another kind, as wide as the largest."""
    is_kind = re.compile("stem|head|place")
    other = SPACE.architecture(
        {name: of[bool(is_kind.match(name))] for name, of in SPACE.decisions.items()}
    )
    with torch.no_grad():
        wanted = list(narrow(pictures)[:3])
    gaps = []
    for steps in (0, 20):
        torch.manual_seed(0)
        shared = shared_from(SPACE, narrow, pictures, steps=steps)
        gaps.append(float(apart(shared.heads(other, pictures), wanted).detach()))
    assert gaps[1] < 0.7 * gaps[0]


def test_an_architecture_alone_says_what_it_says_in_the_shared_network(
    shared: Shared, pictures: Tensor
) -> None:
    draw = random.Random(3)
    for _ in range(4):
        one = SPACE.architecture(SPACE.drawn(draw))
        alone = Student(one)
        alone.load_state_dict({k: v.detach() for k, v in shared.weights(one).items()})
        with torch.no_grad():
            pairs = zip(alone.train()(pictures)[:3], shared.heads(one, pictures), strict=True)
            assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in pairs)


def test_gates_draw_by_their_chances() -> None:
    gates, draw = Gates(SPACE, made_times()), random.Random(0)
    with torch.no_grad():
        gates.numbers["place 2.0"][2] = 3.0
    gates.settle("pyramid", 1)
    drawn = [gates.drawn(draw) for _ in range(400)]
    chance = float(gates.shares()["place 2.0"][2].detach())
    had = [one["place 2.0"] == SPACE.blocks[2] for one in drawn]
    assert float(np.mean(had)) == pytest.approx(chance, abs=0.06)
    assert {one["pyramid"] for one in drawn} == {8}
    sizes = [
        len(of) for name, of in SPACE.decisions.items() if name not in ("place 2.0", "pyramid")
    ]
    wanted = np.log(chance) - np.log(sizes).sum()
    one = next(one for one in drawn if one["place 2.0"] == SPACE.blocks[2])
    assert float(gates.log_chance(one).detach()) == pytest.approx(wanted, rel=1e-4)


def test_the_gates_time_is_the_mean_over_what_they_draw() -> None:
    """By drawing: what the tables give is the mean of the sums of parts."""
    times, gates = made_times(), Gates(SPACE, made_times())
    draw = random.Random(0)
    drawn = [times.of(SPACE.architecture(SPACE.drawn(draw))) for _ in range(3000)]
    assert float(gates.ms(gates.shares()).detach()) == pytest.approx(
        float(np.mean(drawn)), rel=0.02
    )


def test_of_one_choice_the_gates_time_is_its_own() -> None:
    times, gates = made_times(), Gates(SPACE, made_times())
    choice = SPACE.drawn(random.Random(7))
    for name, value in choice.items():
        gates.settle(name, gates.decisions[name].index(value))
    assert float(gates.ms(gates.shares()).detach()) == pytest.approx(
        times.of(SPACE.architecture(choice))
    )


def test_covering_architectures_have_every_part() -> None:
    covering = SPACE.covering(SIZE, times=1)
    assert {part.key for one in covering for part in parts(one, SIZE)} == SPACE.keys(SIZE)


def test_a_search_keeps_the_time_and_is_the_same_again(narrow: Student, pictures: Tensor) -> None:
    found = []
    for _ in range(2):
        search = a_search(shared_from(SPACE, narrow, pictures, steps=2))
        search.learn_shared()
        found.append(search.choose())
        assert made_times().of(found[-1]) <= search.allowed_ms
    assert found[0] == found[1]
    assert made_times().of(found[0]) < made_times().of(SPACE.largest)


def test_what_is_drawn_takes_the_time_that_is_allowed() -> None:
    times, draw = made_times(), random.Random(1)
    allowed = 0.7 * times.of(LARGEST)
    for _ in range(5):
        assert 0.94 * allowed <= times.of(SPACE.drawn_within(draw, times, allowed)) <= allowed


def test_no_architecture_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_network, "_DRAWS", 20)
    with pytest.raises(ValueError, match=r"no architecture of the space takes 0\.00 to 0\.00 ms"):
        SPACE.drawn_within(random.Random(1), made_times(), 0.001)


def test_the_same_heads_are_not_apart(narrow: Student, pictures: Tensor) -> None:
    with torch.no_grad():
        heads = list(narrow(pictures)[:3])
        other = [head + 0.5 * torch.randn(head.shape) for head in heads]
    same, more = float(apart(heads, heads)), float(apart(other, heads))
    assert same == pytest.approx(0.0, abs=1e-5)
    assert more > same


def test_weights_without_a_place_are_named(pictures: Tensor) -> None:
    deeper = Student(LARGEST)
    deeper.extra = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        shared_from(SPACE, deeper, pictures, steps=0)
