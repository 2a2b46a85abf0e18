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
    lose_stdout,
    say,
    say_error,
    say_warnings,
    tell,
    write_result,
)
from gradtool.engine.memory import ARRAYS, require_memory, shortage
from gradtool.errors import GradtoolError

INTERRUPTED = 130
BUG = 4


COMMANDS: Final = {
    "inspect": "gradtool.cli.inspect",
    "clip": "gradtool.cli.clip",
    "check": "gradtool.cli.check",
    "explain": "gradtool.cli.rules",
    "rules": "gradtool.cli.rules",
    "baseline": "gradtool.cli.baseline",
}
"""Every command, and the module that has a function or a Typer application of that name."""


class Command(TyperCommand):
    """A command whose --help may find stdout closed or full."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --help do their work here."""
        with _writing_to_stdout():
            return super().make_context(*args, **options)


class Commands(TyperGroup):
    """Commands with a name in common; as `Command`."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --help do their work here."""
        with _writing_to_stdout():
            return super().make_context(*args, **options)


class CommandLine(TyperGroup):
    """Commands behind one error boundary, from the shell and from tests alike.

    Typer would exit with 1 for an exception, which means findings here, frame usage errors in
    boxes, and has its own ways with broken pipes and Ctrl-C: they must not get that far.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        names: dict[str, Any] = dict.fromkeys(COMMANDS)
        self.commands = names  # of which those are suggested that are near

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Click's
        """All there are, in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - Click's
        """A command, its module loaded only now; None for what is none."""
        return _loaded(cmd_name) if cmd_name in COMMANDS else None

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Parse, run and exit."""
        try:
            with _boundary(), _writing_to_stdout():  # of shell completion, by now
                exit_code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.Exit as error:
            exit_code = error.exit_code
        except typer.TyperException as error:
            exit_code = _refuse(error)
        sys.exit(exit_code)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse; eager options such as --version do their work here."""
        with _boundary(), _writing_to_stdout():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        say_warnings()
        with _boundary():
            require_memory(*ARRAYS)
            return super().invoke(ctx)


@contextmanager
def _boundary() -> Iterator[None]:
    """Whatever is raised inside becomes an exit code, but for what Typer raises on purpose."""
    try:
        yield
    except (typer.Exit, typer.Abort, typer.TyperException):
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_settle(error)) from error


def _settle(error: BaseException) -> int:
    """Say what happened; the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    told = shortage(error) or error
    if isinstance(told, GradtoolError):
        say_error(told)
        return told.exit_code
    tell("".join(traceback.format_exception(error)))
    say("error: this is a bug in gradtool, please report it with this traceback")
    return BUG


@contextmanager
def _writing_to_stdout() -> Iterator[None]:
    """For Typer's own output, which is all that can raise OSError outside of commands."""
    try:
        yield
    except OSError as error:
        lose_stdout(error)
        raise typer.Exit from error


def _refuse(error: typer.TyperException) -> int:
    """Say what is wrong with the command line and where to look it up."""
    say(f"error: {error.format_message()}")
    ctx: typer.Context | None = getattr(error, "ctx", None)
    if ctx is not None:
        say(f"try '{ctx.command_path} --help'")
    return error.exit_code


app = typer.Typer(
    name="gradtool",
    cls=CommandLine,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Plain help: boxes and Markdown would cost more time than all the rest of --help.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _loaded(name: str) -> Any:
    """The command so named, as Click has it."""
    module = import_module(COMMANDS[name])
    alone = typer.Typer(
        cls=Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    if name == "baseline":
        alone.command("save", cls=Command)(module.save)
        alone.command("update", cls=Command)(module.update)
        alone.callback(help="What healthy gradients are like, for `check` to compare with.")(
            lambda: None
        )
    else:
        epilog = getattr(module, "EPILOG", None)
        alone.command(name, cls=Command, epilog=epilog)(getattr(module, name))
    loaded = typer.main.get_command(alone)
    loaded.name = name
    return loaded


def _print_version(wanted: bool) -> None:
    if wanted:
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
