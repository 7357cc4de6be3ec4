"""The command line: parses, calls the library, prints. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from lvgan.errors import LvganError
from lvgan.version import __version__

app = typer.Typer(
    name="lvgan",
    help="Endless video of one kind of scene, learnt from footage of it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lvgan {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def fail(message: str) -> None:
    """Print one error sentence to standard error."""
    typer.echo(f"lvgan: error: {message}", err=True)


_MACHINE_ERRORS = {errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class Interrupted(BaseException):
    """SIGINT or SIGTERM, on its way out through every clean-up. (Typer would swallow KeyboardInterrupt.)"""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.advice = "run the same command again to go on"


def _leave(signum: int, frame: FrameType | None) -> None:
    if _taking_a_lock(frame) or _importing(frame):
        # Modules that are left half-way cannot be loaded again, nor locks be taken: a moment later, then.
        threading.Timer(0.05, os.kill, (os.getpid(), signum)).start()
        return
    raise Interrupted(signum)


def _taking_a_lock(frame: FrameType | None) -> bool:
    """Whether a condition's lock (of a queue, or of what a thread pool promised) is just taken or let go.

    Left here, it would stay taken, and the pool's threads, for which every way out waits, would wait for it.
    """
    if frame is None or frame.f_code.co_filename != threading.__file__:
        return False
    return frame.f_code.co_name in ("__enter__", "__exit__", "_release_save", "_acquire_restore")


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def run() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 the user's mistake, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    try:
        _run()
    except SystemExit as left:
        watch = sys.modules.get("lvgan.training.watch")
        if watch is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # One process of several: the threads of its process group now and then abort Python's own way out.
            watch.leave(left.code if isinstance(left.code, int) else int(left.code is not None))
        raise


def _run() -> None:
    from lvgan.cli import commands  # noqa: F401  (registers the commands)

    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    try:
        app()
    except LvganError as error:
        fail(str(error))
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output has left (`lvgan ... | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        fail(f"{error.strerror}{where}; free some space or choose a folder that you may write to, and run it again")
        sys.exit(2)
    except Interrupted as stopped:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)  # it is done already
        typer.echo(f"lvgan: stopped; {stopped.advice}", err=True)
        sys.exit(128 + stopped.signum)
