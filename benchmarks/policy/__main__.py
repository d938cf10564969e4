"""`python -m benchmarks.policy`."""

import sys

from benchmarks.policy import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
