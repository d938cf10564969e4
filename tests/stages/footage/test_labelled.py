"""People's labels in COCO and YOLO folders: read exactly, written exactly, refused where odd."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from framegate.models.picture import read_photograph
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.footage.footage import FootageFrame, read_footage
from framegate.stages.footage.kept_exports import export
from framegate.stages.footage.kept_pictures import Keeper, KeptObject, Limits, kept_frames
from framegate.stages.footage.labelled import read_labelled
from tests.stages.footage.test_kept import frame, keep

SIZE = (192, 108)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert cv2.imwrite(str(path), noise)
    return path


def coco(folder: Path, **changes: Any) -> Path:
    """A folder as CVAT writes it: two pictures, the second with nothing in it."""
    told = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "description": ""},
        "categories": [{"id": 1, "name": "car", "supercategory": ""}, {"id": 7, "name": "person"}],
        "images": [
            {"id": 1, "width": 192, "height": 108, "file_name": "a.png", "license": 0},
            {"id": 2, "width": 192, "height": 108, "file_name": "b.png", "license": 0},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10.5, 20.25, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [100, 50, 200, 20]},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        ],
        **changes,
    }
    for number, name in enumerate(("a.png", "b.png")):
        draw(folder / "images" / "default" / name, number)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_default.json").write_text(
        json.dumps(told, indent=1), encoding="utf-8"
    )
    return folder


def yolo(folder: Path, lines: str = "1 0.25 0.5 0.1 0.2\n", names: str = "car\nperson\n") -> Path:
    """A folder as Label Studio writes it: the third picture was not labelled."""
    for number, name in enumerate("abc"):
        draw(folder / "images" / f"{name}.png", number)
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "classes.txt").write_text(names, encoding="utf-8")
    (folder / "notes.json").write_text("{}", encoding="utf-8")
    (folder / "labels" / "a.txt").write_text(lines, encoding="utf-8")
    (folder / "labels" / "b.txt").write_text("", encoding="utf-8")
    return folder


def read(folder: Path) -> list[FootageFrame]:
    return list(read_footage([f"mine={folder}"], most=1000))


def test_coco_as_cvat_writes_it(tmp_path: Path) -> None:
    first, second = read(coco(tmp_path))
    assert first.known is not None
    assert second.known is not None
    assert first.known.by_people
    assert first.known.labels == ("car", "person")
    sure, unsure = first.known.sure, first.known.unsure
    assert sure.xyxy.tolist() == [[10.5, 20.25, 40.5, 60.25], [100, 50, 192, 70]]  # cut
    assert sure.class_ids.tolist() == [1, 0]
    assert sure.scores.tolist() == [1, 1]
    assert unsure.xyxy.tolist() == [[0, 0, 50, 50]]
    assert len(second.known.sure) == len(second.known.unsure) == 0
    assert (first.source, first.moment_s, second.moment_s) == ("mine", 0.0, 1.0)
    shown = read_photograph(tmp_path / "images" / "default" / "a.png")
    assert np.array_equal(first.picture.y, shown.y)


def test_coco_as_label_studio_writes_it(tmp_path: Path) -> None:
    coco(tmp_path / "there")
    text = (tmp_path / "there" / "annotations" / "instances_default.json").read_text(
        encoding="utf-8"
    )
    folder = tmp_path / "here"
    for name in ("a.png", "b.png"):
        draw(folder / "images" / name)
    (folder / "result.json").write_text(
        text.replace('"a.png"', '"images\\\\a.png"'), encoding="utf-8"
    )
    assert len(read(folder)) == 2


def test_yolo_as_label_studio_writes_it(tmp_path: Path) -> None:
    first, second, third = read(yolo(tmp_path, "1 0.25 0.5 0.1 0.2\n\n0 0.95 0.5 0.2 0.2\n"))
    assert first.known is not None
    assert second.known is not None
    assert first.known.sure.class_ids.tolist() == [1, 0]
    assert first.known.sure.xyxy[0] == pytest.approx([38.4, 43.2, 57.6, 64.8])
    assert first.known.sure.xyxy[1] == pytest.approx([163.2, 43.2, 192, 64.8])  # cut
    assert len(second.known.sure) == 0
    assert third.known is None


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images\nnames: [car, 'person']  # two\n",
        'names:\n  0: car\n  1: "person"\nnc: 2\n',
        "path: .\nnames:\n- car\n- person\n",
        "names: {0: car, 1: person}\n",
    ],
)
def test_names_as_ultralytics_and_cvat_write_them(tmp_path: Path, yaml: str) -> None:
    yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text(yaml, encoding="utf-8")
    assert read_labelled(tmp_path, "mine").classes == ("car", "person")


def test_yolo_as_darknet_and_cvat_write_it(tmp_path: Path) -> None:
    draw(tmp_path / "obj_train_data" / "a.png")
    (tmp_path / "obj_train_data" / "a.txt").write_text("0 0.5 0.5 1 1\n", encoding="utf-8")
    (tmp_path / "obj.names").write_text("car\n", encoding="utf-8")
    (tmp_path / "obj.data").write_text("classes = 1\n", encoding="utf-8")
    [one] = read(tmp_path)
    assert one.known is not None
    assert one.known.sure.xyxy.tolist() == [[0, 0, 192, 108]]


# -- What is odd.


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], **changes}]


def image(**changes: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "width": 192, "height": 108, "file_name": "a.png", **changes}]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"annotations": entry(bbox=[1, 1, 0, 5])}, r"annotations\[0\] \(id 5\): bbox .* above 0"),
        ({"annotations": entry(bbox=[1, 1, 5])}, r"must be \[left, top, width, height\]"),
        ({"annotations": entry(bbox=[1, 1, None, 5])}, "must be"),
        ({"annotations": entry(category_id=3)}, "category_id 3: there is no such category"),
        ({"annotations": entry(image_id=9)}, "image_id 9: there is no such picture"),
        ({"annotations": entry(iscrowd=2)}, "iscrowd 2: must be 0 or 1"),
        ({"annotations": ["x"]}, "image_id None"),
        ({"images": image(file_name="c.png"), "annotations": []}, "c.png: there is no such pict"),
        ({"images": image(file_name="/etc/passwd"), "annotations": []}, "no such picture"),
        ({"images": image() + image(), "annotations": []}, "id 1 is there twice"),
        ({"images": image() + image(id=2), "annotations": []}, "a.png is there twice"),
        ({"images": image(width=0), "annotations": []}, "width and height must be whole numbers"),
        ({"categories": [{"id": 1}], "annotations": []}, r"categories\[0\]: must have"),
        ({"categories": [{"id": 1, "name": "a"}] * 2, "annotations": []}, "is there twice"),
        ({"categories": {}}, "categories: must be a list"),
    ],
)
def test_odd_coco_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigFaults, match=fault) as refused:
        read(coco(tmp_path, **changes))
    assert "instances_default.json: " in str(refused.value)


def test_json_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    file = coco(tmp_path) / "annotations" / "instances_default.json"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[6] = "?"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigFaults, match=r"line 7: not JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1 0.5 0.5 0.1", "4 words; must be: class x y width height"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3", "export boxes, not polygons"),
        ("2 0.5 0.5 0.1 0.1", "class 2: allowed is 0 to 1"),
        ("car 0.5 0.5 0.1 0.1", "class car: allowed is 0 to 1"),
        ("1 0.5 0.5 0 0.1", "width and height must be above 0"),
        ("1 nan 0.5 0.1 0.1", "all numbers finite"),
        ("1 a 0.5 0.1 0.1", "must be numbers"),
        ("1 96 54 10 10", "shares of the picture, 0 to 1, not pixels"),
        ("1 1.5 0.5 0.1 0.1", "lies outside of the picture"),
    ],
)
def test_odd_yolo_is_refused_with_its_line(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=fault) as refused:
        read(yolo(tmp_path, f"1 0.5 0.5 0.1 0.1\n{line}\n"))
    assert "a.txt: line 2: " in str(refused.value)


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="without footage and without labels"):
        read(tmp_path)
    with pytest.raises(ConfigFaults, match="'car' is there twice"):
        read(yolo(tmp_path / "twice", names="car\ncar\n"))
    with pytest.raises(ConfigFaults, match="must be a list of names"):
        read(yolo(tmp_path / "none", names="\n"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "classes.txt").write_text("car\n", encoding="utf-8")
    with pytest.raises(ConfigFaults, match="no picture in it"):
        read(tmp_path / "empty")
    many = yolo(tmp_path / "many", "nothing\n" * 100)
    with pytest.raises(ConfigFaults, match="and 80 more faults"):
        read(many)


def test_a_picture_of_another_size_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    draw(coco(tmp_path / "size") / "images" / "default" / "a.png", size=(108, 192))
    with pytest.raises(ConfigFaults, match="it has 108x192 pixels, its labels are of"):
        read(tmp_path / "size")
    (yolo(tmp_path / "none") / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigFaults, match="not an image file"):
        read(tmp_path / "none")


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = ("id", "image_id", "category_id", "bbox", "iscrowd", "file_name", "width", "name")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco(tmp_path_factory.mktemp("coco"))


@given(st.sampled_from(["images", "annotations", "categories"]), st.sampled_from(KEYS), ODD)
@settings(max_examples=100, deadline=None)
@example("annotations", "image_id", [[]])
@example("annotations", "bbox", [10**400, 0, 1, 1])
@example("annotations", "bbox", [float("nan"), 0, 1, 1])
@example("images", "file_name", "a\0")
@example("images", "file_name", "a" * 5000)
@example("images", "file_name", "../../../etc/passwd")
def test_whatever_stands_in_an_entry_is_read_or_refused(
    pictures: Path, key: str, field: str, odd: Any
) -> None:
    file = pictures / "annotations" / "instances_default.json"
    whole = file.read_text(encoding="utf-8")
    told = json.loads(whole)
    told[key][0][field] = odd
    try:
        file.write_text(json.dumps(told), encoding="utf-8")
        with contextlib.suppress(ConfigFaults):
            read(pictures)
    finally:
        file.write_text(whole, encoding="utf-8")


@given(st.text(max_size=60) | st.from_regex(r"[0-9]+( [0-9.e+-]+){4}", fullmatch=True))
@settings(max_examples=100, deadline=None)
@example("\u0661 0.5 0.5 0.1 0.1")
@example("\u00b2 0.5 0.5 0.1 0.1")
@example("9" * 5000 + " 0.5 0.5 0.1 0.1")
@example("1 1e308 1e308 1e308 1e308")
def test_whatever_stands_in_a_line_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, line: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "yolo"
    yolo(folder, line)
    with contextlib.suppress(ConfigFaults):
        read(folder)


def test_json_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    file = coco(tmp_path) / "annotations" / "instances_default.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"licenses": [', f'"licenses": [{deep},'),
        encoding="utf-8",
    )
    told = file.read_text(encoding="utf-8").replace('"annotations": [', f'"annotations": [{deep},')
    file.write_text(told, encoding="utf-8")
    with pytest.raises(ConfigFaults, match="not JSON"):
        read(tmp_path)


# -- There and back.


BOXES = [
    (0.0, 0.0, 192.0, 108.0), (1.37, 2.11, 3.99, 100.01), (10.1, 20.2, 30.3, 40.4),
    (0.33, 0.66, 191.99, 107.98), (55.55, 44.44, 66.67, 77.73),
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Kept: a frame with five objects, one with none, one of which nothing is known; and another
    source's."""
    keeper = Keeper(tmp_path / "data", Limits(1 << 30, 30))
    labels = ["person", "car", "person", "forklift", "bus"]
    objects = tuple(KeptObject(label, 0.5, box) for label, box in zip(labels, BOXES, strict=True))
    keep(keeper, frame(1, heavy=objects, heavy_models=("heavy@1",), moment_s=1.8e9 + 0.123456))
    keep(keeper, frame(2, heavy=(), heavy_models=("heavy@1",)))
    keep(keeper, frame(3))
    keep(keeper, frame(4, "door", heavy=objects[:1], heavy_models=("heavy@1",)))
    return tmp_path / "data"


def exported(data: Path, folder: Path, form: str) -> Path:
    files = [file for kept in kept_frames(data).values() for file in kept.files]
    assert export(files, folder, form) == len(files)
    return folder


def told(frames: list[FootageFrame]) -> list[Any]:
    """By source and time: what is in each picture, boxes exact."""
    rows = []
    for one in frames:
        objects = None
        if one.known is not None:
            objects = [
                (one.known.labels[class_id], box)
                for class_id, box in zip(
                    one.known.sure.class_ids.tolist(), one.known.sure.xyxy.tolist(), strict=True
                )
            ]
        rows.append((one.source, one.moment_s, objects))
    return sorted(rows)


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_there_and_back_is_exact(data: Path, tmp_path: Path, form: str) -> None:
    before = read(data)
    after = read(exported(data, tmp_path / "out", form))
    assert told(after) == told(before)
    assert [row[2] is None for row in told(after)] == [False, False, True, False]
    shapes = [
        sorted((one.source, one.moment_s, one.picture.y.shape) for one in frames)
        for frames in (before, after)
    ]
    assert shapes[0] == shapes[1]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}


def test_pycocotools_reads_what_we_write(data: Path, tmp_path: Path) -> None:
    oracle = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    out = exported(data, tmp_path / "out", "coco")
    found = oracle.COCO(str(out / "annotations" / "instances_default.json"))
    names = {one["id"]: one["name"] for one in found.loadCats(found.getCatIds())}
    assert list(names.values()) == ["person", "car", "bus", "forklift"]
    boxes = {}
    for number in found.getImgIds():
        [picture] = found.loadImgs(number)
        boxes[picture["file_name"]] = [
            (names[one["category_id"]], *one["bbox"])
            for one in found.loadAnns(found.getAnnIds(imgIds=number, iscrowd=False))
        ]
    [whole] = [rows for name, rows in boxes.items() if name.startswith("gate--1-1--")]
    assert [row[0] for row in whole] == ["person", "car", "person", "forklift", "bus"]
    for row, (left, top, right, bottom) in zip(whole, BOXES, strict=True):
        assert row[1:] == pytest.approx((left, top, right - left, bottom - top), abs=1e-9)


def test_nothing_is_written_over_and_nothing_half(data: Path, tmp_path: Path) -> None:
    files = [file for kept in kept_frames(data).values() for file in kept.files]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigFaults, match="it exists and is not empty"):
        export(files, tmp_path / "taken", "coco")
    with pytest.raises(ConfigFaults, match="No such file or directory"):
        export(files, tmp_path / "no" / "folder", "coco")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(files, tmp_path / "new", "yolo", stop)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "taken"}
    files[0].path.unlink()  # it has gone meanwhile
    assert export(files, tmp_path / "new", "yolo") == len(files) - 1
