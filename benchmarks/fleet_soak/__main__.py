"""`python -m benchmarks.fleet_soak`."""

import sys

from benchmarks.fleet_soak import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
