"""`python -m benchmarks.quantization`."""

import sys

from benchmarks.quantization import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
