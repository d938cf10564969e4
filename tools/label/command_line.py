"""The command line of a labelling tool: its scratch folder, the clips, and the report of faults."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.engine_run import RunFailed
from benchmarks.truth.clips import NotLabelled
from benchmarks.truth.labels import LabelsInvalid


def new_parser(module: str, description: str | None, scratch: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m MODULE`.

    scratch  name of its scratch folder in the folder for temporary files
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(tempfile.gettempdir()) / scratch,
        help="folder of proposals and pictures, one folder for each clip",
    )
    return parser


def add_data(command: argparse.ArgumentParser) -> None:
    """Add the option for the folder of the clips; it is required without FRAMEGATE_DATA."""
    data = os.environ.get("FRAMEGATE_DATA")
    command.add_argument(
        "--data", type=Path, default=data, required=data is None, help="folder of the clips"
    )


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Run the chosen subcommand and return the exit status: 1 for faults, which are printed."""
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except LabelsInvalid as invalid:
        print(invalid, file=sys.stderr)
        print(f"{len(invalid.faults)} faults; nothing was written", file=sys.stderr)
        return 1
    except (OSError, ValueError, NotLabelled, RunFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
