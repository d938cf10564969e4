"""`python -m benchmarks.fleet`."""

import sys

from benchmarks.fleet import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
