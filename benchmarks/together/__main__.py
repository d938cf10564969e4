"""`python -m benchmarks.together`."""

from __future__ import annotations

import sys

from benchmarks.together import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
