"""The command line as a process: `python -m framegate.cli`."""

from framegate.cli.main import main
from framegate.pipeline.system.process import leave

if __name__ == "__main__":
    leave(main())
