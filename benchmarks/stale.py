"""`python -m benchmarks.stale`: list the results that a release must measure again.

A result is stale when its benchmark, or a module that the benchmark imports, has changed since the
measurement. Reasons of missed targets are stale when they explain an earlier result. The list is a
warning for maintainers: the exit code is 0. `MISSED.md` marks such reasons; results are not marked.
"""

from __future__ import annotations

import sys

from benchmarks import missed
from benchmarks.all import is_current, kept
from benchmarks.harness.code_behind import short_commit
from benchmarks.harness.report import RESULTS


def stale() -> list[str]:
    """Return the names of stale results."""
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    return [name for name in names if not is_current(name)]


def main() -> int:
    """Print a line for each stale result and reason, then the command that measures again."""
    names = stale()
    for name in names:
        result = kept(name)
        conditions = {} if result is None else result["conditions"]
        print(
            f"stale: {name}: measured at {conditions.get('version')}, commit "
            f"{short_commit(conditions.get('commit'))}, {conditions.get('date')}"
        )
    for name, commit in missed.outdated().items():
        print(f"stale: reasons of {name} in benchmarks/missed.py: of the result of commit {commit}")
    if names:
        print("before a release: python -m benchmarks.all --resume")
    return 0


if __name__ == "__main__":
    sys.exit(main())
