"""People's labels beside footage: each belongs to exactly one frame, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.footage.footage import evenly_with, read_footage
from framegate.stages.footage.frame_labels import read_frame_labels
from framegate.stages.footage.kept_pictures import Keeper
from tests.stages.footage.test_kept import ROOM, frame, keep
from tests.stages.footage.test_read_footage import SIZE, _video
from tests.support.footage import scene


def labels(path: Path, *names: str, size: tuple[int, int] = SIZE) -> Path:
    """A file as CVAT writes it: a car in each image, and an image without objects at the end."""
    images = [
        {"id": n, "width": size[0], "height": size[1], "file_name": name}
        for n, name in enumerate(names)
    ]
    cars = [
        {"id": n, "image_id": n, "category_id": 3, "bbox": [10, 20, 30, 40]}
        for n in range(len(names) - 1)
    ]
    categories = [{"id": 3, "name": "car"}, {"id": 4, "name": "person"}]
    told = {"images": images, "annotations": cars, "categories": categories}
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def test_labelled_frames_of_a_video_are_read_though_nothing_moved(tmp_path: Path) -> None:
    video = _video(tmp_path / "shop.mkv", [0] * 30)
    file = labels(tmp_path / "a.json", "frame_000007.PNG", "frame_000021.PNG")
    read = list(read_footage([str(video)], 100, labels=[file]))
    assert [one.moment_s for one in read] == pytest.approx([0, 7 / 25, 21 / 25])
    assert read[0].known is None
    known, empty = read[1].known, read[2].known
    assert known is not None
    assert known.by_people
    assert known.labels == ("car", "person")
    assert known.sure.xyxy.tolist() == [[10, 20, 40, 60]]
    assert empty is not None
    assert len(empty.sure) == 0
    assert np.array_equal(read[1].picture.y, scene(0, SIZE)[0])


def test_labelled_frames_come_first(tmp_path: Path) -> None:
    video = _video(tmp_path / "shop.mkv", [3 * n for n in range(40)])
    file = labels(tmp_path / "a.json", "shop/frame_5.png", "shop/frame_6.png", "shop/frame_7.png")
    read = list(read_footage([str(video)], 5, labels=[file]))
    assert [one.known is not None for one in read] == [False, True, True, True, False]
    assert evenly_with("abcdef", [False, True, False, True, False, True], 2) == ["b", "f"]


def test_kept_frames_are_named_as_they_are_exported(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ROOM)
    for seq in (3, 4):
        keep(keeper, frame(seq))
    file = labels(tmp_path / "a.json", "gate--1-4--4.000000.jpg", "gate--1-9--9.0.jpg")
    first, second = read_footage([str(tmp_path)], labels=[file])
    assert first.known is None
    assert second.known is not None
    assert second.known.sure.xyxy.tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.png",), "its name states no frame; allowed are SOURCE/frame_NUMBER and names"),
        (("yard/frame_1.png",), "source 'yard' is not in the footage, which has shop"),
        (("frame_30.png",), "shop has no such frame; frames of a file are 0 to 29"),
        (("shop--1-3--0.1.jpg",), "shop has no such frame"),
        (("frame_1.png", "frame_01.jpg"), "frame_01.jpg is labelled twice"),
        ((), "no image in it"),
    ],
)
def test_a_label_of_no_frame_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    video = _video(tmp_path / "shop.mkv", [0] * 30)
    file = labels(tmp_path / "a.json", *names)
    with pytest.raises(ConfigFaults) as caught:
        read_footage([str(video)], labels=[file])
    assert words in str(caught.value)


def test_bad_files_are_refused_and_sizes_must_be_those_of_the_footage(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigFaults) as caught:
        read_frame_labels([tmp_path / "bad.json", tmp_path / "none.json"], ["shop"])
    assert "not JSON" in str(caught.value)
    assert "--labels " in str(caught.value)
    assert "No such file" in str(caught.value)
    video = _video(tmp_path / "shop.mkv", [0] * 30)
    file = labels(tmp_path / "a.json", "frame_1.png", size=(640, 480))
    with pytest.raises(ConfigFaults, match="192x108 pixels, its labels are of a picture of 640x"):
        list(read_footage([str(video)], labels=[file]))
