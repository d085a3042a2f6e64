"""A robot and its simulated twins in one pool: who plays what, with which policy, and what ends it."""

from __future__ import annotations

import itertools
import threading

import pytest

from cluster.robot_pool import RobotAndSimulationPool
from cluster.rollout_host import EpisodeReport, EpisodeSpec, PolicyCheckpoint, current_policy
from core.errors import WorkerError
from core.experience import Collection, EpisodeEnd

POLICY = PolicyCheckpoint(version=3, path="three")


class Pool:
    """Plays in no time; ``fails`` on a seed; ``gate``: waits for it before every episode."""

    def __init__(self, name, *, fails=None, gate=None):
        self.name, self.fails, self.gate = name, fails, gate
        self.played, self.is_closed = [], threading.Event()

    def collect(self, episodes, *, policy, on_episode=None, on_failure=None):
        for spec in episodes:
            asked = current_policy(policy)
            if self.gate is not None:
                self.gate.wait(10)
            if self.is_closed.is_set():
                raise WorkerError("closed")
            if spec.seed == self.fails:
                raise WorkerError(f"seed {spec.seed} failed")
            self.played.append((spec, asked))
            yield EpisodeReport(
                episode_id=f"{self.name}-{spec.seed}",
                seed=spec.seed,
                end=EpisodeEnd.SUCCESS,
                num_steps=1,
                policy_version=asked.version if asked else -1,
                worker=self.name,
                wall_s=0.0,
            )

    def close(self):
        self.is_closed.set()
        if self.gate is not None:
            self.gate.set()


def both(fraction=0.5, **robot):
    pools = Pool("robot", **robot), Pool("simulation")
    return *pools, RobotAndSimulationPool(*pools, simulated_fraction=fraction)


def specs(seeds, collection=Collection.ROLLOUT):
    return [EpisodeSpec(seed=seed, collection=collection) for seed in seeds]


def test_rollouts_are_shared_by_their_seeds_and_nothing_is_lost():
    robot, simulation, pool = both()
    told = []
    reports = list(pool.collect(specs(range(100)), policy=POLICY, on_episode=told.append))
    assert sorted(report.seed for report in reports) == list(range(100))
    assert told == reports
    shares = [sorted(spec.seed for spec, _ in side.played) for side in (robot, simulation)]
    assert 35 < len(shares[0]) < 65
    again_robot, _, again = both()
    list(again.collect(specs(reversed(range(100))), policy=POLICY))
    assert sorted(spec.seed for spec, _ in again_robot.played) == shares[0]
    assert {policy for side in (robot, simulation) for _, policy in side.played} == {POLICY}


@pytest.mark.parametrize("collection", [Collection.EVALUATION, Collection.DEMONSTRATION])
def test_evaluations_and_demonstrations_are_the_robots(collection):
    robot, simulation, pool = both(fraction=1.0)
    list(pool.collect(specs(range(5), collection), policy=None))
    assert [spec.seed for spec, _ in robot.played] == list(range(5))
    assert {policy for _, policy in robot.played} == {None}
    assert simulation.played == []


def test_a_spec_keeps_the_policy_that_was_newest_when_it_was_taken():
    versions = {}

    def endless():
        for seed in itertools.count():
            if seed == 40:
                return
            versions[seed] = PolicyCheckpoint(version=seed, path=str(seed))
            newest.append(versions[seed])
            yield EpisodeSpec(seed=seed)

    newest = []
    robot, simulation, pool = both()
    list(pool.collect(endless(), policy=lambda: newest[-1]))
    assert all(policy == versions[spec.seed] for side in (robot, simulation) for spec, policy in side.played)


def test_a_failure_ends_both_and_closes_them():
    gate = threading.Event()
    robot, simulation, pool = both(fraction=0.5, gate=gate)
    simulated = next(seed for seed in range(100) if pool._side_of(EpisodeSpec(seed=seed)).value == "simulation")
    simulation.fails = simulated
    with pytest.raises(WorkerError, match=f"seed {simulated} failed"):
        list(pool.collect(specs(range(100)), policy=POLICY))
    assert robot.is_closed.is_set()
    assert robot.played == []


def test_a_caller_who_stops_early_stops_both():
    robot, _, pool = both(gate=threading.Event())
    reports = pool.collect(specs(range(100)), policy=POLICY)
    assert next(reports).worker == "simulation"
    reports.close()
    assert robot.is_closed.is_set()
    assert robot.played == []
