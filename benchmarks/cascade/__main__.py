"""`python -m benchmarks.cascade`."""

import sys

from benchmarks.cascade import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
