"""A run of viva-recap as stations with queues: rollout workers, policy and value replicas, store, learners.

A worker plays an episode (its own environment; after every chunk the policy), commits it, and begins the next one unless
the learners are too far behind. Every committed episode is labelled once a pass and trained on ``samples_per_step`` times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.queueing import Process, Simulation, Station, Visit

STATIONS = ("policy", "store", "value", "learner")
_WARM_UP = 0.4
"""How long nothing is measured, in parts of the measured time; besides twice the time of an episode."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one part costs; see docs/scale.md for which of these were measured."""

    steps_per_episode: int
    chunk_steps: int
    """Environment steps between two calls of the policy."""
    env_step_s: float
    reset_s: float
    policy_call_s: float
    """Of one replica, for one worker's observation; 0: the policy runs in the worker and is in ``env_step_s``."""
    value_observation_s: float
    learner_sample_s: float
    """Of one learner, a sample: step time over batch size."""
    samples_per_step: float
    """How often an environment step is trained on (samples per insert)."""
    episode_mb: float
    """Written once by the worker, read once to be labelled."""
    sample_mb: float
    """Read by a learner, a sample that is not in its memory."""
    cache_miss: float
    """Share of samples that are not."""
    commit_s: float
    """Until an episode is durable, besides its bytes."""
    variation: float = 0.3
    """Standard deviation over mean of the times that are not constant (gamma distributed)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name in ("steps_per_episode", "chunk_steps", "env_step_s")):
                raise ValueError(f"{name} is {value}; expected a positive number")

    @property
    def num_calls(self) -> int:
        """Of the policy, an episode."""
        return -(-self.steps_per_episode // self.chunk_steps)

    def demands(self, store_mb_per_s: float) -> dict[str, float]:
        """Service seconds an episode asks of each station."""
        steps = self.steps_per_episode
        samples = steps * self.samples_per_step
        return {
            "policy": self.num_calls * self.policy_call_s,
            "store": (2 * self.episode_mb + samples * self.cache_miss * self.sample_mb) / store_mb_per_s,
            "value": (steps + 1) * self.value_observation_s,
            "learner": samples * self.learner_sample_s,
        }

    @property
    def alone_s(self) -> float:
        """An episode's time in its worker, where nobody is waited for."""
        return self.reset_s + self.steps_per_episode * self.env_step_s + self.commit_s


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """How many of each part."""

    workers: int
    policy_replicas: int = 1
    value_replicas: int = 1
    learners: int = 1
    stores: int = 1
    """Disks or servers that episodes are spread over."""
    store_mb_per_s: float = 1000.0
    """Of each."""
    max_ahead: int = 3
    """Episodes a worker may have waiting for the learners before it waits too: what bounds staleness."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; expected a positive number")

    def servers(self) -> dict[str, int]:
        """Of each station."""
        return {"policy": self.policy_replicas, "store": self.stores, "value": self.value_replicas, "learner": self.learners}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulation measured."""

    episodes_per_s: float
    steps_per_s: float
    utilisation: Mapping[str, float]
    """Of each station, and of ``workers`` (share of their time in which an environment moves)."""
    wait_s: Mapping[str, float]
    """Mean time in the queue, a visit."""
    age_s: float
    """Mean time from the beginning of an episode until the learners are through with it, by Little's law: episodes under way
    over episodes a second. Exact where the fleet is in a steady state, and known long before an episode came through."""
    limiter_share: float
    """Share of the workers' time spent waiting for the learners."""

    @property
    def bottleneck(self) -> str:
        """The station nearest to its limit; ``workers`` where every station has a fifth to spare."""
        station = max(STATIONS, key=lambda name: self.utilisation[name])
        return station if self.utilisation[station] > 0.8 else "workers"


def simulate(costs: Costs, fleet: Fleet, *, episodes_per_worker: float = 5.0, seed: int = 0) -> Outcome:
    """Play a fleet for some time.

    Args:
        costs: of the parts.
        fleet: how many of each.
        episodes_per_worker: a worker plays while it is measured, where nothing but the bottleneck slows it.
        seed: of the random times.
    """
    limit = throughput_bound(costs, fleet)
    measured_s = max(40 / limit, episodes_per_worker * fleet.workers / limit)
    through_s = through_time_s(costs, fleet)
    return _Run(costs, fleet, warm_up_s=_WARM_UP * measured_s + 2 * through_s, measured_s=measured_s, seed=seed).outcome()


def throughput_bound(costs: Costs, fleet: Fleet) -> float:
    """Episodes a second that the fleet cannot exceed."""
    demands = costs.demands(fleet.store_mb_per_s)
    alone = fleet.workers / (costs.alone_s + demands["policy"])
    return min([alone, *(servers / demands[name] for name, servers in fleet.servers().items() if demands[name] > 0)])


def through_time_s(costs: Costs, fleet: Fleet) -> float:
    """From the beginning of an episode until the learners are through with it, where nothing waits."""
    demands = costs.demands(fleet.store_mb_per_s)
    return costs.alone_s + sum(demands.values()) - demands["learner"] * (1 - 1 / fleet.learners)


class _Run:
    """One simulation."""

    def __init__(self, costs: Costs, fleet: Fleet, *, warm_up_s: float, measured_s: float, seed: int) -> None:
        self._costs = costs
        self._fleet = fleet
        self._rng = np.random.default_rng(seed)
        self._shape = 1 / costs.variation**2 if costs.variation else 0.0
        servers = fleet.servers()
        self._stations = {name: Station(name, servers[name]) for name in STATIONS}
        # Data-parallel learners share every batch: together they are one server that is as many times faster.
        self._stations["learner"].servers = 1
        self._env = Station("env", None)
        self._sim = Simulation()
        self._ahead = 0
        self._parked: deque[tuple[float, Process]] = deque()
        self._num_done = 0
        self._parked_s = self._ahead_s = self._ahead_since_s = 0.0
        self._processes: dict[int, Process] = {}
        for worker in range(fleet.workers):
            self._processes[worker] = self._worker(worker)
            # Workers of a fleet that runs are anywhere in their episodes.
            self._sim.start(self._processes[worker], delay_s=float(self._rng.uniform(0, costs.alone_s)))
        self._sim.is_measuring = False
        self._measured_s = measured_s
        self._sim.run(warm_up_s)
        self._sim.is_measuring = True
        self._begin_s = self._ahead_since_s = self._sim.now_s
        self._ahead_s = 0.0
        self._sim.run(warm_up_s + measured_s)
        self._count_ahead(0)

    def outcome(self) -> Outcome:
        """Sums, as rates."""
        rate = self._num_done / self._measured_s
        waiting = self._parked_s + sum(self._sim.now_s - max(since_s, self._begin_s) for since_s, _ in self._parked)
        used = {name: station.utilisation(self._measured_s) for name, station in self._stations.items()}
        return Outcome(
            episodes_per_s=rate,
            steps_per_s=rate * self._costs.steps_per_episode,
            utilisation=used | {"workers": self._env.busy_s / (self._fleet.workers * self._measured_s)},
            wait_s={name: station.mean_wait_s for name, station in self._stations.items()},
            age_s=self._ahead_s / self._num_done if self._num_done else float("inf"),
            limiter_share=waiting / (self._fleet.workers * self._measured_s),
        )

    def _random(self, mean_s: float) -> float:
        return float(self._rng.gamma(self._shape, mean_s / self._shape)) if self._shape else mean_s

    def _worker(self, worker: int) -> Process:
        costs, stations = self._costs, self._stations
        while True:
            if self._ahead >= self._fleet.max_ahead * self._fleet.workers:
                self._parked.append((self._sim.now_s, self._processes[worker]))
                yield None
            self._count_ahead(1)
            yield Visit(self._env, costs.reset_s)
            for call in range(costs.num_calls):
                if costs.policy_call_s:
                    yield Visit(stations["policy"], costs.policy_call_s)
                steps = min(costs.chunk_steps, costs.steps_per_episode - call * costs.chunk_steps)
                yield Visit(self._env, self._random(steps * costs.env_step_s))
            yield Visit(stations["store"], costs.episode_mb / self._fleet.store_mb_per_s)
            yield Visit(self._env, costs.commit_s)
            self._sim.start(self._learning())

    def _learning(self) -> Process:
        costs, stations, rate = self._costs, self._stations, self._fleet.store_mb_per_s
        yield Visit(stations["store"], costs.episode_mb / rate)
        yield Visit(stations["value"], self._random((costs.steps_per_episode + 1) * costs.value_observation_s))
        samples = costs.steps_per_episode * costs.samples_per_step
        yield Visit(stations["store"], samples * costs.cache_miss * costs.sample_mb / rate)
        yield Visit(stations["learner"], samples * costs.learner_sample_s / self._fleet.learners)
        self._count_ahead(-1)
        self._num_done += self._sim.is_measuring
        if self._parked:
            since_s, process = self._parked.popleft()
            if self._sim.is_measuring:
                self._parked_s += self._sim.now_s - max(since_s, self._begin_s)
            self._sim.wake(process)

    def _count_ahead(self, change: int) -> None:
        self._ahead_s += self._ahead * (self._sim.now_s - self._ahead_since_s)
        self._ahead_since_s = self._sim.now_s
        self._ahead += change


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a part costs an hour; inputs, in any currency."""

    worker_hour: float
    policy_hour: float
    value_hour: float
    learner_hour: float
    store_hour: float

    def per_million_steps(self, fleet: Fleet, steps_per_s: float) -> float:
        """Of a million environment steps, played, labelled and learned from."""
        hourly = (
            fleet.workers * self.worker_hour
            + fleet.policy_replicas * self.policy_hour
            + fleet.value_replicas * self.value_hour
            + fleet.learners * self.learner_hour
            + fleet.stores * self.store_hour
        )
        return hourly * 1e6 / (steps_per_s * 3600)


def balanced(costs: Costs, workers: int, *, store_mb_per_s: float, load: float = 0.7) -> Fleet:
    """The smallest fleet in which no replica is busy for more than ``load`` of its time when ``workers`` play unhindered."""
    demands = costs.demands(store_mb_per_s)
    rate = workers / (costs.alone_s + demands["policy"])
    needed = {name: max(1, int(np.ceil(rate * demand / load))) for name, demand in demands.items()}
    return Fleet(
        workers=workers,
        policy_replicas=needed["policy"],
        value_replicas=needed["value"],
        learners=needed["learner"],
        stores=needed["store"],
        store_mb_per_s=store_mb_per_s,
    )
