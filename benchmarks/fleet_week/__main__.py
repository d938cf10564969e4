"""`python -m benchmarks.fleet_week`."""

import sys

from benchmarks.fleet_week import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
