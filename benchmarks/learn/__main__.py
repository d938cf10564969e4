"""`python -m benchmarks.learn`."""

import sys

from benchmarks.learn import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
