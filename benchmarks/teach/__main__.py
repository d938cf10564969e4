"""`python -m benchmarks.teach`."""

import sys

from benchmarks.teach import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
