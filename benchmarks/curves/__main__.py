"""`python -m benchmarks.curves`."""

import sys

from benchmarks.curves import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
