"""`python -m benchmarks.head`."""

import sys

from benchmarks.head import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
