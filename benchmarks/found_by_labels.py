"""The figures by labels that `init`, `check` and `run` state, as `found_by_labels.toml`.

`python -m benchmarks.figures` writes the file from the kept result of `benchmarks.truth`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from benchmarks.harness.code_behind import short_commit
from framegate.pipeline.telemetry import detector_choice

_DEFAULT: Final = "default"  # name of the default configuration in the result
_HEAD: Final = """\
# What whole runs found in labelled clips, by detector and group of classes.
# `python -m benchmarks.figures` writes this file from benchmarks/results/truth.json.
# Measured at {version}, commit {commit}, {date}, {cpu}.
"""


def text(result: dict[str, Any]) -> str:
    """Return the file for a result of `benchmarks.truth`."""
    conditions = result["conditions"]
    head = _HEAD.format(**{**conditions, "commit": short_commit(conditions["commit"])})
    return "\n".join([head, *map(_table, _runs(result))])


def _runs(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the runs of the detectors that can be chosen, by group with labels."""
    for row in result["rows"]:
        detector = row["configuration"]
        if detector == _DEFAULT:
            detector = detector_choice.DEFAULT
        if detector not in detector_choice.COSTS:
            continue
        for group, rates in row["groups"].items():
            if group in detector_choice.GROUPS and rates["labels"]:
                yield {
                    "clip": row["clip"],
                    "side": row["side"],
                    "detector": detector,
                    "group": group,
                    "labels": rates["labels"],
                    "recall": rates["recall"],
                    "precision": rates["precision"],
                }


def _table(run: dict[str, Any]) -> str:
    lines = ["[[run]]"]
    for key, value in run.items():
        if isinstance(value, str):
            lines.append(f'{key} = "{value}"')
        elif value is not None:
            lines.append(f"{key} = {value}")
    return "\n".join([*lines, ""])
