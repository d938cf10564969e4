"""`python -m benchmarks.cache`."""

import sys

from benchmarks.cache import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
