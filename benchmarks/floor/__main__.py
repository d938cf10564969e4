"""Run the benchmark."""

import sys

from benchmarks.floor import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
