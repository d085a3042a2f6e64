"""Worker processes of this machine: episodes are committed, deaths are survived, errors come back as themselves."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed_fakes import FakeRunner, FileEpisodes

from cluster.process_pool import ProcessRolloutPool
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from core.errors import ConfigError, WorkerError

POLICY = PolicyCheckpoint(version=1, path="/runs/policy_1")
pytestmark = pytest.mark.slow


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ProcessRolloutPool]:
    pool = ProcessRolloutPool(FakeRunner, functools.partial(FileEpisodes, tmp_path), num_workers=1)
    yield pool
    pool.close()


def test_a_worker_that_dies_is_replaced_and_what_it_raises_is_raised_here(pool: ProcessRolloutPool, tmp_path: Path) -> None:
    specs = [EpisodeSpec(seed=1), EpisodeSpec(seed=2, options={"kill_once": str(tmp_path / "killed")}), EpisodeSpec(seed=3)]
    reports = list(pool.collect(specs, policy=POLICY))
    assert {report.seed: report.num_attempts for report in reports} == {1: 1, 2: 2, 3: 1}
    assert sorted(line["seed"] for line in FileEpisodes(tmp_path).committed()) == [1, 2, 3]
    with pytest.raises(ConfigError, match="no such task"):
        list(pool.collect([EpisodeSpec(seed=4, options={"error": "no such task"})], policy=POLICY))
    with pytest.raises(WorkerError, match=r"seed 5 has killed 2 workers, the last time by signal SIGKILL.*fewer workers"):
        list(pool.collect([EpisodeSpec(seed=5, options={"kill": True})], policy=POLICY))
    assert [report.seed for report in pool.collect([EpisodeSpec(seed=6)], policy=POLICY)] == [6]
    assert sorted(line["seed"] for line in FileEpisodes(tmp_path).committed()) == [1, 2, 3, 6]


def test_closing_ends_the_processes(pool: ProcessRolloutPool) -> None:
    pids = pool.worker_pids()
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_others_go_on_where_failures_are_taken(pool: ProcessRolloutPool, tmp_path: Path) -> None:
    failed: dict[int, str] = {}
    specs = [EpisodeSpec(seed=1), EpisodeSpec(seed=2, options={"crash": "the simulator is gone"}), EpisodeSpec(seed=3)]
    reports = list(pool.collect(specs, policy=POLICY, on_failure=lambda spec, error: failed.update({spec.seed: str(error)})))
    assert [report.seed for report in reports] == [1, 3]
    assert "killed 2 workers, the last time by RuntimeError: the simulator is gone" in failed[2]
    specs = [EpisodeSpec(seed=4, options={"kill": True}), EpisodeSpec(seed=5)]
    reports = list(pool.collect(specs, policy=POLICY, on_failure=lambda spec, error: failed.update({spec.seed: str(error)})))
    assert [report.seed for report in reports] == [5]
    assert sorted(failed) == [2, 4]


def test_a_worker_that_hangs_is_killed_and_its_episode_begun_again(tmp_path: Path) -> None:
    pool = ProcessRolloutPool(FakeRunner, functools.partial(FileEpisodes, tmp_path), num_workers=1, episode_timeout_s=15.0)
    (before,) = pool.worker_pids()
    specs = [EpisodeSpec(seed=1), EpisodeSpec(seed=2, options={"hang_once": str(tmp_path / "hung")}), EpisodeSpec(seed=3)]
    try:
        reports = list(pool.collect(specs, policy=POLICY))
        assert {report.seed: report.num_attempts for report in reports} == {1: 1, 2: 2, 3: 1}
        with pytest.raises(ProcessLookupError):
            os.kill(before, 0)
    finally:
        pool.close()
