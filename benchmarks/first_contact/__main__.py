"""`python -m benchmarks.first_contact`."""

import sys

from benchmarks.first_contact import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
