"""A course of training: the same after a kill, the same on two processes, and what it looks at."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from msgspec.structs import replace as with_labels  # noqa: E402

from framegate.models.boxes import Boxes  # noqa: E402
from framegate.models.errors import TrainingRefused  # noqa: E402
from framegate.models.picture import Picture, from_bgr  # noqa: E402
from framegate.models.training.lessons import (  # noqa: E402
    Lesson,
    Lessons,
    augmented,
    batch,
    input_size,
    pictured,
    plain,
    turn_of,
)
from framegate.models.training.nanodet_plus import Architecture, NanoDetPlus  # noqa: E402
from framegate.models.training.train_student import (  # noqa: E402
    Course,
    Training,
    beside,
    train,
    weights_digest,
)

SIZE = (96, 64)
TINY = Architecture().times(0.25, n_classes=1)
COURSE = Course(steps=8, pictures=4)


def boxes(*rows: tuple[float, float, float, float]) -> Boxes:
    n = len(rows)
    xyxy = np.array(rows, np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.ones(n, np.float32), np.zeros(n, np.int32))


def lesson(picture: Picture, objects: Boxes) -> Lesson:
    return pictured(picture, 96).taught(objects, boxes())


def example(i: int, size: tuple[int, int] = (192, 120)) -> tuple[Picture, Boxes]:
    """A grey picture with one bright block, and its box."""
    bgr = np.full((size[1], size[0], 3), 60, np.uint8)
    left, top = 10 + 17 * (i % 7), 8 + 11 * (i % 5)
    bgr[top : top + 40, left : left + 30] = (240, 230, 220)
    found = boxes((left, top, left + 30, top + 40))
    return from_bgr(bgr), found


def pictures(n: int = 6) -> list[Lesson]:
    return [lesson(*example(i)) for i in range(n)]


def lessons(n: int = 6) -> Lessons:
    return Lessons(("block",), SIZE, pictures(n), [])


def training(course: Course = COURSE, architecture: Architecture = TINY) -> Training:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Training(NanoDetPlus(architecture), lessons(), course)


# -- What it looks at.


def test_boxes_follow_their_pixels() -> None:
    """The bright block of each augmented picture lies where its box says."""
    for seed in range(40):
        seen = augmented(lesson(*example(seed)), SIZE, np.random.default_rng(seed))
        for box in seen.objects.boxes.numpy():
            grey = seen.bgr.max(axis=2).astype(np.int16)
            inside = grey[:60] > (int(grey[:60].max()) + int(np.median(grey[:60]))) / 2
            rows, columns = np.nonzero(inside)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, found, atol=1.6, err_msg=f"seed {seed}")


def test_as_it_is_it_is_what_the_serving_model_takes() -> None:
    picture, objects = example(3)
    seen = plain(lesson(picture, objects), SIZE)
    assert seen.bgr.shape == (64, 96, 3)
    assert not seen.bgr[60:].any()  # below the picture
    left, top, right, bottom = (objects.xyxy[0] / 2).tolist()
    assert (
        seen.bgr[round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2].min() > 200
    )
    np.testing.assert_allclose(seen.objects.boxes[0], [left, top, right, bottom])


def test_what_is_mostly_outside_is_asked_about_no_more() -> None:
    black = from_bgr(np.zeros((120, 192, 3), np.uint8))
    near_border = lesson(black, boxes((0, 0, 12, 12)))
    counts = set()
    for seed in range(60):
        objects = augmented(near_border, SIZE, np.random.default_rng(seed)).objects
        counts.add((len(objects.boxes), len(objects.unsure)))
    assert counts == {(1, 0), (0, 1), (0, 0)}


def test_a_batch_follows_from_seed_and_step() -> None:
    ours = pictures(6)
    first = batch(ours, SIZE, 5, 2, range(4), 4)
    again = [
        *batch(ours, SIZE, 5, 2, range(2), 4),
        *batch(ours, SIZE, 5, 2, range(2, 4), 4),
    ]
    for one, same in zip(first, again, strict=True):
        assert (one.bgr == same.bgr).all()
    other = batch(ours, SIZE, 5, 3, range(4), 4)
    assert any((one.bgr != same.bgr).any() for one, same in zip(first, other, strict=True))


def test_every_lesson_has_its_turn() -> None:
    turns = [turn_of(5, look, 6) for look in range(18)]
    assert sorted(turns[:6]) == sorted(turns[6:12]) == sorted(turns[12:]) == list(range(6))
    assert turns[:6] != turns[6:12]


def test_the_input_holds_pictures_of_all_proportions() -> None:
    assert input_size([(1280, 720)], 320) == (320, 192)
    assert input_size([(1280, 720), (768, 576)], 320) == (320, 256)
    assert input_size([(720, 1280), (1280, 720)], 416) == (416, 416)


# -- The course.


def test_it_learns() -> None:
    own = training(Course(steps=40, pictures=4, rate=4e-3))
    losses = [own.step()[0] for _ in range(40)]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def until_killed(folder: Path) -> None:
    """What a process of its own does in the test below."""
    own = training()
    for _ in range(3):
        own.step()
    own.save(folder)
    for _ in range(2):
        own.step()
    signal.raise_signal(signal.SIGKILL)


def test_after_a_kill_it_becomes_the_same_model(tmp_path: Path) -> None:
    whole = training()
    while whole.done < 8:
        whole.step()
    code = f"import sys, pathlib, {__name__} as t; t.until_killed(pathlib.Path(sys.argv[1]))"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = Training.resumed(tmp_path, lessons())
    assert resumed.done == 3
    assert train(resumed, tmp_path, lambda *_: None, lambda: False)
    assert weights_digest(resumed.student()) == weights_digest(whole.student())
    assert Training.resumed(tmp_path, lessons()).done == 8


def test_who_wants_to_stop_loses_nothing(tmp_path: Path) -> None:
    own = training()
    assert not train(own, tmp_path, lambda *_: None, lambda: own.done == 3)
    assert Training.resumed(tmp_path, lessons()).done == own.done == 4


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    alone = training()
    alone.gradients()
    lessons().write(tmp_path)
    training().save(tmp_path)
    with beside(tmp_path, 2):
        shared = Training.resumed(tmp_path, lessons())
        shared.gradients()
        for one, two in zip(alone.net.parameters(), shared.net.parameters(), strict=True):
            assert one.grad is not None
            assert two.grad is not None
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6)


def test_two_processes_end_a_course_together(tmp_path: Path) -> None:
    lessons().write(tmp_path)
    training().save(tmp_path)
    with beside(tmp_path, 2):
        shared = Training.resumed(tmp_path, lessons())
        assert train(shared, tmp_path, lambda *_: None, lambda: False)
    alone = training()
    assert train(alone, tmp_path, lambda *_: None, lambda: False)
    for one, two in zip(alone.student().parameters(), shared.student().parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_what_is_no_checkpoint_of_these_lessons_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="nothing to resume"):
        Training.resumed(tmp_path, lessons())
    training().save(tmp_path)
    with pytest.raises(TrainingRefused, match="other lessons"):
        Training.resumed(tmp_path, lessons(5))
    with pytest.raises(TrainingRefused, match="other lessons"):
        Training.resumed(tmp_path, with_labels(lessons(), labels=("crate",)))
    torch.save({"v": 1, "spec": {"share": 0.5}}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingRefused, match="of version 1, by another Framegate; allowed is 4"):
        Training.resumed(tmp_path, lessons())
    (tmp_path / "checkpoint.pt").write_bytes(b"half of one")
    with pytest.raises(TrainingRefused, match="can be read"):
        Training.resumed(tmp_path, lessons())


def test_the_student_that_serves_has_the_running_mean_of_the_weights(tmp_path: Path) -> None:
    """Computed here from the weights after each step; equal before and after a resume."""
    own = training()
    name = "head8.out.weight"
    mean = own.net.state_dict()[name].clone()
    for step in range(1, 4):
        own.step()
        mean += (own.net.state_dict()[name] - mean) * 9 / (step + 9)
    own.save(tmp_path)
    for one in (own, Training.resumed(tmp_path, lessons())):
        torch.testing.assert_close(one.student().state_dict()[name], mean)


def test_a_network_of_other_classes_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="lessons of 1 classes, for a network of 80"):
        training(architecture=Architecture())


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    own = training()
    own.save(tmp_path)
    own.step()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file may grow beyond it
    try:
        with pytest.raises(TrainingRefused, match="cannot be written"):
            own.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert Training.resumed(tmp_path, lessons()).done == 0
