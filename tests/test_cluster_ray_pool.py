from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from distributed_fakes import FakeRunner, FileEpisodes, importable_by_workers

from cluster.local_pool import LocalRolloutPool
from cluster.placement import PlacementConfig
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from core.errors import ConfigError, WorkerError
from replay.episode_store import EpisodeStore

pytest.importorskip("ray")
from cluster.launch import RayConfig
from cluster.ray_pool import RayRolloutPool

POLICY_1, POLICY_2 = (PolicyCheckpoint(version=v, path=f"/runs/policy_{v}") for v in (1, 2))


def test_a_running_cluster_has_its_own_numbers():
    with pytest.raises(ConfigError, match=r"num_cpus=2.*address='auto'"):
        RayConfig(address="auto", num_cpus=2)
    with pytest.raises(ConfigError, match="object_store_mb is 10"):
        RayConfig(object_store_mb=10)


@pytest.fixture(scope="module")
def cluster(request):
    with importable_by_workers():
        yield request.getfixturevalue("ray_cluster")


@pytest.fixture
def make_pool(cluster, tmp_path):
    pools = []

    def make(*, episode_timeout_s=600.0, **sink_options):
        placement = PlacementConfig(num_rollout_workers=2, cpus_per_rollout_worker=0.5, episode_timeout_s=episode_timeout_s)
        sink = functools.partial(FileEpisodes, tmp_path, **sink_options)
        pools.append(RayRolloutPool(FakeRunner, sink, FileEpisodes(tmp_path), placement))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def specs(seeds, **options):
    return [EpisodeSpec(seed=s, options=options) for s in seeds]


@pytest.mark.ray
def test_the_same_seeds_give_the_same_episodes_as_in_one_process(make_pool, tmp_path):
    local_root = tmp_path / "local"
    local_root.mkdir()
    local = LocalRolloutPool(FakeRunner, functools.partial(FileEpisodes, local_root))
    seen = []
    here = list(local.collect(specs(range(8)), policy=POLICY_1))
    there = list(make_pool().collect(specs(range(8)), policy=POLICY_1, on_episode=seen.append))
    assert there == seen
    assert len({report.worker for report in there}) == 2
    columns = ("seed", "end", "num_steps", "policy_version", "num_attempts")
    rows = [sorted(tuple(str(getattr(r, c)) for c in columns) for r in reports) for reports in (here, there)]
    assert rows[0] == rows[1]
    without_ids = [[{**line, "id": ""} for line in FileEpisodes(root).committed()] for root in (local_root, tmp_path)]
    assert without_ids[0] == without_ids[1]


@pytest.mark.ray
def test_new_weights_play_from_the_next_episode_on(make_pool):
    asked = itertools.chain([POLICY_1] * 3, itertools.repeat(POLICY_2))
    reports = list(make_pool().collect(specs(range(6)), policy=lambda: next(asked)))
    assert sorted(report.policy_version for report in reports) == [1, 1, 1, 2, 2, 2]


@pytest.mark.ray
def test_a_worker_killed_in_mid_episode_is_replaced_and_its_episode_begun_again(make_pool, tmp_path, caplog):
    wanted = [*specs([0, 1]), *specs([2], kill_once=str(tmp_path / "killed")), *specs([3, 4, 5])]
    reports = list(make_pool().collect(wanted, policy=POLICY_1))
    assert sorted(report.seed for report in reports) == [0, 1, 2, 3, 4, 5]
    assert {report.seed: report.num_attempts for report in reports}[2] == 2
    assert [line["seed"] for line in FileEpisodes(tmp_path).committed()] == [0, 1, 2, 3, 4, 5]
    assert len({report.worker for report in reports}) == 3
    assert "seed 2) begins again" in caplog.text


@pytest.mark.ray
def test_a_worker_that_hangs_is_killed_and_its_episode_begun_again(make_pool, tmp_path, caplog):
    pool = make_pool(episode_timeout_s=3.0)
    before = pool.worker_pids()
    wanted = [*specs([0]), *specs([1], hang_once=str(tmp_path / "hung")), *specs([2, 3])]
    reports = list(pool.collect(wanted, policy=POLICY_1))
    assert {report.seed: report.num_attempts for report in reports} == {0: 1, 1: 2, 2: 1, 3: 1}
    assert [line["seed"] for line in FileEpisodes(tmp_path).committed()] == [0, 1, 2, 3]
    assert "hangs: no episode within 3 s (execution.episode_timeout_s)" in caplog.text
    (hung,) = set(before) - set(pool.worker_pids())
    for _ in range(100):
        if not _is_running(hung):
            return
        time.sleep(0.1)
    pytest.fail(f"the hung worker {hung} was left in memory")


def _is_running(pid):
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.ray
def test_a_worker_killed_from_outside_leaves_nothing_partial(make_pool, tmp_path):
    pool = make_pool()
    victim, *_ = pool.worker_pids()
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    reports = list(pool.collect(specs(range(4), delay_s=0.5), policy=POLICY_1))
    timer.join()
    assert max(report.num_attempts for report in reports) == 2
    assert {line["id"] for line in FileEpisodes(tmp_path).committed()} == {report.episode_id for report in reports}
    assert victim not in pool.worker_pids()


@pytest.mark.ray
def test_a_worker_killed_after_its_commit_is_not_asked_again(make_pool, tmp_path, caplog):
    pool = make_pool(kill_after_append=tmp_path / "killed")
    reports = list(pool.collect(specs(range(4)), policy=POLICY_1))
    assert sorted(report.seed for report in reports) == [0, 1, 2, 3]
    assert {line["id"] for line in FileEpisodes(tmp_path).committed()} == {report.episode_id for report in reports}
    assert all(report.num_attempts == 1 and report.num_steps == 3 + report.seed % 5 for report in reports)
    assert "its episode was committed" in caplog.text


@pytest.mark.ray
def test_an_episode_that_kills_every_worker_is_given_up_and_the_pool_lives(make_pool):
    pool = make_pool()
    with pytest.raises(WorkerError, match="seed 7 has killed 2 workers"):
        list(pool.collect(specs([7], kill=True), policy=POLICY_1))
    assert len(list(pool.collect(specs(range(3)), policy=POLICY_1))) == 3


@pytest.mark.ray
def test_errors_of_the_environment_come_back_as_themselves(make_pool):
    with pytest.raises(ConfigError, match="no such task"):
        list(make_pool().collect(specs([0], error="no such task"), policy=POLICY_1))


@pytest.mark.ray
def test_the_others_go_on_where_failures_are_taken(make_pool):
    failed = {}
    wanted = [*specs([1]), *specs([2], crash="the simulator is gone"), *specs([3], kill=True), *specs([4])]
    reports = make_pool().collect(wanted, policy=POLICY_1, on_failure=lambda spec, error: failed.update({spec.seed: str(error)}))
    assert sorted(report.seed for report in reports) == [1, 4]
    assert sorted(failed) == [2, 3]
    assert "failed: RuntimeError: the simulator is gone" in failed[2]


@pytest.mark.ray
def test_leaving_early_drops_what_is_in_progress(make_pool, tmp_path):
    pool = make_pool()
    wanted = [*specs([0]), *specs(itertools.islice(itertools.count(1), 50), delay_s=30.0)]
    collecting = pool.collect(wanted, policy=POLICY_1)
    assert next(collecting).seed == 0
    collecting.close()
    assert [line["seed"] for line in FileEpisodes(tmp_path).committed()] == [0]
    assert [report.seed for report in pool.collect(specs([9]), policy=POLICY_1)] == [9]


@pytest.mark.ray
def test_ctrl_c_drops_what_is_in_progress(make_pool, tmp_path):
    pool = make_pool()

    def press(report):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        list(pool.collect([*specs([0]), *specs([1, 2], delay_s=60.0)], policy=POLICY_1, on_episode=press))
    assert [line["seed"] for line in FileEpisodes(tmp_path).committed()] == [0]
    assert [report.seed for report in pool.collect(specs([9]), policy=POLICY_1)] == [9]


@pytest.mark.ray
def test_closing_ends_a_collection_in_another_thread(make_pool):
    pool, errors, begun = make_pool(), [], threading.Event()

    def collect():
        try:
            wanted = [*specs([0]), *specs([1, 2], delay_s=60.0)]
            list(pool.collect(wanted, policy=POLICY_1, on_episode=lambda report: begun.set()))
        except WorkerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=collect)
    thread.start()
    assert begun.wait(60)
    pool.close()
    thread.join(60)
    assert not thread.is_alive()
    assert errors == ["the rollout pool was closed while it was collecting"]


@pytest.mark.ray
def test_with_the_real_store_a_kill_leaves_whole_episodes_only(cluster, tmp_path):
    root = tmp_path / "replay"
    store = EpisodeStore(root, writer_name="reader")
    pool = RayRolloutPool(FakeRunner, functools.partial(EpisodeStore, root), store, PlacementConfig())
    wanted = [*specs(range(4)), *specs([4], kill_once=str(tmp_path / "killed")), *specs(range(5, 8))]
    reports = list(pool.collect(wanted, policy=POLICY_1))
    pool.close()
    store.refresh()
    assert sorted(report.seed for report in reports) == list(range(8))
    assert set(store.episode_ids()) == {report.episode_id for report in reports}
    for report in reports:
        episode = store.read(report.episode_id)
        assert (episode.provenance.seed, episode.num_steps, episode.end) == (report.seed, report.num_steps, report.end)


class Unbuildable:
    def __init__(self, name):
        raise ConfigError(f"{name}: no renderer")


@pytest.mark.ray
def test_errors_while_building_come_back_as_themselves(cluster, tmp_path):
    with pytest.raises(ConfigError, match="no renderer"):
        RayRolloutPool(Unbuildable, functools.partial(FileEpisodes, tmp_path), FileEpisodes(tmp_path), PlacementConfig())


class DiesUnbuilt(FakeRunner):
    """The first ``num_deaths`` workers die before they are built; each leaves a line."""

    def __init__(self, deaths, num_deaths, name):
        if (len(deaths.read_text().splitlines()) if deaths.exists() else 0) < num_deaths:
            with deaths.open("a") as file:
                file.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(name)


@pytest.fixture
def make_dying_pool(cluster, tmp_path):
    pools = []

    def make(num_deaths, **placement):
        runner = functools.partial(DiesUnbuilt, tmp_path / "deaths", num_deaths)
        placement = PlacementConfig(num_rollout_workers=1, hire_pause_s=0.01, **placement)
        pools.append(RayRolloutPool(runner, functools.partial(FileEpisodes, tmp_path), FileEpisodes(tmp_path), placement))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.mark.ray
def test_a_worker_that_dies_before_it_is_built_is_hired_again(make_dying_pool, tmp_path, caplog):
    reports = list(make_dying_pool(2, max_hires=3).collect(specs([0, 1]), policy=POLICY_1))
    died = (tmp_path / "deaths").read_text().splitlines()
    assert [name.split("-")[2] for name in died] == ["0", "1"]
    assert [report.worker.split("-")[2] for report in reports] == ["2", "2"]
    assert caplog.text.count("It was not built yet: another is hired") == 2


@pytest.mark.ray
def test_workers_that_all_die_before_they_are_built_are_given_up(make_dying_pool, tmp_path):
    with pytest.raises(WorkerError, match=r"2 workers hired one after the other .* the last time: rollout worker w0-\w+-1 died"):
        make_dying_pool(99, max_hires=2)
    assert len((tmp_path / "deaths").read_text().splitlines()) == 2


@pytest.mark.ray
def test_workers_that_do_not_fit_are_refused(cluster, tmp_path):
    placement = PlacementConfig(cpus_per_rollout_worker=64, start_timeout_s=0.5)
    with pytest.raises(WorkerError, match="Each needs 64 CPU, 0 GPU; the cluster has 2 CPU"):
        RayRolloutPool(FakeRunner, functools.partial(FileEpisodes, tmp_path), FileEpisodes(tmp_path), placement)


@pytest.mark.ray
def test_ray_listens_on_loopback_only_and_asks_for_its_token(cluster):
    import psutil
    import ray

    listening = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
            listening |= {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    address = ray.get_runtime_context().gcs_address
    code = f"from ray._raylet import GcsClient; print(len(GcsClient(address={address!r}).get_all_job_info()))"

    def ask(environment):
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)

    assert ask(os.environ).stdout.strip() == "1"
    without = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"} | {"RAY_AUTH_MODE": "disabled"}
    for stranger in (without, {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}):
        refused = ask(stranger)
        assert refused.returncode != 0
        assert "token" in refused.stderr
