"""`python -m framegate`, and the program `framegate`: the command line."""

from typing import NoReturn

from framegate.cli.main import main as run_command
from framegate.pipeline.system.process import leave, trace_crashes


def main() -> NoReturn:
    """Run the command that the arguments of this process name, and end the process."""
    trace_crashes()
    leave(run_command())


if __name__ == "__main__":
    main()
