"""The application: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from gradtool._version import __version__
from gradtool.cli.console import (
    abandon_stdout,
    say,
    say_error,
    write_result,
    write_stderr,
    write_warnings_to_stderr,
)
from gradtool.cli.options.help import WIDEST, Panels
from gradtool.engine.memory import ARRAYS, require_memory, shortage
from gradtool.errors import GradtoolError

EPILOG = """\
\b
Examples:
  gradtool inspect grads.safetensors
  gradtool clip grads.pt --max-norm 1.0 -o clipped.pt
  gradtool check 'run/step*.safetensors'

Read more with gradtool COMMAND --help.
"""

INTERRUPTED = 130
BUG = 4

COMMANDS: Final = {
    "inspect": "gradtool.cli.commands.inspect",
    "clip": "gradtool.cli.commands.clip",
    "check": "gradtool.cli.commands.check",
    "diff": "gradtool.cli.commands.diff",
    "trend": "gradtool.cli.commands.trend",
    "cache": "gradtool.cli.commands.cache",
    "formats": "gradtool.cli.commands.formats",
    "explain": "gradtool.cli.commands.rules",
    "rules": "gradtool.cli.commands.rules",
    "baseline": "gradtool.cli.commands.baseline",
}
"""Every command, and the module that has a function or a Typer application of that name."""


GROUPS: Final = {
    "baseline": (
        "What healthy gradients are like, for `check` to compare with.",
        ("save", "update"),
    ),
    "cache": ("The rows that `trend` keeps of what it measured.", ("info", "clear")),
}
"""The commands that have commands of their own: their help, and these."""


class Command(Panels, TyperCommand):
    """A command whose --help copes with a stdout that is closed or full."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --help do their work here."""
        with _writing_to_stdout():
            return super().make_context(*args, **options)


class Commands(Panels, TyperGroup):
    """A group of subcommands, such as `baseline`, with a --help like that of `Command`."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --help do their work here."""
        with _writing_to_stdout():
            return super().make_context(*args, **options)


class CommandLine(Panels, TyperGroup):
    """All commands, inside one error boundary, from the shell and from tests alike.

    No exception may reach Typer: it would exit with 1, which means findings here, frame usage
    errors in boxes, and handle broken pipes and Ctrl-C in its own way.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        names: dict[str, Any] = dict.fromkeys(COMMANDS)
        self.commands = names  # from which Click suggests the one nearest to a mistyped name

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Click's
        """Names of all commands, in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Click's
        """The command of that name, its module loaded only now; None if there is none."""
        return _load_command(cmd_name) if cmd_name in COMMANDS else None

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Parse, run and exit."""
        try:
            with _error_boundary(), _writing_to_stdout():  # shell completion writes here
                exit_code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.Exit as error:
            exit_code = error.exit_code
        except typer.TyperException as error:
            exit_code = _say_usage_error(error)
        sys.exit(exit_code)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --version do their work here."""
        with _error_boundary(), _writing_to_stdout():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        write_warnings_to_stderr()
        with _error_boundary():
            require_memory(*ARRAYS)
            return super().invoke(ctx)


@contextmanager
def _error_boundary() -> Iterator[None]:
    """Turns what is raised inside into an exit code, apart from what Typer handles itself."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_say_failure(error)) from error


def _say_failure(error: BaseException) -> int:
    """Say on stderr what happened, and return the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    cause = shortage(error) or error
    if isinstance(cause, GradtoolError):
        say_error(cause)
        return cause.exit_code
    write_stderr("".join(traceback.format_exception(error)))
    say("error: this is a bug in gradtool, please report it with this traceback")
    return BUG


@contextmanager
def _writing_to_stdout() -> Iterator[None]:
    """Handles a stdout that is closed or full, for Typer's own output.

    Outside of commands nothing else raises OSError.
    """
    try:
        yield
    except OSError as error:
        abandon_stdout(error)
        raise typer.Exit from error


def _say_usage_error(error: typer.TyperException) -> int:
    """Say on stderr what is wrong with the command line, and return the exit code for it."""
    say(f"error: {error.format_message()}")
    ctx: typer.Context | None = getattr(error, "ctx", None)
    if ctx is not None:
        say(f"try '{ctx.command_path} --help'")
    return error.exit_code


app = typer.Typer(
    name="gradtool",
    cls=CommandLine,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
    epilog=EPILOG,
    # Plain help: boxes and Markdown would cost more time than all the rest of --help.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _load_command(name: str) -> Any:
    """The command of that name as an object of Click's."""
    module = import_module(COMMANDS[name])
    application = typer.Typer(
        cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    if name in GROUPS:
        text, subcommands = GROUPS[name]
        for subcommand in subcommands:
            function = getattr(module, subcommand)
            application.command(subcommand, cls=Command, epilog=module.EPILOG)(function)
        application.callback(help=text)(lambda: None)
    else:
        application.command(name, cls=Command, epilog=module.EPILOG)(getattr(module, name))
    command = typer.main.get_command(application)
    command.name = name
    return command


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"gradtool {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def gradtool(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """The truth about gradients saved to disk, clipped ones written back, verdicts for CI."""
    if ctx.invoked_subcommand is None:
        write_result(f"{ctx.get_help()}\n")
