"""`python -m benchmarks.window`."""

import sys

from benchmarks.window import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
