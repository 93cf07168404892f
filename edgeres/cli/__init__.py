"""The commands: parse, call one function, render. Results go to standard output, all else to standard error.

Nothing heavy is imported before a command needs it, so that `--help` is immediate and every command works with the
packages that it itself needs.
"""

import errno
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

# They register their commands, in the order of `edgeres --help`.
from edgeres.cli import export, quantize, engine, runs, devices, fleet, trust  # noqa: F401  isort: skip
from edgeres.cli.common import BROKEN_PIPE, BUG, FAILED, INTERRUPTED, OK, USAGE, app
from edgeres.errors import EdgeresError, UsageError

LONGEST = 1000
"""Characters of a sentence that are shown: names in it are as long as a file likes."""
PATHLIB = re.compile("^Symlink loop from|has an empty name$")
"""What pathlib says of a path that is none, with exceptions that are none of the system's."""


def _version(wanted: bool) -> None:
    if wanted:
        from edgeres import store

        typer.echo(f"edgeres {store.versions('edgeres')['edgeres']}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Holds the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code: 0 ok, 1 regressed, 2 usage, 3 failed, 4 inconclusive, 70 a bug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _complete(given)
        status = app(args=given, prog_name="edgeres", standalone_mode=False)
    except UsageError as error:
        return _failed(str(error), USAGE)
    except EdgeresError as error:
        return _failed(str(error), FAILED)
    except KeyboardInterrupt:
        return _failed("interrupted; run again to go on.", INTERRUPTED)
    except OSError as error:  # of what nobody opened by name: a folder without permission, a full disk
        codes = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
        where = error.filename or "a file or an output"
        mend = "check the path, its permissions and the disk"
        mend = "make room and run again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else mend
        said = f"{where} cannot be used ({error.strerror or error}); {mend}."
        return _failed(said, USAGE if error.errno in codes else FAILED)
    except MemoryError:
        return _failed("there is not enough memory for this; use fewer or smaller images, or a larger machine.", FAILED)
    except SystemExit:  # Click's answer to a reader that went away is 1, which says that something regressed
        return BROKEN_PIPE
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # Click's own, wherever Typer keeps it
            error.show()
            return USAGE
        if isinstance(error, RuntimeError | ValueError) and PATHLIB.search(str(error)):
            return _failed(f"{error}; check the path.", USAGE)
        if type(error).__name__ == "Abort":
            return _failed("interrupted; run again to go on.", INTERRUPTED)
        traceback.print_exc()
        return _failed("this is a bug in edgeres; please report it with the lines above.", BUG)
    if status == INTERRUPTED:  # Typer's own answer
        return _failed("interrupted; run again to go on.", INTERRUPTED)
    return status if isinstance(status, int) else OK


def _complete(arguments: Sequence[str]) -> None:
    """UsageError where an argument is empty, as a variable of a shell may be: as a path it would be this folder."""
    for last, argument in zip(["edgeres", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=") if argument.startswith("--") else (last, "", argument)
        if not value and (equals or not argument):
            raise UsageError(f"what stands after `{name}` is empty; give it a value, or leave it out.")


def _failed(sentence: str, code: int) -> int:
    from edgeres.figures import plain

    said = plain(" ".join(sentence.splitlines()))
    said = said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
    sys.stderr.write(f"edgeres: {said}\n")
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())
