"""`python -m benchmarks.figures`: write the kept results into the tables of the documents.

A table stands between `<!-- figures: NAME -->` and `<!-- end -->` and comes from results/NAME.json.
Below it is the version, commit, date and machine of the measurement. `chosen` is the four figures
of README.md; `missed` is the targets that are missed. The figures that commands state have a file
of their own (`found_by_labels`, `heavy_by_labels`). A test compares documents and results.
"""

from __future__ import annotations

import re
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import found_by_labels, heavy_by_labels, missed
from benchmarks.all import kept
from benchmarks.figure_tables import SHAPES, listed, number
from benchmarks.harness.code_behind import short_commit
from framegate.pipeline.promise import reference
from framegate.pipeline.telemetry.detector_choice import FOUND

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "README.md",
        "benchmarks/MISSED.md",
        "docs/figures.md",
        "docs/learning.md",
        "docs/privacy.md",
    )
)
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH = 120  # letters in a line of a document
# Tables whose result has another name.
RESULTS = {"networks": "learn", "own": "live-own"}


def table(name: str) -> str:
    """Return the lines of a table; a line with the command to run where there is no result."""
    if name == "missed":
        return missed.table()
    if name == "chosen":
        return _chosen()
    result_name = RESULTS.get(name, name)
    result = kept(result_name)
    if result is None:
        return f"Not measured: run `python -m benchmarks.{result_name} --write`.\n"
    shape = SHAPES.get(name, partial(listed, name))
    conditions = result["conditions"]
    options = ""
    if conditions.get("options"):  # results of before have none
        options = f", with `{' '.join(conditions['options'])}`"
    measured = _wrapped(f"Measured at {_measurement(conditions)}{options}.")
    return f"{shape(result)}\n{measured}"


def _measurement(conditions: dict[str, Any]) -> str:
    """Return version, commit, date and machine."""
    commit = short_commit(conditions["commit"])
    machine = f"{conditions['cpu']}, {conditions['cores']} cores"
    load = number(conditions["load_average"])
    return (
        f"{conditions['version']} (commit {commit}, {conditions['date']}; {machine}, load {load})"
    )


def _chosen() -> str:
    """Return the four figures of README.md; each names the section of its table."""
    live = _result("live")
    (cameras,) = (p for p in live["points"] if (p["cameras"], p["height"]) == (16, 360))
    soak = _result("soak")
    kills = sum(soak["kills"].values())
    gate = _result("gate")
    ratios = [clip["cpu_ratio"] for clip in gate["clips"]]
    contact = _result("first_contact")
    rows = (
        (
            "cameras",
            f"16 cameras (640x360, 10 frames/s) on {live['conditions']['cores']} cores: "
            "dropped frames; time in which 99 % of results arrive; memory",
            _held(cameras, ""),
            _held(cameras, "peer_"),
        ),
        (
            "half-an-hour-of-kills",
            f"{kills} processes killed in half an hour: duplicate results; frames that are lost "
            "and not counted",
            f"{soak['doubled']}; {soak['unaccounted']}",
            "-",
        ),
        (
            "the-gate-clip-by-clip",
            "CPU time if unchanged areas are skipped, as a share of the CPU time for whole frames, "
            f"best and worst of {len(ratios)} clips",
            f"{100 * min(ratios):.0f} %; {100 * max(ratios):.0f} %",
            "-",
        ),
        (
            "first-contact",
            "Installed size",
            _mb(contact["installed"]["mb"]),
            _mb(contact["peer_installed"]["mb"]),
        ),
    )
    lines = [
        f"| [{text}](docs/figures.md#{section}) | {ours} | {theirs} |\n"
        for section, text, ours, theirs in rows
    ]
    head = "| figure | Framegate | Roboflow `inference`, same network |\n| --- | --- | --- |\n"
    return f"{head}{''.join(lines)}\n{_span((live, soak, gate, contact))}"


def _span(results: tuple[dict[str, Any], ...]) -> str:
    """Return the line below the four figures: versions, dates and machines."""
    conditions = [result["conditions"] for result in results]
    versions = " and ".join(sorted({each["version"] for each in conditions}))
    dates = sorted({each["date"] for each in conditions})
    period = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    machines = " and ".join(
        sorted({f"{each['cpu']}, {each['cores']} cores" for each in conditions})
    )
    measured = f"Measured with {versions}, {period} ({machines})."
    return _wrapped(f"{measured} [All figures](docs/figures.md).")


def _wrapped(text: str) -> str:
    """Return a paragraph in lines that are not too long for a document."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines)


def _result(name: str) -> dict[str, Any]:
    """Return a kept result that README.md shows."""
    result = kept(name)
    if result is None:
        raise FileNotFoundError(f"README.md shows benchmarks/results/{name}.json; it is missing")
    return result


def _held(point: dict[str, Any], side: str) -> str:
    """Return the share of dropped frames, latency and memory of a side with so many cameras."""
    dropped = point[f"{side}dropped"]
    share = dropped / (dropped + point[f"{side}published"])
    p99_ms = number(point[f"{side}p99_ms"])
    return f"{100 * share:.0f} %; {p99_ms} ms; {_mb(point[f'{side}rss_mb'])}"


def _mb(value: float) -> str:
    return f"{value:,.0f} MB"


def filled(text: str) -> str:
    """Return the document with its tables as the results have them."""
    return MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def main() -> int:
    """Write the tables of all documents, and the figures that commands state."""
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
    truth = kept("truth")
    if truth is not None:
        FOUND.write_text(found_by_labels.text(truth), encoding="utf-8")
        reference.TABLE.write_text(heavy_by_labels.text(truth), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
