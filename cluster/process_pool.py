"""A rollout pool of processes on this machine: the twin of ``cluster.ray_pool.RayRolloutPool``, standard library only.

Hop 3 of the tour, several times at once. Like Ray's, these workers commit their own episodes; a few numbers come back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from cluster.rollout_host import (
    EpisodeReport,
    EpisodeRequest,
    EpisodeSpec,
    MakeRunner,
    MakeSink,
    OnFailure,
    PolicySource,
    RolloutHost,
    current_policy,
    give_up,
)
from core.errors import RecapError, WorkerError


@dataclass(kw_only=True)
class _Worker:
    """One process, and the episode it plays."""

    index: int
    process: BaseProcess
    connection: Connection
    request: EpisodeRequest | None = None
    num_attempts: int = 0
    deadline_s: float = math.inf
    """When it counts as hung, by the monotonic clock."""


class ProcessRolloutPool:
    """Runs episodes on several processes of this machine.

    Consumes: EpisodeSpecs, a policy checkpoint. Produces: committed episodes, EpisodeReports in the order they finish.
    Waits for: any worker. On failure: a worker that dies, hangs (``episode_timeout_s``), or fails with an error that nobody
    raised on purpose, is replaced and its episode begun again with the same seed; if that happens again, a WorkerError. An
    episode that was committed but not reported when its worker died is told apart by its seed by whoever counts
    (``actors.collection``). Invariant: a spec is with one worker at a time.

    Workers are killed when the caller stops early: an episode that nobody waits for never appears.
    """

    def __init__(
        self,
        make_runner: MakeRunner,
        make_sink: MakeSink,
        *,
        num_workers: int,
        max_episode_retries: int = 1,
        episode_timeout_s: float = 1800.0,
    ) -> None:
        """Start the workers; ``make_runner`` and ``make_sink`` are picklable and called inside each process.

        Building a worker counts to its first episode's ``episode_timeout_s``.
        """
        self._make_runner = make_runner
        self._make_sink = make_sink
        self._max_episode_retries = max_episode_retries
        self._episode_timeout_s = episode_timeout_s
        # "spawn": a forked copy of a process that runs torch or a renderer deadlocks sooner or later.
        self._context = multiprocessing.get_context("spawn")
        self._run = uuid.uuid4().hex[:8]
        self._num_hired = itertools.count()
        self._is_closed = threading.Event()
        self._workers = [self._hire(index) for index in range(num_workers)]

    def worker_pids(self) -> list[int]:
        """The workers' process ids; for monitoring, and for tests that kill one."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed. See ``RayRolloutPool.collect``.

        Raises:
            WorkerError: if an episode's worker crashed more than ``max_episode_retries`` times.
            RecapError: whatever the environment, the policy or the store raises in a worker.
        """
        waiting = iter(episodes)
        for index, worker in enumerate(self._workers):
            if not worker.process.is_alive() or worker.request is not None:
                self._dismiss(worker)
                self._workers[index] = self._hire(index)
        try:
            for worker in self._workers:
                self._begin_next(worker, waiting, policy)
            while running := {worker.connection: worker for worker in self._workers if worker.request is not None}:
                overdue_s = min(worker.deadline_s for worker in running.values()) - time.monotonic()
                for connection in wait(list(running), timeout=max(0.0, overdue_s)) or _overdue(running):
                    worker = running[connection]  # type: ignore[index]
                    spec = worker.request.spec if worker.request else None
                    assert spec is not None, "only workers with an episode are waited for"
                    try:
                        report = self._report(worker)
                    except RecapError as error:
                        on_failure(spec, error)
                        self._begin_next(self._workers[worker.index], waiting, policy)
                        continue
                    if report is None:
                        continue
                    self._begin_next(worker, waiting, policy)
                    if on_episode is not None:
                        on_episode(report)
                    yield report
        finally:
            for worker in self._workers:
                if worker.request is not None:
                    self._dismiss(worker)

    def close(self) -> None:
        """Kill all workers: an episode in progress is dropped, a committed one stays. A ``collect`` in another thread ends."""
        self._is_closed.set()
        for worker in self._workers:
            self._dismiss(worker)

    def _hire(self, index: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        name = f"w{index}-{self._run}-{next(self._num_hired)}"
        process = self._context.Process(
            target=_worker_main, args=(theirs, self._make_runner, self._make_sink, name), name=f"rollout-{name}", daemon=True
        )
        process.start()
        theirs.close()  # else the worker's end would not be seen as the end of the pipe
        return _Worker(index=index, process=process, connection=ours)

    def _begin_next(self, worker: _Worker, waiting: Iterator[EpisodeSpec], policy: PolicySource) -> None:
        for spec in itertools.islice(waiting, 1):
            self._begin(worker, EpisodeRequest(spec=spec, policy=current_policy(policy)), 1)

    def _begin(self, worker: _Worker, request: EpisodeRequest, num_attempts: int) -> None:
        worker.request, worker.num_attempts = request, num_attempts
        worker.deadline_s = time.monotonic() + self._episode_timeout_s
        with contextlib.suppress(OSError):  # it is dead; the end of its pipe is about to be seen
            worker.connection.send(request)

    def _report(self, worker: _Worker) -> EpisodeReport | None:
        """The report of a finished episode; None where its worker crashed and the episode was begun again on another."""
        if time.monotonic() >= worker.deadline_s and not worker.connection.poll():
            timeout_s = self._episode_timeout_s
            self._begin_again(worker, f"hanging for {timeout_s:g} s", "; see execution.episode_timeout_s")
            return None
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            self._begin_again(worker, _death(worker.process), "; memory is the usual reason: use fewer workers, then resume")
            return None
        if isinstance(answer, _CrashError):
            self._begin_again(worker, str(answer))
            return None
        attempts, worker.request = worker.num_attempts, None
        if isinstance(answer, Exception):
            raise answer
        return dataclasses.replace(answer, num_attempts=attempts)

    def _begin_again(self, worker: _Worker, how: str, advice: str = "") -> None:
        """Replace a worker that crashed, and give its episode to the new one unless it has crashed too many."""
        request = worker.request
        assert request is not None, "only workers with an episode are waited for"
        self._dismiss(worker)
        if self._is_closed.is_set():
            raise WorkerError("the rollout pool was closed while it was collecting")
        fresh = self._hire(worker.index)
        self._workers[worker.index] = fresh
        if worker.num_attempts > self._max_episode_retries:
            raise WorkerError(
                f"the episode with seed {request.spec.seed} has killed {worker.num_attempts} workers, the last time by {how}. "
                f"Episodes committed so far are kept{advice}"
            )
        self._begin(fresh, request, worker.num_attempts + 1)

    def _dismiss(self, worker: _Worker) -> None:
        worker.request = None
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _overdue(running: dict[Connection, _Worker]) -> list[Connection]:
    """Those whose time is up."""
    return [connection for connection, worker in running.items() if time.monotonic() >= worker.deadline_s]


class _CrashError(WorkerError):
    """An error that nobody raised on purpose: the worker's state is unknown, replace it."""


def _death(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _worker_main(connection: Connection, make_runner: MakeRunner, make_sink: MakeSink, name: str) -> None:
    """Life of a worker: build, then play until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its workers itself
    import torch

    torch.set_num_threads(1)  # several workers share the cores; more threads each only fight
    host: RolloutHost | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        answer: EpisodeReport | Exception
        try:
            host = host or RolloutHost(make_runner, make_sink, name)
            answer = host.run(request)
        except RecapError as error:
            answer = error
        except Exception as error:
            answer = _CrashError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):  # the parent is gone; the next recv ends this process
            connection.send(answer)
