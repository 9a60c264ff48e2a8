"""The command ``crossdraft``: parse, call one function, print. Nothing heavy is imported before it is needed."""

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from crossdraft._version import __version__
from crossdraft.core.errors import CrossdraftError

_COMMANDS = (
    "generate", "demo", "profile", "doctor", "catalogue", "data", "models", "extract", "store", "train", "bench",
    "evaluate", "study", "predict", "report", "reference",
)  # fmt: skip

EXIT_OK, EXIT_BUG, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER, f"crossdraft: error: {message} (see '{self.prog} --help')\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line. Every module of this package that is a command adds its own part."""
    top = _Parser(prog="crossdraft", description="Lossless faster answers from video-language models.")
    top.add_argument("--version", action="version", version=f"crossdraft {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"crossdraft.cli.{name}").add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` and return the exit code: 0, 1 (our bug), 2 (the user can mend it) or 130."""
    _mend_streams()
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail(EXIT_INTERRUPTED, "interrupted")
    try:
        code = int(args.run(args) or EXIT_OK)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail(EXIT_INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # the reader of our output has gone: nobody to tell; keep the interpreter from flushing into it at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except CrossdraftError as error:
        if args.debug:
            raise
        return _fail(EXIT_USER, f"error: {error}")
    except OSError as error:
        if args.debug:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            return _fail(EXIT_USER, f"error: the disk is full{where}; free some space and try again")
        return _bug(error)
    except Exception as error:
        if args.debug:
            raise
        return _bug(error)


def _mend_streams() -> None:
    """A shell may start us without stdout or stderr (``>&-``): what is printed then goes nowhere. Characters that
    the terminal cannot show are printed as their numbers."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _bug(error: Exception) -> int:
    return _fail(
        EXIT_BUG,
        f"unexpected {type(error).__name__}: {error}; run it again with 'crossdraft --debug ...' for details",
    )


def _fail(code: int, message: str) -> int:
    print("crossdraft: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
