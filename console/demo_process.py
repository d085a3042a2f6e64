"""The demonstration's parts: modules that run as processes of their own, and end with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from core.errors import WorkerError

_START_S = 300.0
_END_S = 8.0


class Process:
    """A module that runs as a process of its own, from entering until leaving; its words go to a file."""

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, ready: str) -> None:
        """``ready``: what it prints once others can use it."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        """Start, and wait until it is ready.

        Raises:
            WorkerError: if it ends before; with its words.
        """
        self._log.write_bytes(b"")
        with self._log.open("ab") as log:  # one that outlived another demonstration and writes there too leaves no hole
            # A session of its own: Ctrl-C at the terminal reaches this process only, which ends the others in turn.
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        until_s = time.monotonic() + _START_S
        while self._ready not in self.words:
            if not self.is_running or time.monotonic() > until_s:
                self.__exit__(None, None, None)
                raise WorkerError(f"{' '.join(self._command[2:])} did not start; it said:\n{self.words}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Ask it to end; insist if it does not."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def words(self) -> str:
        """All that it printed."""
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None
