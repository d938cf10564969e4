"""The HTTP process: `python -m framegate.pipeline.web`."""

import sys

from framegate.pipeline.web.server import main

if __name__ == "__main__":
    sys.exit(main())
