"""The application: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from gradtool import __version__
from gradtool.cli import inspect
from gradtool.cli.console import say
from gradtool.errors import GradtoolError

INTERRUPTED = 130
_PYDANTIC_PREFIX = "Value error, "
BUG = 4


class CommandLine(TyperGroup):
    """Commands behind one error boundary, from the shell and from tests alike.

    Typer would exit with 1 for an exception, which means findings here, and frame usage
    errors in boxes.
    """

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Parse, run and exit."""
        try:
            exit_code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.TyperException as error:
            exit_code = _refuse(error)
        sys.exit(exit_code)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; whatever it raises is settled here."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except GradtoolError as error:
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            traceback.print_exc()
            say("error: this is a bug in gradtool, please report it with this traceback")
            raise typer.Exit(BUG) from error


def _refuse(error: typer.TyperException) -> int:
    """Say what is wrong with the command line and where to look it up."""
    say(f"error: {error.format_message().replace(_PYDANTIC_PREFIX, '')}")
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
app.command("inspect", epilog=inspect.EPILOG)(inspect.inspect)


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
    """The truth about gradients saved to disk: norms, non-finite values, clipping."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
