"""A rollout pool of Ray actors (Ray's word: processes that hold an object), each a ``RolloutHost``; survives their deaths.

Hop 3 of the tour, many times at once. Episodes do not pass here: a host commits its own, ids and a few numbers come back.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.carried_weights import CarriedCheckpoint, WeightsCarrier, WeightsInbox
from cluster.placement import PlacementConfig
from cluster.rollout_host import (
    CommittedEpisodes,
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

_log = logging.getLogger(__name__)


class _HostActor:
    """The Ray actor. Building is a call and not the constructor, so that its errors come back as themselves."""

    def build(self, make_runner: MakeRunner, make_sink: MakeSink, name: str) -> None:
        node = ray.util.get_node_ip_address().replace(".", "-")  # episodes say by their worker where they were played
        self._host = RolloutHost(make_runner, make_sink, f"{name}-{node}")
        self._folder = tempfile.TemporaryDirectory(prefix=f"{name}-")
        self._inbox = WeightsInbox(Path(self._folder.name))
        if "torch" in sys.modules:  # two workers with all cores each are slower than with one each
            sys.modules["torch"].set_num_threads(1)

    def run(self, request: EpisodeRequest, carried: CarriedCheckpoint | None = None) -> EpisodeReport:
        if carried is not None and request.policy is not None:
            request = dataclasses.replace(request, policy=self._inbox.unpack(request.policy, carried))
        return self._host.run(request)

    def close(self) -> None:
        self._host.close()
        self._folder.cleanup()

    def pid(self) -> int:
        return os.getpid()


@dataclass(kw_only=True)
class _Seat:
    """One place in the pool, and who sits there."""

    index: int
    actor: Any = None
    """None: nobody; the next ``collect`` fills the seat."""
    name: str = ""
    """Of the worker and of its writer; a replacement has another one, and begins a log of its own."""


@dataclass(kw_only=True)
class _Running:
    """An episode in progress."""

    seat: _Seat
    request: EpisodeRequest
    num_attempts: int
    deadline_s: float
    """When the worker counts as dead, by the monotonic clock."""


class RayRolloutPool:
    """Runs episodes on several workers at once.

    Consumes: EpisodeSpecs, a policy checkpoint. Produces: committed episodes, EpisodeReports in the order they finish.
    Waits for: any worker. On failure: a worker that dies, hangs (``episode_timeout_s``), or fails with an error that nobody
    raised on purpose, is replaced and its episode begun again with the same seed; if that happens again, a WorkerError. A
    worker that dies before it is built is replaced too, ``max_hires`` times in all.
    Invariant: each EpisodeSpec leads to at most one committed episode.

    When the caller stops early (an error, Ctrl-C, leaving the loop), workers in the middle of an episode are killed: an
    episode that nobody waits for never appears.
    """

    def __init__(
        self, make_runner: MakeRunner, make_sink: MakeSink, committed: CommittedEpisodes, placement: PlacementConfig
    ) -> None:
        """Start the workers and wait until they are built; this process must be connected to Ray (``cluster.launch``).

        Args:
            make_runner: picklable; called in each worker's process.
            make_sink: picklable; called in each worker's process with the worker's name.
            committed: the replay store as this process sees it.
            placement: how many workers, and what each occupies.

        Raises:
            WorkerError: if ``max_hires`` workers in a row die while they are built, or the cluster has no room for all.
            RecapError: whatever building raises.
        """
        self._make_runner = make_runner
        self._make_sink = make_sink
        self._committed = committed
        self._placement = placement
        self._run = uuid.uuid4().hex[:8]
        self._num_hired = 0
        self.weights = WeightsCarrier() if placement.are_weights_carried else None
        self._is_closed = threading.Event()
        self._actor_class = ray.remote(
            num_cpus=placement.cpus_per_rollout_worker,
            num_gpus=placement.gpus_per_rollout_worker,
            resources={placement.rollout_resource: 1} if placement.rollout_resource else None,
            scheduling_strategy="SPREAD" if placement.is_spread else "DEFAULT",
            max_restarts=0,
        )(_HostActor)
        self._seats = [_Seat(index=index) for index in range(placement.num_rollout_workers)]
        self._fill_seats()

    def worker_pids(self) -> list[int]:
        """The operating system's process ids of the workers; for monitoring, and for tests that kill one."""
        pids: list[int] = ray.get([seat.actor.pid.remote() for seat in self._seats if seat.actor is not None])
        return pids

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed.

        Args:
            episodes: what to run; taken as workers become free, so that an endless iterator is fine.
            policy: see ``PolicySource``; the answer of a function holds for the episodes that begin after it.
            on_episode: called with each report before it is yielded.
            on_failure: see ``OnFailure``.

        Raises:
            WorkerError: if an episode's worker crashed more than ``max_episode_retries`` times.
            RecapError: whatever the environment, the policy or the store raises in a worker.
        """
        waiting: Iterator[EpisodeSpec] = iter(episodes)
        running: dict[ray.ObjectRef[EpisodeReport], _Running] = {}
        self._fill_seats()
        try:
            for seat, spec in zip(self._seats, waiting, strict=False):
                self._begin(running, seat, EpisodeRequest(spec=spec, policy=current_policy(policy)))
            while running:
                finished, is_overdue = _await_any(running)
                episode = running.pop(finished)
                report: EpisodeReport | None = None
                try:
                    report = self._report(finished, episode, is_overdue=is_overdue)
                    if report is None:
                        self._begin(running, episode.seat, episode.request, episode.num_attempts + 1)
                        continue
                except RecapError as error:
                    on_failure(episode.request.spec, error)
                    self._fill_seats()
                for spec in itertools.islice(waiting, 1):
                    self._begin(running, episode.seat, EpisodeRequest(spec=spec, policy=current_policy(policy)))
                if report is None:
                    continue
                if on_episode is not None:
                    on_episode(report)
                yield report
        finally:
            for episode in running.values():
                self._dismiss(episode.seat)

    def close(self) -> None:
        """Kill all workers: an episode in progress is dropped, a committed one stays. A ``collect`` in another thread ends."""
        self._is_closed.set()
        self._dismiss_all(self._seats)

    def _begin(self, running: dict[Any, _Running], seat: _Seat, request: EpisodeRequest, num_attempts: int = 1) -> None:
        carried = self.weights.reference(request.policy) if self.weights else None
        deadline_s = time.monotonic() + self._placement.episode_timeout_s
        running[seat.actor.run.remote(request, carried)] = _Running(
            seat=seat, request=request, num_attempts=num_attempts, deadline_s=deadline_s
        )

    def _report(self, finished: Any, episode: _Running, *, is_overdue: bool) -> EpisodeReport | None:
        """The report of a finished episode; None where its worker died, has been replaced, and the episode must begin again."""
        try:
            if is_overdue:
                self._dismiss(episode.seat)  # before looking for what it left: a hung worker may wake up
                raise _WorkerDiedError(
                    f"rollout worker {episode.seat.name} hangs: no episode within {self._placement.episode_timeout_s:g} s "
                    "(execution.episode_timeout_s)"
                )
            report: EpisodeReport = _answer(finished, episode.seat.name)
            return dataclasses.replace(report, num_attempts=episode.num_attempts)
        except _WorkerDiedError as death:
            if self._is_closed.is_set():
                raise WorkerError("the rollout pool was closed while it was collecting") from None
            left = self._left_by_the_dead(episode)
            seed = episode.request.spec.seed
            if left is None and episode.num_attempts > self._placement.max_episode_retries:
                self._dismiss(episode.seat)
                raise WorkerError(
                    f"the episode with seed {seed} has killed {episode.num_attempts} workers, the last time: {death}. Episodes "
                    "committed so far are kept; look for the reason in Ray's worker logs (often memory), then resume"
                ) from death
            _log.warning("%s; %s", death, "its episode was committed" if left else f"its episode (seed {seed}) begins again")
            self._dismiss(episode.seat)
            self._fill_seats()
            return left

    def _left_by_the_dead(self, episode: _Running) -> EpisodeReport | None:
        """What a worker committed and could not report any more."""
        request = episode.request
        self._committed.refresh()
        if request.episode_id not in self._committed.episode_ids():
            return None
        info = self._committed.info(request.episode_id)
        return EpisodeReport(
            episode_id=request.episode_id,
            seed=request.spec.seed,
            end=info.end,
            num_steps=info.num_steps,
            policy_version=-1 if request.policy is None else request.policy.version,
            worker=episode.seat.name,
            wall_s=math.nan,
            num_attempts=episode.num_attempts,
        )

    def _fill_seats(self) -> None:
        """Start workers where there are none, all at once, and wait until they are built.

        For some seconds Ray may place workers on a node that is already dead; those die unbuilt, and others are hired.
        """
        max_hires, pause_s = self._placement.max_hires, self._placement.hire_pause_s
        for num_hires in itertools.count(1):
            deaths = self._hire([seat for seat in self._seats if seat.actor is None])
            if not deaths:
                return
            if num_hires == max_hires:
                raise WorkerError(
                    f"{max_hires} workers hired one after the other for the same place in the pool died before they were built, "
                    f"the last time: {deaths[-1]}. Episodes committed so far are kept; look for the reason in Ray's worker logs "
                    "(often memory), then resume"
                ) from deaths[-1]
            _log.warning("%s. It was not built yet: another is hired in %g s", deaths[-1], pause_s)
            self._is_closed.wait(pause_s)
            pause_s *= 2

    def _hire(self, vacant: list[_Seat]) -> list[_WorkerLostError]:
        """Seat a worker in each; returns the deaths of those whose seats are vacant again."""
        for seat in vacant:
            if self._is_closed.is_set():
                raise WorkerError("the rollout pool is closed; make a new one")
            seat.name = f"w{seat.index}-{self._run}-{self._num_hired}"
            self._num_hired += 1
            seat.actor = self._actor_class.options(name=f"rollout:{seat.name}").remote()
        built = [seat.actor.build.remote(self._make_runner, self._make_sink, seat.name) for seat in vacant]
        deaths = []
        try:
            for seat, answer in zip(vacant, built, strict=True):
                try:
                    _answer(answer, seat.name, timeout_s=self._placement.start_timeout_s)
                except _WorkerLostError as death:
                    self._dismiss(seat)
                    deaths.append(death)
        except GetTimeoutError:
            placement, total, free = self._placement, ray.cluster_resources(), ray.available_resources()
            self._dismiss_all(vacant)
            raise WorkerError(
                f"{len(vacant)} rollout workers did not start within {placement.start_timeout_s:g} s. Each needs "
                f"{_amounts(placement, None, None)}; the cluster has {_amounts(placement, total, free)}. Use fewer workers, "
                "give each less, or wait longer"
            ) from None
        except BaseException:
            self._dismiss_all(vacant)
            raise
        return deaths

    def _dismiss_all(self, seats: list[_Seat]) -> None:
        for seat in seats:
            self._dismiss(seat)

    def _dismiss(self, seat: _Seat) -> None:
        if seat.actor is not None:
            ray.kill(seat.actor)
            seat.actor = None


def _amounts(placement: PlacementConfig, total: dict[str, float] | None, free: dict[str, float] | None) -> str:
    """What a worker needs, or what there is of it: ``"4 CPU (1 free), 0 GPU (0 free), 2 simulation (0 free)"``."""
    needed = {"CPU": placement.cpus_per_rollout_worker, "GPU": placement.gpus_per_rollout_worker}
    needed |= {placement.rollout_resource: 1} if placement.rollout_resource else {}
    if total is None or free is None:
        return ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
    return ", ".join(f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in needed)


def _await_any(running: dict[Any, _Running]) -> tuple[Any, bool]:
    """An episode that has finished, or the one whose time is up first; and whether it is that."""
    overdue = min(running, key=lambda reference: running[reference].deadline_s)
    patience_s = max(0.0, running[overdue].deadline_s - time.monotonic())
    finished, _ = ray.wait(list(running), num_returns=1, timeout=patience_s)
    return (finished[0], False) if finished else (overdue, True)


class _WorkerDiedError(WorkerError):
    """Replace it."""


class _WorkerLostError(_WorkerDiedError):
    """Its process is gone, or cannot be reached; what it was doing need not be the reason."""


def _answer(reference: Any, name: str, *, timeout_s: float | None = None) -> Any:
    """The result of a call, or our error in place of Ray's; GetTimeoutError is the caller's to explain."""
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayActorError as error:
        raise _WorkerLostError(f"rollout worker {name} died: {str(error).splitlines()[0].rstrip('.')}") from None
    except RayTaskError as error:
        if isinstance(error.cause, RecapError):
            raise error.cause from None
        raise _WorkerDiedError(f"rollout worker {name} failed: {type(error.cause).__name__}: {error.cause}") from error
