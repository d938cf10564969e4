"""`python -m framegate`: the command line."""

import sys

from framegate.pipeline.cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
