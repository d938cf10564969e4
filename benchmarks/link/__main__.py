"""`python -m benchmarks.link`."""

import sys

from benchmarks.link import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
