"""python -m benchmarks.faces: see the package."""

import sys

from benchmarks.faces import BENCHMARK

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
