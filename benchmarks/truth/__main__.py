"""`python -m benchmarks.truth`."""

import sys

from benchmarks.truth import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
