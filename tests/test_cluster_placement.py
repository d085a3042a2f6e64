"""Where parts go, asked of Ray's own scheduler: several nodes on this machine that claim to have GPUs, robots, simulators."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed_fakes import FakeRunner, FileEpisodes, importable_by_workers

from cluster.parts import placement_of, value_deployment_of
from cluster.placement import PlacementConfig
from configs.schema import Execution, ExecutionConfig, WeightsPath
from core.errors import ConfigError, WorkerError

pytest.importorskip("ray")
import ray
from ray.cluster_utils import Cluster

from cluster import launch
from cluster.ray_pool import RayRolloutPool


@pytest.mark.ray  # imports Ray Serve, which takes seconds
def test_every_key_of_the_execution_reaches_its_part() -> None:
    execution = ExecutionConfig(
        mode=Execution.RAY,
        num_workers=3,
        cpus_per_worker=2.0,
        gpus_per_worker=0.25,
        worker_resource="simulation",
        is_spread=True,
        weights=WeightsPath.OBJECT,
        num_value_replicas=4,
        cpus_per_value_replica=1.5,
        gpus_per_value_replica=0.5,
        value_resource="value_service",
    )
    placement = placement_of(execution)
    assert (placement.num_rollout_workers, placement.cpus_per_rollout_worker, placement.gpus_per_rollout_worker) == (3, 2.0, 0.25)
    assert (placement.rollout_resource, placement.is_spread, placement.are_weights_carried) == ("simulation", True, True)
    service = value_deployment_of(execution)
    assert (service.num_replicas, service.cpus_per_replica, service.gpus_per_replica, service.resource) == (
        4,
        1.5,
        0.5,
        "value_service",
    )


@pytest.mark.parametrize("key", ["cpus_per_worker", "gpus_per_worker", "cpus_per_value_replica", "gpus_per_value_replica"])
def test_negative_shares_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is -1"):
        ExecutionConfig(**{key: -1.0})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head with nothing, a GPU node, and two simulation nodes; none of it exists but the CPUs' shares."""
    launch._keep_private()
    with importable_by_workers():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        cluster.add_node(num_cpus=2, num_gpus=1, resources={"learner": 1})
        for _ in range(2):
            cluster.add_node(num_cpus=2, resources={"simulation": 2, "robot_kitchen": 1})
        launch.start_ray(launch.RayConfig(address=cluster.address))
        yield cluster
        launch.stop_ray()
        cluster.shutdown()


def pool(folder: Path, **placement) -> RayRolloutPool:
    return RayRolloutPool(
        FakeRunner,
        functools.partial(FileEpisodes, folder),
        FileEpisodes(folder),
        PlacementConfig(start_timeout_s=60.0, **placement),
    )


def used(resource: str) -> list[float]:
    """A node, how much of a resource is taken, smallest first."""
    free = ray._private.state.available_resources_per_node()
    total = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    return sorted(total[node].get(resource, 0.0) - free[node].get(resource, 0.0) for node in total)


def settled(resource: str, expected: list[float]) -> bool:
    """Whether a resource comes to be taken so; the scheduler's numbers arrive a moment late."""
    deadline_s = time.monotonic() + 20
    while used(resource) != pytest.approx(expected) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return used(resource) == pytest.approx(expected)


@pytest.mark.ray
@pytest.mark.slow
def test_spread_uses_all_nodes_and_a_resource_only_those_that_offer_it(nodes: Cluster, tmp_path: Path) -> None:
    spread = pool(tmp_path, num_rollout_workers=4, cpus_per_rollout_worker=0.5, rollout_resource="simulation", is_spread=True)
    assert settled("simulation", [0, 0, 2, 2])
    assert settled("CPU", [0, 0, 1, 1])
    spread.close()
    robot = pool(tmp_path, num_rollout_workers=1, cpus_per_rollout_worker=0.5, rollout_resource="robot_kitchen")
    assert settled("robot_kitchen", [0, 0, 0, 1])
    robot.close()


@pytest.mark.ray
@pytest.mark.slow
def test_workers_share_a_gpu_until_it_is_full(nodes: Cluster, tmp_path: Path) -> None:
    four = pool(tmp_path, num_rollout_workers=4, cpus_per_rollout_worker=0.25, gpus_per_rollout_worker=0.25)
    assert settled("GPU", [0, 0, 0, 1])
    four.close()
    assert settled("GPU", [0, 0, 0, 0])
    with pytest.raises(WorkerError, match=r"Each needs 0\.25 CPU, 0\.5 GPU; the cluster has 6 CPU .* 1 GPU"):
        RayRolloutPool(
            FakeRunner,
            functools.partial(FileEpisodes, tmp_path),
            FileEpisodes(tmp_path),
            PlacementConfig(
                num_rollout_workers=3, cpus_per_rollout_worker=0.25, gpus_per_rollout_worker=0.5, start_timeout_s=15.0
            ),
        )
