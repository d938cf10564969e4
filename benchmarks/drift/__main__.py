"""`python -m benchmarks.drift`."""

import sys

from benchmarks.drift import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
