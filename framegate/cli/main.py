"""The command line: parse the arguments and run the command. `help` has the table of commands."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from framegate.cli.help import COMMANDS, EXITS, ending, list_of_commands
from framegate.pipeline.config.read_options import take_variables
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError, did_you_mean
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.system.logs import set_up_logging, to_user
from framegate.pipeline.system.outputs import is_stdout_closed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. arguments: None for those of the process."""
    sys.path.insert(0, os.getcwd())  # modules of a user's own stages may be here
    parsed = _parsed(arguments)
    if arguments is None and "as_program" in parsed:
        parsed.as_program()
    name = parsed.command.__name__.strip("_")
    set_up_logging("WARNING", name, getattr(parsed, "log_format", None) or "text")
    try:
        if getattr(parsed, "env_file", None) is not None:
            take_variables(parsed.env_file)
        code: Exit = parsed.command(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        # The interpreter flushes stdout again at exit, which would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # as Python's manual advises
    except ConfigFaults as faults:
        for fault in faults.faults:
            to_user.error("%s", fault)
        return Exit.USAGE
    except FramegateError as error:
        to_user.error("%s", error)
        return error.exit
    except KeyboardInterrupt:
        return Exit.STOPPED_TWICE
    return code


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; sources may be before, between and after options."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        _refuse(words)
    top = parser(words[0])
    parsed, rest = top.parse_known_args(words)
    if rest and "sources" not in parsed:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.sources += rest
    return parsed


def _refuse(words: Sequence[str]) -> NoReturn:
    """Answer --help and --version, or refuse a command line that does not begin with a command."""
    top = _top()
    top.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    top.parse_known_args(words)
    top.error("the command must be the first argument")


# Actions that collect the values of a repeated option.
_COLLECTING: Final = (argparse._AppendAction, argparse._ExtendAction)


class _Help(argparse.HelpFormatter):
    """Wraps a text of a single line, and leaves a text of several lines unchanged."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return text
        return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """A strict parser, also of each command, that names the word that was probably meant.

    It refuses an abbreviated option, because a typing error could be another option, and a repeated
    option with a value, unless the option collects its values.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        defaults = {"formatter_class": _Help, "allow_abbrev": False}
        super().__init__(*arguments, **{**defaults, **options})
        self._given: set[argparse.Action] = set()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the base class does, but refuse unknown options, and hint at a known option.

        Refuse words that are left, unless they are sources: `_parsed` adds these to the others.
        """
        self._given = set()
        parsed, rest = super().parse_known_args(args, namespace)
        if unknown := [word for word in rest if word.startswith("-") and word != "-"]:
            option = unknown[0].partition("=")[0]
            near = did_you_mean(option, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        has_verbs = self._subparsers is not None  # the parser of the verb knows its words
        if rest and not has_verbs and self._words != ["sources"]:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed, rest

    @property
    def _words(self) -> list[str]:
        """Return the names of the arguments that are no options."""
        return [action.dest for action in self._actions if not action.option_strings]

    def _get_values(self, action: argparse.Action, arg_strings: Any) -> Any:
        """Refuse an option that is given again and would replace its own value."""
        is_option = bool(action.option_strings)
        takes_value = action.nargs != 0 or isinstance(action, argparse.BooleanOptionalAction)
        if is_option and takes_value and not isinstance(action, _COLLECTING):
            if action in self._given:
                fault = "is given twice; give it once"
                if "," in str(action.metavar or ""):
                    fault += f" as {action.metavar}"
                raise argparse.ArgumentError(action, fault)
            self._given.add(action)
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), known)
            raise argparse.ArgumentError(
                action, f"{value!r} is unknown; allowed are {', '.join(known)}{near}"
            )

    def error(self, message: str) -> NoReturn:
        """Refuse the command line. The message may contain a URL with a password: hide it."""
        super().error(redacted(message))


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line with this command, or with all commands.

    Only the module of that command is loaded: all modules together take most of a second.
    """
    top = _top()
    commands = top.add_subparsers(
        required=True, metavar="COMMAND", prog="framegate", help=argparse.SUPPRESS
    )
    names = COMMANDS if command is None else [command]
    for module in dict.fromkeys(COMMANDS[name].module for name in names):
        importlib.import_module(f"framegate.cli.{module}").register(commands)
    return top


def _top() -> _Parser:
    """Return the parser without commands; its help lists them from the table."""
    examples = ending(
        "framegate demo",
        "framegate init",
        "framegate check clip.mp4",
        "framegate run clip.mp4 --save videos",
        "framegate run entrance=rtsp://camera.example/stream -d data",
        "framegate COMMAND --help",
        page="index",
    )
    top = _Parser(
        prog="framegate",
        usage="framegate [-h] [--version] COMMAND ...",
        description="Turn cameras and video files into streams of results, without loss or "
        "duplicates.",
        epilog=f"{list_of_commands()}\n\n{examples}\n\n{EXITS}",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return top


class _Version(argparse.Action):
    """Print the version. Its package is loaded only here, because it is slow to load."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"framegate {version('framegate')}")
        parser.exit()
