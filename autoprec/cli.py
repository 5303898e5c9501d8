"""The command ``autoprec``: do what the command line says, and exit with a meaning.

The commands themselves are in ``autoprec.commands``.
"""

import sys
from typing import Any, NoReturn

import typer

from autoprec.commands import console, usage
from autoprec.commands.app import app
from autoprec.commands.console import say, tell_error
from autoprec.errors import AutoprecError, InputError

# The parent of every complaint that Typer has about a command line, whichever version it is.
_USAGE_ERROR = typer.BadParameter.__mro__[1]


def main() -> NoReturn:
    """Run the command line, and exit."""
    console.leave_on_interrupt()
    console.prepare()
    try:
        code = _call()
    except AutoprecError as error:
        tell_error(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if not isinstance(error, _USAGE_ERROR):
            raise
        code = _usage(error)
    finally:
        console.raise_on_interrupt()
    sys.exit(code or 0)


def _call() -> int | None:
    """Do what the command line says.

    Returns:
        The exit code, or None for 0.

    Raises:
        AutoprecError: It cannot be done; also where Typer's help met a stdout that is full.
    """
    try:
        code: int | None = app(prog_name="autoprec", standalone_mode=False)
    except OSError:
        say("")  # stdout still holds what it could not write, so this tells whether it was that
        raise
    return code


def _usage(error: Any) -> int:
    """One sentence on a command line that Typer cannot read."""
    command = error.ctx.command_path if error.ctx else "autoprec"
    tell_error(InputError(usage.sentence(error), f"{command} --help"))
    return 2
