"""`python -m benchmarks.alike`."""

from __future__ import annotations

import sys

from benchmarks.alike import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
