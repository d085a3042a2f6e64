"""One process at a time: a lock that the operating system frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from core.durable import make_folder
from core.errors import CheckpointError

_POLL_S = 0.02


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float, what: str) -> Iterator[None]:
    """Hold a file's advisory lock; the operating system frees it when the process dies.

    Args:
        path: the lock file; made if missing, never removed.
        timeout_s: how long to wait for another holder.
        what: names the thing in the message.

    Raises:
        CheckpointError: if another process holds it for that long.
    """
    make_folder(path.parent)
    deadline_s = time.monotonic() + timeout_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise CheckpointError(
                        f"{what} has been in use by another process for {timeout_s:g} s (lock {path}); end it, or try again"
                    ) from None
                time.sleep(_POLL_S)
        yield
