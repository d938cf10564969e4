"""`python -m benchmarks.idle`."""

import sys

from benchmarks.idle import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
