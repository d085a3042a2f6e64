"""A child process that works until it is killed and tells of each piece of work that was acknowledged."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator


class DoomedProcess:
    """Runs an iterator of numbers in a forked child; each number comes through a pipe once it was yielded."""

    def __init__(self, work: Iterator[int]) -> None:
        self._read_end, write_end = os.pipe()
        self._process_id = os.fork()
        if self._process_id == 0:
            try:
                for number in work:
                    os.write(write_end, b"%d\n" % number)
            finally:
                os._exit(1)
        os.close(write_end)
        self._received = b""

    def await_first(self) -> None:
        """Wait until something was acknowledged."""
        self._received = os.read(self._read_end, 1 << 16)
        assert self._received, "the child failed before it did anything"

    def kill(self) -> None:
        """Without notice (SIGKILL)."""
        os.kill(self._process_id, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(self._process_id, 0)[1]) == -signal.SIGKILL, "the child failed by itself"

    def heard(self) -> set[int]:
        """All that was acknowledged before the end."""
        while more := os.read(self._read_end, 1 << 16):
            self._received += more
        os.close(self._read_end)
        return {int(line) for line in self._received.split(b"\n")[:-1]}
