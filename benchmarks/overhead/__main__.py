"""`python -m benchmarks.overhead`."""

import sys

from benchmarks.overhead import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
