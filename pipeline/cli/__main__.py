"""The command line as a process: `python -m framegate.pipeline.cli`."""

import sys

from framegate.pipeline.cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
