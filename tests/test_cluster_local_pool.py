from __future__ import annotations

import functools
import itertools

import pytest
from distributed_fakes import FakeRunner, FileEpisodes

from cluster.local_pool import LocalRolloutPool
from cluster.placement import PlacementConfig
from cluster.rollout_host import EpisodeRequest, EpisodeSpec, PolicyCheckpoint, RolloutHost
from core.errors import ConfigError, WorkerError
from core.experience import Collection

POLICY_1, POLICY_2 = (PolicyCheckpoint(version=v, path=f"/runs/policy_{v}") for v in (1, 2))


@pytest.fixture
def pool(tmp_path):
    pool = LocalRolloutPool(FakeRunner, functools.partial(FileEpisodes, tmp_path))
    yield pool
    pool.close()


def test_reports_say_what_was_committed(pool, tmp_path):
    seen = []
    specs = [EpisodeSpec(seed=s, collection=Collection.EVALUATION) for s in (5, 3, 4)]
    reports = list(pool.collect(specs, policy=POLICY_1, on_episode=seen.append))
    assert reports == seen
    assert [report.seed for report in reports] == [5, 3, 4]
    lines = FileEpisodes(tmp_path).committed()
    assert {line["id"]: (line["num_steps"], line["policy_version"], line["collection"]) for line in lines} == {
        report.episode_id: (3 + report.seed % 5, 1, "evaluation") for report in reports
    }
    assert all(report.is_success and report.num_attempts == 1 and report.wall_s > 0 for report in reports)


def test_each_episode_is_committed_before_it_is_reported(pool, tmp_path):
    for count, _ in enumerate(pool.collect([EpisodeSpec(seed=s) for s in range(3)], policy=POLICY_1), start=1):
        assert len(FileEpisodes(tmp_path).committed()) == count


def test_a_new_policy_plays_from_the_next_episode_on(pool):
    versions = iter([POLICY_1, POLICY_1, POLICY_2, POLICY_2])
    reports = list(pool.collect([EpisodeSpec(seed=s) for s in range(4)], policy=lambda: next(versions)))
    assert [report.policy_version for report in reports] == [1, 1, 2, 2]


def test_weights_are_loaded_only_when_they_change(tmp_path):
    class Counting(FakeRunner):
        num_loads = 0

        def load_policy(self, path):
            Counting.num_loads += 1
            super().load_policy(path)

    pool = LocalRolloutPool(Counting, functools.partial(FileEpisodes, tmp_path))
    for policy in (POLICY_1, POLICY_1, POLICY_2, POLICY_1):
        list(pool.collect([EpisodeSpec(seed=0), EpisodeSpec(seed=1)], policy=policy))
    assert Counting.num_loads == 3


def test_episodes_may_be_endless(pool):
    specs = (EpisodeSpec(seed=s) for s in itertools.count())
    reports = list(itertools.islice(pool.collect(specs, policy=POLICY_1), 5))
    assert [report.seed for report in reports] == [0, 1, 2, 3, 4]


def test_a_worker_may_have_its_own_policy(pool, tmp_path):
    (report,) = pool.collect([EpisodeSpec(seed=0, collection=Collection.DEMONSTRATION)], policy=None)
    assert report.policy_version == -1
    assert FileEpisodes(tmp_path).committed()[0]["policy_version"] == -1


def test_a_policy_that_is_not_the_one_asked_for_is_refused_and_not_committed(tmp_path):
    host = RolloutHost(FakeRunner, functools.partial(FileEpisodes, tmp_path), "worker0")
    mislabelled = PolicyCheckpoint(version=2, path="/runs/policy_1")
    with pytest.raises(WorkerError, match=r"played policy version 1; .*version=2"):
        host.run(EpisodeRequest(spec=EpisodeSpec(seed=0), policy=mislabelled))
    assert not FileEpisodes(tmp_path).committed()


def test_errors_of_the_environment_come_through(pool):
    with pytest.raises(ConfigError, match="no such task"):
        list(pool.collect([EpisodeSpec(seed=0, options={"error": "no such task"})], policy=POLICY_1))


def test_closing_frees_the_environment(tmp_path):
    runners = []

    def make_runner(name):
        runners.append(FakeRunner(name))
        return runners[0]

    LocalRolloutPool(make_runner, functools.partial(FileEpisodes, tmp_path), name="solo").close()
    assert runners[0].is_closed
    assert runners[0].name == "solo"


def test_checkpoint_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PolicyCheckpoint.of(1, "runs/policy_1").path == str(tmp_path / "runs/policy_1")


@pytest.mark.parametrize(
    "bad",
    [
        {"num_rollout_workers": 0},
        {"cpus_per_rollout_worker": -1.0},
        {"max_episode_retries": -1},
        {"max_hires": 0},
        {"hire_pause_s": -0.5},
    ],
)
def test_impossible_placements_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PlacementConfig(**bad)


def test_a_crash_is_tried_again_on_a_fresh_worker_and_then_told(tmp_path):
    class Fragile(FakeRunner):
        names = ()

        def __init__(self, name):
            super().__init__(name)
            Fragile.names += (name,)

        def run_episode(self, seed, *, collection, options):
            if seed == 8 and len(Fragile.names) == 1:
                raise RuntimeError("out of handles")
            return super().run_episode(seed, collection=collection, options=options)

    pool = LocalRolloutPool(Fragile, functools.partial(FileEpisodes, tmp_path), name="w")
    failed = []
    specs = [EpisodeSpec(seed=7), EpisodeSpec(seed=8), EpisodeSpec(seed=9, options={"crash": "gone"}), EpisodeSpec(seed=10)]
    reports = list(pool.collect(specs, policy=POLICY_1, on_failure=lambda spec, error: failed.append((spec.seed, str(error)))))
    assert {report.seed: report.num_attempts for report in reports} == {7: 1, 8: 2, 10: 1}
    assert Fragile.names == ("w", "w-1", "w-2", "w-3")
    assert failed == [(9, "the episode with seed 9 failed on 2 workers, the last time with RuntimeError: gone")]
    with pytest.raises(WorkerError, match="seed 9 failed on 2 workers"):
        list(pool.collect([EpisodeSpec(seed=9, options={"crash": "gone"})], policy=POLICY_1))
