"""`python -m benchmarks.soak`."""

import sys

from benchmarks.soak import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
