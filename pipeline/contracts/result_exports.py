"""Convert results to the forms of other tools: rows of a table, pandas, supervision, COCO.

The packages are imported when a function is called, so none of them is a dependency of Framegate.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from framegate.pipeline.contracts.errors import PackageMissing

if TYPE_CHECKING:
    import pandas
    import supervision

    from framegate.pipeline.contracts.results import Result

COLUMNS: Final[tuple[tuple[str, str], ...]] = (
    ("source", "string"),
    ("epoch", "int64"),
    ("seq", "int64"),
    ("pts", "float64"),
    ("captured", "float64"),
    ("outcome", "string"),
    ("reason", "string"),
    ("track", "int64"),
    ("label", "string"),
    ("class_id", "int32"),
    ("score", "float64"),
    ("x1", "float64"),
    ("y1", "float64"),
    ("x2", "float64"),
    ("y2", "float64"),
    ("origin", "string"),
)
"""Columns of a table with one row per object, with their types in Arrow."""

NO_TRACK: Final = -1  # supervision's tracker_id of a detection without a track

Row = tuple[str | int | float | None, ...]


def rows(result: Result) -> Iterator[Row]:
    """Yield a row for each object of a result, with the values of COLUMNS."""
    frame = (result.source, result.epoch, result.seq, result.pts, result.captured)
    for item in result.objects:
        values = (item.track, item.label, item.class_id, item.score, *item.box, item.origin)
        yield (*frame, result.outcome, result.reason, *values)


def to_pandas(result: Result) -> pandas.DataFrame:
    """Return a data frame with a row for each object. See Result.to_pandas."""
    module = _imported("pandas", "Result.to_pandas")
    names = [name for name, _ in COLUMNS]
    frame: pandas.DataFrame = module.DataFrame(rows(result), columns=names)
    types = {name: _pandas_type(kind) for name, kind in COLUMNS}
    return frame.astype(types)


def _pandas_type(kind: str) -> str:
    """Return pandas' name of a type; integers are nullable, since an object may have no track."""
    if kind.startswith("int"):
        return kind.capitalize()
    return kind


def to_supervision(result: Result) -> supervision.Detections:
    """Return the objects as supervision's detections. See Result.to_supervision."""
    module = _imported("supervision", "Result.to_supervision")
    import numpy as np

    objects = result.objects
    boxes = np.array([item.box for item in objects], np.float32)
    tracks = [NO_TRACK if item.track is None else item.track for item in objects]
    detections: supervision.Detections = module.Detections(
        xyxy=boxes.reshape(-1, 4),
        confidence=np.array([item.score for item in objects], np.float32),
        class_id=np.array([item.class_id for item in objects], np.int64),
        tracker_id=np.array(tracks, np.int64),
        data={"class_name": np.array([item.label for item in objects], np.str_)},
    )
    return detections


def to_coco(
    result: Result, image_id: int | None, categories: Mapping[str, int] | None
) -> list[dict[str, Any]]:
    """Return the objects as entries of a COCO results file. See Result.to_coco."""
    if image_id is None:
        image_id = result.seq
    entries = []
    for item in result.objects:
        category_id = item.class_id
        if categories is not None:
            if item.label not in categories:
                continue
            category_id = categories[item.label]
        x1, y1, x2, y2 = item.box
        entry = {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": item.score,
        }
        entries.append(entry)
    return entries


def _imported(package: str, caller: str) -> Any:
    """Import a package that Framegate does not depend on. PackageMissing if it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:  # a dependency of the package is missing
            raise
        raise PackageMissing(package, caller) from None
