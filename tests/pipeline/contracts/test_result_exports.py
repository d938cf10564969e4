"""Results in the forms of supervision, COCO and pandas, as these packages themselves read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framegate import Object, Result, errors, testing

CAR = Object(7, "car", 2, 0.75, (10.0, 20.0, 50.0, 60.0), "detected")
PERSON = Object(None, "person", 0, 0.5, (0.0, 0.5, 4.0, 10.5), "detected", "new")


def result_of(*objects: Object) -> Result:
    return testing.result(objects)


def test_supervision_reads_boxes_scores_tracks_and_labels() -> None:
    import supervision  # slow to load

    detections = result_of(CAR, PERSON).to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [[10, 20, 50, 60], [0, 0.5, 4, 10.5]]
    assert detections.tracker_id.tolist() == [7, -1]
    cars = detections[detections.data["class_name"] == "car"]
    assert (cars.confidence.tolist(), cars.class_id.tolist()) == ([0.75], [2])
    scene = np.zeros((100, 100, 3), np.uint8)
    drawn = supervision.BoxAnnotator().annotate(scene.copy(), detections)
    assert drawn.any()


def test_supervision_takes_a_frame_without_objects() -> None:
    import supervision  # slow to load

    detections = result_of().to_supervision()
    assert len(detections) == 0
    zone = supervision.PolygonZone(np.array([[0, 0], [90, 0], [90, 90]]))
    assert zone.trigger(detections).tolist() == []


def test_coco_scores_what_a_result_gives(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    annotations: dict[str, Any] = {
        "images": [{"id": 31, "width": 100, "height": 100}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations), encoding="utf-8")
    truth = COCO(str(path))
    entries = result_of(CAR, PERSON).to_coco(31, {"car": 3})
    assert json.loads(json.dumps(entries)) == [
        {"image_id": 31, "category_id": 3, "bbox": [10, 20, 40, 40], "score": 0.75}
    ]
    (loaded,) = truth.loadRes(entries).loadAnns([1])
    assert loaded["area"] == 1600


def test_coco_ids_are_the_frame_and_the_class_unless_others_are_given() -> None:
    (entry,) = result_of(PERSON).to_coco()
    assert entry == {"image_id": 0, "category_id": 0, "bbox": [0, 0.5, 4, 10], "score": 0.5}


def test_pandas_has_a_row_for_each_object_and_joins_several_results() -> None:
    import pandas  # slow to load

    results = [result_of(CAR, PERSON), result_of(), result_of(CAR)]
    table = pandas.concat([result.to_pandas() for result in results], ignore_index=True)
    assert table["label"].tolist() == ["car", "person", "car"]
    assert table["track"].isna().tolist() == [False, True, False]
    assert table["track"].dropna().tolist() == [7, 7]
    assert table[["x1", "y1", "x2", "y2"]].iloc[1].tolist() == [0, 0.5, 4, 10.5]
    assert table.groupby("label")["score"].max().to_dict() == {"car": 0.75, "person": 0.5}
    types = table.dtypes
    assert (str(types["track"]), str(types["score"])) == ("Int64", "float64")


@pytest.mark.parametrize("package", ["supervision", "pandas"])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.PackageMissing) as raised:
        getattr(result_of(CAR), f"to_{package}")()
    assert str(raised.value) == (
        f"Result.to_{package}() needs the package {package}, which is not installed; run: "
        f"pip install {package}"
    )
    assert raised.value.exit == errors.Exit.USAGE


def test_results_load_none_of_these_packages() -> None:
    code = (
        "import sys; from framegate import Result; Result.to_pandas; "
        "print({'supervision', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout == "set()\n"
