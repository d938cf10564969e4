"""`python -m benchmarks.promise`."""

import sys

from benchmarks.promise import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
