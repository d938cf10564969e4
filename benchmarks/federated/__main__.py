"""`python -m benchmarks.federated`."""

import sys

from benchmarks.federated import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
