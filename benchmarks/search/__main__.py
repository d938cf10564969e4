"""`python -m benchmarks.search`."""

import sys

from benchmarks.search import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
