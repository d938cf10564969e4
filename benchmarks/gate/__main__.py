"""`python -m benchmarks.gate`."""

import sys

from benchmarks.gate import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
