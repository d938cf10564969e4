"""`make test-all`: every test, the long ones too; says at its end when all last passed, and where.

The answer is kept in whole_suite.json beside this file: who commits it lets others know.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).with_suffix(".json")


def main() -> int:
    """Run all tests; pytest's exit code."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    with subprocess.Popen(
        [*command, "--no-loadscope-reorder", *sys.argv[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as suite:
        assert suite.stdout is not None
        last = ""
        for line in suite.stdout:
            print(line, end="", flush=True)
            last = line
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|skipped)", last)}
    if suite.returncode == 0 and not sys.argv[1:]:
        told = {
            "commit": _git("rev-parse", "HEAD"),
            "changed": _git("status", "--porcelain") not in ("", None),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "minutes": round((time.monotonic() - began) / 60, 1),
            **counts,
        }
        KEPT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(last_pass())
    return suite.returncode


def last_pass() -> str:
    """When the whole suite last passed, on which commit, as one line."""
    if not KEPT.exists():
        return "the whole suite has not passed yet (make test-all)"
    told = json.loads(KEPT.read_text(encoding="utf-8"))
    since = _git("rev-list", "--count", f"{told['commit']}..HEAD")
    ago = "" if since is None else f", {since} commits ago"
    changed = ", with changes that were not committed" if told["changed"] else ""
    return (
        f"the whole suite last passed on {told['date']} at {str(told['commit'])[:10]}{changed}{ago}"
        f": {told.get('passed', 0)} passed, {told.get('skipped', 0)} skipped,"
        f" {told['minutes']} minutes"
    )


def _git(*words: str) -> str | None:
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
