"""`python -m benchmarks.live`."""

import sys

from benchmarks.live import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
