"""The command line as a process: `python -m framegate.cli`."""

import sys

from framegate.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
