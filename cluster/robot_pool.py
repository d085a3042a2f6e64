"""A rollout pool of a robot and of its simulated twins: each plays its share of the rollouts at its own pace.

Hop 3 of the tour. Which rollouts are simulated is drawn from their seeds, so that a resumed run shares them out alike;
evaluations and demonstrations are the robot's. A robot's worker that dies is not replaced: a new one would need a person too.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import numpy as np

from cluster.rollout_host import (
    EpisodeReport,
    EpisodeSpec,
    OnFailure,
    PolicyCheckpoint,
    PolicySource,
    RolloutPool,
    current_policy,
    give_up,
)
from core.experience import Collection

_log = logging.getLogger(__name__)


class _Side(Enum):
    ROBOT = "robot"
    SIMULATION = "simulation"


class _Dealer:
    """Deals one stream of specs to two sides. Invariant: a spec and the policy it is played with are taken together."""

    def __init__(self, specs: Iterator[EpisodeSpec], policy: PolicySource, side_of: Callable[[EpisodeSpec], _Side]) -> None:
        self._specs = specs
        self._policy = policy
        self._side_of = side_of
        self._lock = threading.Lock()
        self._waiting: dict[_Side, deque[tuple[EpisodeSpec, PolicyCheckpoint | None]]] = {side: deque() for side in _Side}
        self._dealt: dict[_Side, PolicyCheckpoint | None] = {}
        self._is_over = threading.Event()

    def specs_of(self, side: _Side) -> Iterator[EpisodeSpec]:
        """The specs of one side; what belongs to the other waits for it."""
        while (spec := self._next(side)) is not None:
            yield spec

    def policy_of(self, side: _Side) -> PolicySource:
        """As asked by a pool right after it took a spec."""
        if self._policy is None:
            return None
        return lambda: self._dealt[side]  # type: ignore[return-value]  # a function of policies never answers None

    def stop(self) -> None:
        """Deal no more."""
        self._is_over.set()

    def _next(self, side: _Side) -> EpisodeSpec | None:
        with self._lock:
            while not self._waiting[side]:
                spec = None if self._is_over.is_set() else next(self._specs, None)
                if spec is None:
                    self._is_over.set()
                    return None
                self._waiting[self._side_of(spec)].append((spec, current_policy(self._policy)))
            spec, self._dealt[side] = self._waiting[side].popleft()
            return spec


class RobotAndSimulationPool:
    """Runs episodes on two pools at once.

    Consumes: EpisodeSpecs, a policy checkpoint. Produces: committed episodes, EpisodeReports in the order they finish. Waits for:
    the robot, which waits for a person. On failure: what one pool raises ends both.
    """

    def __init__(self, robot: RolloutPool, simulation: RolloutPool, *, simulated_fraction: float) -> None:
        """Take ownership of both; ``simulated_fraction`` of the rollouts is simulated."""
        self._pools = {_Side.ROBOT: robot, _Side.SIMULATION: simulation}
        self._simulated_fraction = simulated_fraction

    def collect(
        self,
        episodes: Iterable[EpisodeSpec],
        *,
        policy: PolicySource,
        on_episode: Callable[[EpisodeReport], None] | None = None,
        on_failure: OnFailure = give_up,
    ) -> Iterator[EpisodeReport]:
        """Run episodes; yields each as soon as it is committed. See ``RolloutPool``.

        Raises:
            RecapError: whatever either pool raises.
        """
        dealer = _Dealer(iter(episodes), policy, self._side_of)
        found: queue.SimpleQueue[EpisodeReport | BaseException | None] = queue.SimpleQueue()

        def play(side: _Side) -> None:
            try:
                reports = self._pools[side].collect(dealer.specs_of(side), policy=dealer.policy_of(side), on_failure=on_failure)
                for report in reports:
                    found.put(report)
            except BaseException as error:
                found.put(error)
            else:
                found.put(None)

        threads = [threading.Thread(target=play, args=(side,), name=f"collect-{side.value}", daemon=True) for side in _Side]
        for thread in threads:
            thread.start()
        num_playing = len(threads)
        try:
            while num_playing:
                answer = found.get()
                if answer is None:
                    num_playing -= 1
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    if on_episode is not None:
                        on_episode(answer)
                    yield answer
        finally:
            dealer.stop()
            if num_playing:  # an episode that nobody waits for never appears
                self.close()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Stop both: episodes in progress are dropped, the robot is held by its supervisor."""
        for side, pool in self._pools.items():
            try:
                pool.close()
            except Exception:  # the other one is to be closed too
                _log.exception("closing the %s's workers", side.value)

    def _side_of(self, spec: EpisodeSpec) -> _Side:
        if spec.collection is not Collection.ROLLOUT:
            return _Side.ROBOT
        is_simulated = np.random.default_rng([spec.seed, 0x517]).random() < self._simulated_fraction
        return _Side.SIMULATION if is_simulated else _Side.ROBOT
