"""The main job as its user starts it, ``python -m learners.recap``, held from outside: started, watched, stopped, resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.chaos.evidence import Seen, see

_POLL_S = 0.01


class MissedError(RuntimeError):
    """The job was over before the moment for the fault came."""


class Job:
    """One run of the main job and all its processes."""

    def __init__(self, run: Path, arguments: Sequence[str], log: Path) -> None:
        """``arguments``: of ``learners.recap`` but ``--run``; ``log`` gets what it prints."""
        self.run = run
        self.log = log
        self._arguments = tuple(arguments)
        self._prefix: tuple[str, ...] = ()
        self._environment = {"OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    def join_cluster(self, address: str, *, prefix: Sequence[str], environment: Mapping[str, str]) -> None:
        """Before the start: run on a Ray cluster that is there, rollout workers on all of its nodes.

        Args:
            address: of its head, ``host:port``.
            prefix: put before the command, to run it on a node.
            environment: added to the job's.
        """
        self._arguments += (f"execution.ray_address={address}", "execution.is_spread=true")
        self._prefix = tuple(prefix)
        self._environment |= environment

    def start(self) -> None:
        """Begin the run."""
        self._launch(["--run", str(self.run), *self._arguments])

    def resume(self) -> None:
        """Continue it with its own configuration."""
        self._launch(["--resume", str(self.run)])

    @property
    def driver(self) -> psutil.Process:
        """The process that the user started; the learner runs in it."""
        assert self._process is not None, "start comes first"
        return psutil.Process(self._process.pid)

    def is_over(self) -> bool:
        """Whether the driver has ended."""
        return self._process is None or self._process.poll() is not None

    def parts(self, title: str) -> list[psutil.Process]:
        """Processes of the run, on this machine, whose title begins so: ``ray::_HostActor``."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    def family(self) -> list[psutil.Process]:
        """The driver's descendants."""
        with contextlib.suppress(psutil.Error):
            for process in self.driver.children(recursive=True):
                self._family[process.pid] = process
        return [process for process in self._family.values() if is_alive(process)]

    def await_moment(self, has_come: Callable[[Seen], bool], *, timeout_s: float = 240.0) -> Seen:
        """Wait until the run's disk looks so.

        Raises:
            MissedError: if the run was over first.
            TimeoutError: if nothing of the kind happens.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            seen = see(self.run)
            if has_come(seen):
                return seen
            if self.is_over():
                raise MissedError(f"the run was over before its moment came: {self.last_line()}")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.run} did not come to its moment within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def await_end(self, *, timeout_s: float = 300.0) -> int:
        """The driver's exit status.

        Raises:
            TimeoutError: if it does not end: the fault has blocked it.
        """
        assert self._process is not None, "start comes first"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.run} did not end within {timeout_s:g} s; see {self.log}") from None

    def kill(self) -> None:
        """The driver, without notice."""
        self.family()
        assert self._process is not None, "start comes first"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Leave no process behind."""
        if self._process is not None and not self.is_over():
            self.kill()
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def last_line(self) -> str:
        """Of what the job has printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "(nothing printed)"

    def _launch(self, arguments: list[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "learners.recap", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a dead one that nobody has waited for yet does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@contextlib.contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    """Stop a process where it is, and look at what it was doing; it goes on afterwards unless it was killed meanwhile."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.Error):
            process.resume()
