"""The command line as a process: `python -m framegate.cli`."""

from framegate.cli.main import main
from framegate.pipeline.system.process import leave, trace_crashes

if __name__ == "__main__":
    trace_crashes()
    leave(main())
