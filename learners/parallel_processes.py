"""Ranks of a learner as processes of this machine, standard library only.

A rank that dies ends the team: the others wait for it inside a collective and would wait for ever. The run ends with one error
and resumes from the last train state, with the same or another number of processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from core.errors import RecapError, WorkerError
from learners.parallel import ParallelConfig
from learners.parallel_rank import LearnerJob, LearnerRank

_LAST_WORDS_S = 5.0
"""How long a death may take to be seen after its consequences."""


class ProcessTeam:
    """Starts the ranks, calls them all at once, and ends them together.

    Consumes: calls. Produces: what rank 0 answers. Waits for: all ranks. On failure: the first error ends all ranks and is
    raised. Invariant: no rank outlives the team, nor the process that made it.
    """

    def __init__(self, job: LearnerJob, config: ParallelConfig, *, device: torch.device, num_threads: int = 0) -> None:
        """Start the ranks and wait until their learners are built.

        Args:
            job: what each rank builds.
            config: how many, and how.
            device: of the learners: ``cuda`` gives each rank a GPU of its own.
            num_threads: of one torch operation in a rank; 0: an equal share of the cores.

        Raises:
            WorkerError: if a rank dies, or building takes longer than ``start_timeout_s``.
            RecapError: whatever building raises.
        """
        # "spawn": a forked copy of a process that runs torch or a renderer deadlocks sooner or later.
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="learner-ranks-")
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        threads = num_threads or max(1, (os.cpu_count() or 1) // config.num_processes)
        for rank in range(config.num_processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, job, config, rank, f"file://{Path(self._folder.name)}/rendezvous", device.type, threads)
            process = context.Process(target=_rank_main, args=arguments, name=f"learner-rank-{rank}", daemon=True)
            process.start()
            theirs.close()  # else a rank's death would not be seen as the end of its pipe
            self._processes.append(process)
            self._connections.append(ours)
        self._answers("starting", timeout_s=config.start_timeout_s)

    def pids(self) -> list[int]:
        """The ranks' process ids; for monitoring, and for tests that kill one."""
        return [process.pid for process in self._processes if process.pid is not None]

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of ``LearnerRank`` in all ranks.

        Returns:
            What rank 0 answers.

        Raises:
            WorkerError: if a rank died.
            RecapError: what the first rank to fail raised.
        """
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it is dead; the end of its pipe is about to be seen
                connection.send((method, arguments))
        return self._answers(method)

    def close(self) -> None:
        """End all ranks."""
        for process in self._processes:
            process.kill()
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            connection.close()
        self._processes, self._connections = [], []
        self._folder.cleanup()

    def _answers(self, what: str, *, timeout_s: float | None = None) -> Any:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        answers: dict[int, Any] = {}
        while len(answers) < len(self._connections):
            waiting = [c for rank, c in enumerate(self._connections) if rank not in answers]
            ready = wait(waiting, None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
            if not ready:
                self.close()
                raise WorkerError(f"the learner's processes did not start within {timeout_s:g} s; raise learner.start_timeout_s")
            for connection in ready:
                rank = self._connections.index(connection)  # type: ignore[arg-type]
                answers[rank] = self._answer(rank, what)
        return answers[0]

    def _answer(self, rank: int, what: str) -> Any:
        try:
            answer = self._connections[rank].recv()
        except (EOFError, OSError):
            raise self._death(rank, what) from None
        if isinstance(answer, _CrashError):  # perhaps because the process at the other end of its collective died
            dead = wait([process.sentinel for process in self._processes], timeout=_LAST_WORDS_S)
            ranks = [r for r, process in enumerate(self._processes) if process.sentinel in dead]
            answer = self._death(ranks[0], what) if ranks else answer
        if isinstance(answer, Exception):
            self.close()
            raise answer
        return answer

    def _death(self, rank: int, what: str) -> WorkerError:
        """End the team; the error that says why."""
        process, count = self._processes[rank], len(self._processes)
        process.join()
        code = process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.close()
        return WorkerError(
            f"process {rank} of the {count} of a learner died ({how}) during {what!r}; memory is the usual reason: lower "
            "microbatch_size. Steps since the last train state are lost, and taken again when the run is resumed"
        )


class _CrashError(WorkerError):
    """An error that nobody raised on purpose."""


def _rank_main(
    connection: Connection, job: LearnerJob, config: ParallelConfig, rank: int, rendezvous: str, device: str, num_threads: int
) -> None:
    """Life of a rank: build, then answer until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its ranks itself
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all ranks are on this machine: nothing of a model goes over the network
    torch.set_num_threads(num_threads)
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    built: LearnerRank | None = None
    while True:
        answer: Any = None
        try:
            method, arguments = connection.recv() if built else ("", ())
        except (EOFError, OSError):
            return
        try:
            if built is None:
                built = LearnerRank(job, config, rank=rank, rendezvous=rendezvous, device=torch.device(device))
            else:
                answer = getattr(built, method)(*arguments)
        except RecapError as error:
            answer = error
        except Exception as error:
            answer = _CrashError(f"process {rank} of a learner failed: {type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):  # the parent is gone; the next recv ends this process
            connection.send(answer)
