"""The process of the sinks: `python -m framegate.pipeline.sinks`."""

import sys

from framegate.pipeline.sinks.process import main

if __name__ == "__main__":
    sys.exit(main())
