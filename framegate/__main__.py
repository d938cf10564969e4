"""`python -m framegate`: the command line."""

import sys

from framegate.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
