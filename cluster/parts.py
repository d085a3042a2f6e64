"""The parts of a run, assembled in the order that data flows: store, labels, rollout pool, value client.

``local`` and ``ray`` build the same things from the same configuration, one function each, side by side; Ray is imported
in the second only.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.local_pool import LocalRolloutPool
from cluster.observed import ObservedLabelling, ObservedPool
from cluster.placement import PlacementConfig
from cluster.process_pool import ProcessRolloutPool
from cluster.robot_pool import RobotAndSimulationPool
from cluster.rollout_host import CommittedEpisodes, MakeRunner, MakeSink, RolloutPool
from configs.build import ROBOT, load_value_model, open_joined, runner_factory, sink_factory, twin_factory
from configs.schema import EpisodeWriters, Execution, ExecutionConfig, ExperimentConfig, WeightsPath
from learners.joined_store import JoinedStore
from replay.garbage import collect_leftovers
from replay.label_store import LabelStore
from value_service.client import Labelling, ValueClient
from value_service.labeler import VersionedLabeler
from value_service.local_client import LocalValueClient

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from value_service.deployment import DeploymentConfig

_PERSONS_PATIENCE_S = 7 * 86400.0
"""A robot's episode waits for a person, who may have gone home."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the phases of a run work with."""

    store: JoinedStore
    """All experience that the run may read; its own store is the first."""
    labels: LabelStore
    pool: RolloutPool
    """Plays, and commits to the run's own store."""
    values: Labelling
    """Labels episodes of ``store`` into ``labels``."""
    open_store: Callable[[], JoinedStore]
    """Opens ``store`` once more, in another process; picklable."""


def open_parts(config: ExperimentConfig, *, run: str, stores: Sequence[Path], labels: Path) -> AbstractContextManager[Parts]:
    """Build the parts where the configuration says; closing takes all workers down.

    Args:
        config: of the run.
        run: its name, recorded in every episode.
        stores: folders of replay stores, the run's own first.
        labels: folder of the label store.
    """
    build = {Execution.LOCAL: _local, Execution.RAY: _ray}[config.execution.mode]
    return _tidied(stores[0], build(config, run, tuple(stores), labels))


@contextmanager
def _tidied(store: Path, parts: AbstractContextManager[Parts]) -> Iterator[Parts]:
    """Before and after a run, remove what workers that were killed in the middle of a commit have left in its store."""
    _collect_leftovers(store)
    try:
        with parts as opened:
            yield opened
    finally:
        _collect_leftovers(store)


def _collect_leftovers(store: Path) -> None:
    report = collect_leftovers(store)
    if report.removed:
        _log.warning("removed %d unfinished episodes of dead workers from %s", len(report.removed), store)


@contextmanager
def open_pool(
    config: ExperimentConfig, make_runner: MakeRunner, make_sink: MakeSink, committed: CommittedEpisodes
) -> Iterator[RolloutPool]:
    """Rollout workers alone, for episodes that nobody learns from; arguments as those of ``RayRolloutPool``."""
    if config.execution.mode is Execution.LOCAL:
        pool = _local_pool(config.execution, make_runner, make_sink)
        try:
            yield pool
        finally:
            pool.close()
        return
    from cluster.launch import stop_ray

    placement = _started_ray(config.execution, num_others=0)
    from cluster.ray_pool import RayRolloutPool

    try:
        pool = RayRolloutPool(make_runner, make_sink, committed, placement)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        stop_ray()


def _local_pool(execution: ExecutionConfig, make_runner: MakeRunner, make_sink: MakeSink) -> RolloutPool:
    if execution.num_workers == 0:
        return LocalRolloutPool(make_runner, make_sink, name=f"w0-{uuid.uuid4().hex[:8]}")
    return ProcessRolloutPool(
        make_runner, make_sink, num_workers=execution.num_workers, episode_timeout_s=execution.episode_timeout_s
    )


def _local_rollouts(config: ExperimentConfig, run: str, root: Path) -> RolloutPool:
    """All that play for a run: simulated workers; or one for the robot, and where it has a twin those beside it."""
    make_runner, make_sink = runner_factory(config, run), sink_factory(config, root)
    if config.env.family != ROBOT:
        return _local_pool(config.execution, make_runner, make_sink)
    make_twin = twin_factory(config, run)
    simulation = None if make_twin is None else _local_pool(config.execution, make_twin, make_sink)
    try:
        robot = ProcessRolloutPool(
            make_runner,
            make_sink,
            num_workers=1,
            max_episode_retries=0,
            episode_timeout_s=_PERSONS_PATIENCE_S,
        )
    except BaseException:
        if simulation is not None:
            simulation.close()
        raise
    if simulation is None:
        return robot
    return RobotAndSimulationPool(robot, simulation, simulated_fraction=config.env.robot.twin.rollout_fraction)


def placement_of(execution: ExecutionConfig) -> PlacementConfig:
    """What rollout workers occupy, and how weights reach them."""
    return PlacementConfig(
        num_rollout_workers=execution.num_workers,
        cpus_per_rollout_worker=execution.cpus_per_worker,
        gpus_per_rollout_worker=execution.gpus_per_worker,
        rollout_resource=execution.worker_resource,
        is_spread=execution.is_spread,
        episode_timeout_s=execution.episode_timeout_s,
        are_weights_carried=execution.weights is WeightsPath.OBJECT,
    )


def value_deployment_of(execution: ExecutionConfig) -> DeploymentConfig:
    """What replicas of the value service occupy."""
    from value_service.deployment import DeploymentConfig

    return DeploymentConfig(
        num_replicas=execution.num_value_replicas,
        cpus_per_replica=execution.cpus_per_value_replica,
        gpus_per_replica=execution.gpus_per_value_replica,
        resource=execution.value_resource,
    )


def _started_ray(execution: ExecutionConfig, *, num_others: float) -> PlacementConfig:
    """Start Ray, or join it, with room for the rollout workers and CPUs for ``num_others`` more parts."""
    from cluster.launch import RayConfig, start_ray

    placement = placement_of(execution)
    cpus = execution.ray_num_cpus
    if execution.ray_address is None and cpus is None:  # also on a machine with fewer cores
        cpus = math.ceil(placement.num_rollout_workers * placement.cpus_per_rollout_worker + num_others)
    start_ray(RayConfig(address=execution.ray_address, num_cpus=cpus, metrics_port=execution.ray_metrics_port))
    return placement


@contextmanager
def _local(config: ExperimentConfig, run: str, stores: tuple[Path, ...], labels: Path) -> Iterator[Parts]:
    store = open_joined(config, stores)
    label_store = LabelStore(labels)
    pool = _local_rollouts(config, run, stores[0])
    values = LocalValueClient(VersionedLabeler(load_value_model, config.labeler), store, label_store)
    try:
        yield Parts(
            store=store,
            labels=label_store,
            pool=ObservedPool(pool, store),
            values=ObservedLabelling(values),
            open_store=functools.partial(open_joined, config, stores),
        )
    finally:
        values.close()
        pool.close()
        store.close()
        label_store.close()


@contextmanager
def _ray(config: ExperimentConfig, run: str, stores: tuple[Path, ...], labels: Path) -> Iterator[Parts]:
    from cluster.launch import stop_ray

    execution = config.execution
    num_others = execution.num_value_replicas * max(1.0, execution.cpus_per_value_replica) + (
        2 if config.env.family == ROBOT else 1
    )
    placement = _started_ray(execution, num_others=num_others)
    from cluster.metrics import metrics_of
    from value_service.deployment import start_value_service, stop_value_service

    stores, labels = tuple(path.absolute() for path in stores), labels.absolute()  # workers have their own working directory
    store = open_joined(config, stores)
    label_store = LabelStore(labels)
    try:
        open_store = functools.partial(open_joined, config, stores)
        pool = _ray_rollouts(config, run, store, placement, stores[0])
        endpoint = start_value_service(
            load_value_model,
            open_store,
            config.labeler,
            value_deployment_of(execution),
        )
        values = ValueClient(endpoint, label_store)
        try:
            with metrics_of(run):
                yield Parts(
                    store=store,
                    labels=label_store,
                    pool=ObservedPool(pool, store),
                    values=ObservedLabelling(values),
                    open_store=open_store,
                )
        finally:
            values.close()
            pool.close()
            stop_value_service()
            store.close()
            label_store.close()
    finally:
        stop_ray()


def _ray_rollouts(config: ExperimentConfig, run: str, store: JoinedStore, placement: PlacementConfig, root: Path) -> RolloutPool:
    """As :func:`_local_rollouts`, of Ray actors; the robot's is placed on its host, and never restarted."""
    from cluster.episode_writer import start_writer
    from cluster.ray_pool import RayRolloutPool

    make_runner: MakeRunner = runner_factory(config, run)
    make_sink: MakeSink = sink_factory(config, root)
    if config.execution.writer is EpisodeWriters.ACTOR:
        make_sink = start_writer(make_sink)
    if config.env.family != ROBOT:
        return RayRolloutPool(make_runner, make_sink, store, placement)
    at_robot = dataclasses.replace(
        placement,
        num_rollout_workers=1,
        rollout_resource=config.env.robot.ray_resource,
        max_episode_retries=0,
        episode_timeout_s=_PERSONS_PATIENCE_S,
    )
    make_twin = twin_factory(config, run)
    robot = RayRolloutPool(make_runner, make_sink, store, at_robot)
    if make_twin is None:
        return robot
    try:
        simulation = RayRolloutPool(make_twin, make_sink, store, placement)
    except BaseException:
        robot.close()
        raise
    return RobotAndSimulationPool(robot, simulation, simulated_fraction=config.env.robot.twin.rollout_fraction)
