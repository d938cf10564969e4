"""The command line as a process: `python -m framegate.pipeline.cli`."""

import sys

from framegate.pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
