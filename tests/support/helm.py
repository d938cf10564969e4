"""Helm's own code, in a process of its own: it brings another runtime's threads and signals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "framegate"
RELEASE, NAMESPACE = "cams", "video"


def asked(request: dict[str, Any]) -> Any:
    """Return what Helm answers to one request: lint and render of each of several values."""
    command = [sys.executable, "-m", "tests.support.helm"]
    ended = subprocess.run(
        command,
        input=json.dumps(request),
        cwd=CHART.parents[2],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return json.loads(ended.stdout)


def _answers(values: dict[str, Any]) -> dict[str, Any]:
    import helm_python

    answers: dict[str, Any] = {"lint": helm_python.lint(CHART, values, strict=True)}
    with helm_python.Chart.load(CHART) as chart:
        try:
            answers["files"] = chart.render(values, name=RELEASE, namespace=NAMESPACE)
        except helm_python.HelmError as error:
            answers["fault"] = str(error)
    return answers


if __name__ == "__main__":
    print(json.dumps({name: _answers(values) for name, values in json.load(sys.stdin).items()}))
