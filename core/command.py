"""What every command has in common: how it ends (errors, exit statuses, signals), and what numbers it takes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from core.errors import NonFiniteError, RecapError

EXIT_FAILED = 1
"""It was asked for something that can be done, and that failed; or it looked, and found what must not be."""
EXIT_BAD_INPUT = 2
"""What it was given cannot be used, as argparse has it for options."""
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""As shells have it for Ctrl-C."""
EXIT_TERMINATED = 128 + signal.SIGTERM

_INPUT_ERRORS = (
    ValueError,
    LookupError,
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


def run_command(command: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Run an entry point; an expected error becomes a message on standard error and an exit status, never a traceback.

    Expected are every :class:`core.errors.RecapError`, a full disk, and an :class:`OSError` that names a file. Of these, what was
    given is wrong (:data:`EXIT_BAD_INPUT`) if the error is also one of the builtins that say so: a ValueError, LookupError or
    PermissionError, a path that is missing, in the way or of the wrong kind. All else failed while running
    (:data:`EXIT_FAILED`), also a number that became NaN. Bad input is one line; a failure may quote the last lines of another
    process. Anything unexpected is a mistake of ours and keeps its traceback.

    Args:
        command: does the work; returns the exit status, None for 0.
        interrupted: the line for Ctrl-C: what is kept, how to go on.

    Returns:
        The exit status: 0, what ``command`` returned, or one of this module's.
    """
    try:
        return command() or 0
    except RecapError as error:
        return _refuse(error, _message(error))
    except OSError as error:
        where = f" while writing {error.filename}" if error.filename is not None else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(error, f"disk full{where}; what was committed is safe: free space, then resume")
        if error.filename is None:
            raise
        return _refuse(error, f"{error.filename}: {error.strerror}; expected a path that this user can use: correct it")
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return EXIT_INTERRUPTED


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """For argparse's ``type``: a whole number from ``least`` to ``most``, both inclusive.

    Example:
        >>> whole(1)("3")
        3
    """

    def parse(text: str) -> int:
        expected = f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}"
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}") from None
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text}; expected {expected}")
        return number

    return parse


def port(text: str) -> int:
    """For argparse's ``type``: a TCP port; 0 lets the system choose a free one."""
    return whole(0, 65535)(text)


def positive(text: str) -> float:
    """For argparse's ``type``: a finite number above 0.

    Example:
        >>> positive("2.5")
        2.5
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a finite number above 0")
    return number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """For what serves until it is told to end: SIGTERM and SIGINT set the event instead of ending the process in the middle.

    Enter it in the main thread. The handlers that were there are put back at the end.
    """
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_sigterm() -> None:
    """For what makes things that must be removed: SIGTERM unwinds the stack, as Ctrl-C does, with :data:`EXIT_TERMINATED`."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)


def _refuse(error: Exception, text: str) -> int:
    if isinstance(error, _INPUT_ERRORS) and not isinstance(error, NonFiniteError):
        print(f"error: {' '.join(text.split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"error: {text.strip()}", file=sys.stderr)
    return EXIT_FAILED


def _message(error: RecapError) -> str:
    """The text of an error: OSErrors put a number in front of theirs, KeyErrors quote it."""
    if isinstance(error, OSError) and len(error.args) > 1:
        return str(error.args[1])
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
