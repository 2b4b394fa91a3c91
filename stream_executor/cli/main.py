"""The command's entry point: owns the exit code and the form of every error.

Commands return, or raise; here and nowhere else that becomes an exit code.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from stream_executor import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer import Typer

    from stream_executor.cli.failures import CommandError

PROGRAM = "wasm-executor"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code (``failures.Exit``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:  # health checks and shells ask often: stay quick
        print(f"{PROGRAM} {__version__}")  # noqa: T201 - the command's whole output
        return 0
    from stream_executor.cli.failures import Exit

    try:
        return _run(arguments)
    except BrokenPipeError:
        # Whoever read our output has had enough (`| head`). The interpreter would
        # complain of the same pipe once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _run(arguments: list[str]) -> int:
    from stream_executor.cli import session
    from stream_executor.cli.app import app
    from stream_executor.cli.failures import HELP, Exit, translate

    session.debug = False
    try:
        code = app(arguments, prog_name=PROGRAM, standalone_mode=False)
        return code if isinstance(code, int) else Exit.OK
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except SystemExit as left:
        # typer has met the closed pipe before us and wants to exit 1 for it.
        if isinstance(left.__context__, BrokenPipeError):
            raise left.__context__ from None
        raise
    except Exception as error:  # noqa: BLE001 - the one place where all of them end
        if session.debug:
            import traceback

            traceback.print_exc()
        failure = _usage(error) or translate(error)
        if failure.remedy == HELP:
            failure.remedy = f"{_path(app, arguments)} --help"
    sys.stdout.flush()
    print(failure, file=sys.stderr)  # noqa: T201 - the one place for errors
    return failure.exit


def _path(app: Typer, arguments: list[str]) -> str:
    """Give the program and the subcommand that a command line means."""
    from typer.main import get_command

    command: Any = get_command(app)
    path = [PROGRAM]
    for word in arguments:
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
            path.append(word)
    return " ".join(path)


def _usage(error: Exception) -> CommandError | None:
    """Give a complaint of the command-line parser, whose classes are private."""
    from stream_executor.cli.failures import CommandError

    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    path = PROGRAM if context is None else context.command_path
    if not message():  # a group without a command: its help was printed
        return CommandError("USAGE", "a command is missing", remedy=f"{path} --help")
    return CommandError("USAGE", message(), remedy=f"{path} --help")


if __name__ == "__main__":
    sys.exit(main())
