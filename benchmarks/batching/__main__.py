"""`python -m benchmarks.batching`."""

import sys

from benchmarks.batching import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
