"""`python -m benchmarks.events_rules`."""

import sys

from benchmarks.events_rules import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
